// The comparison's plots: curves that are read by pointing or by the arrow keys, maps of attention and of embeddings.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);

function svgElement(name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function element(name, attributes = {}, ...content) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...content);
  return made;
}

function short(number) {
  for (const [size, unit] of [[1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]])
    if (Math.abs(number) >= size) return Number((number / size).toPrecision(3)) + unit;
  return String(Number(number.toPrecision(4))).replace("-", "−");
}

function precise(number) {
  return Math.abs(number) >= 1e4 ? short(number) : String(Number(number.toPrecision(Math.abs(number) < 1 ? 3 : 5))).replace("-", "−");
}

// Three to eight round numbers from low to high.
function ticks(low, high) {
  const size = 10 ** Math.floor(Math.log10((high - low) / 3 || 1));
  const step = [1, 2, 5, 10].map((n) => n * size).find((s) => (high - low) / s <= 7) ?? size;
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high * (1 + 1e-12); i++) found.push(Number((i * step).toPrecision(12)));
  return found;
}

class Chart {
  constructor(root) {
    this.root = root;
    this.metric = data.metric in data.curves ? data.metric : Object.keys(data.curves)[0];
    this.axis = data.axis;
    this.hidden = new Set();
    this.start = 0;
    this.minus = false;
    this.place = null;
    this.note = element("div", { class: "note", hidden: "", "aria-live": "polite" });
    this.controls();
    root.addEventListener("pointermove", (event) => this.point(event));
    root.addEventListener("pointerdown", (event) => this.point(event));
    root.addEventListener("pointerleave", () => this.read(null));
    root.addEventListener("blur", () => this.read(null));
    root.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.draw()).observe(root);
  }

  controls() {
    const select = document.getElementById("metric");
    for (const metric of Object.keys(data.curves)) select.append(element("option", { value: metric }, metric));
    select.value = this.metric;
    select.addEventListener("change", () => { this.metric = select.value; this.draw(); });
    this.axes = document.getElementById("axes");
    for (const [axis, name] of Object.entries(data.axes)) {
      if (!Object.values(data.curves).some((bands) => bands.some((band) => band && axis in band.x))) continue;
      const button = element("button", { type: "button", "data-axis": axis }, name);
      button.addEventListener("click", () => { this.axis = axis; this.draw(); });
      this.axes.append(button);
    }
    const minus = document.getElementById("minus");
    minus.addEventListener("change", () => { this.minus = minus.checked; this.draw(); });
    const from = document.getElementById("from");
    from.addEventListener("input", () => { this.start = from.value / 100; this.draw(); });
    for (const chip of document.querySelectorAll(".chip")) {
      chip.addEventListener("click", () => {
        const number = Number(chip.dataset.variant);
        if (!this.hidden.delete(number)) this.hidden.add(number);
        chip.setAttribute("aria-pressed", String(!this.hidden.has(number)));
        this.draw();
      });
    }
  }

  // The curves that are shown, from the chosen start on: {number, x, mean, low, high, wide}.
  shown() {
    const curves = data.curves[this.metric]
      .map((curve, number) => ({ ...curve, number }))
      .filter((curve) => curve.runs && this.axis in curve.x && !this.hidden.has(curve.number));
    const end = Math.max(...curves.map((curve) => curve.x[this.axis].at(-1)));
    return curves.map((curve) => {
      const x = curve.x[this.axis], runs = this.minus ? this.differences(curve) : curve.runs;
      const first = Math.max(0, Math.min(x.findIndex((place) => place >= this.start * end), x.length - 2));
      const over = (reduce) => x.map((_, i) => reduce(runs.map((run) => run[i]))).slice(this.start ? first : 0);
      return {
        number: curve.number,
        x: x.slice(this.start ? first : 0),
        mean: over((values) => values.reduce((a, b) => a + b) / values.length),
        low: over((values) => Math.min(...values)),
        high: over((values) => Math.max(...values)),
        wide: runs.length > 1,
      };
    });
  }

  // Each run of a curve minus the baseline's of the same seed, or minus the baseline's mean.
  differences(curve) {
    const base = data.curves[this.metric][0];
    if (!base || !(this.axis in base.x)) return curve.runs;
    const mean = base.runs[0].map((_, i) => base.runs.reduce((sum, run) => sum + run[i], 0) / base.runs.length);
    return curve.runs.map((run, k) => {
      const before = base.runs[base.seeds && curve.seeds ? base.seeds.indexOf(curve.seeds[k]) : -1] ?? mean;
      return run.map((y, i) => y - between(base.x[this.axis], before, curve.x[this.axis][i]));
    });
  }

  draw() {
    for (const button of this.axes.children)
      button.setAttribute("aria-pressed", String(button.dataset.axis === this.axis));
    this.bands = this.shown();
    this.root.replaceChildren(this.note);
    const width = Math.max(this.root.clientWidth, 280), height = Math.max(260, Math.min(440, width * 0.5));
    this.size = { width, height, left: 52, right: 12, top: 26, bottom: 34 };
    const svg = svgElement("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
    this.svg = svg;
    this.root.prepend(svg);
    if (!this.bands.length) {
      svg.append(svgElement("text", { x: width / 2, y: height / 2, "text-anchor": "middle" },
        `nothing to show: no chosen variant has ${this.metric} over ${data.axes[this.axis]}`));
      return;
    }
    this.scale();
    this.grid();
    for (const band of this.bands) this.curve(band);
    this.read(null);
  }

  scale() {
    const { width, height, left, right, top, bottom } = this.size;
    const xs = this.bands.flatMap((band) => [band.x[0], band.x.at(-1)]);
    this.x0 = this.start ? Math.min(...xs) : 0;
    this.x1 = Math.max(...xs, this.x0 + 1e-9);
    let low = Infinity, high = -Infinity;
    for (const band of this.bands) {
      for (const value of band.low) low = Math.min(low, value);
      for (const value of band.high) high = Math.max(high, value);
    }
    const space = (high - low) * 0.06 || Math.abs(high) * 0.05 || 1;
    [this.y0, this.y1] = [low - space, high + space];
    this.across = (x) => left + ((x - this.x0) / (this.x1 - this.x0)) * (width - left - right);
    this.up = (y) => height - bottom - ((y - this.y0) / (this.y1 - this.y0)) * (height - top - bottom);
  }

  grid() {
    const { width, height, left, right, bottom } = this.size, floor = height - bottom;
    for (const tick of ticks(this.y0, this.y1)) {
      const y = this.up(tick);
      this.svg.append(svgElement("line", { class: "grid", x1: left, x2: width - right, y1: y, y2: y }));
      this.svg.append(svgElement("text", { x: left - 7, y: y + 4, "text-anchor": "end" }, short(tick)));
    }
    this.svg.append(svgElement("line", { class: "axis", x1: left, x2: width - right, y1: floor, y2: floor }));
    for (const tick of ticks(this.x0, this.x1))
      this.svg.append(svgElement("text", { x: this.across(tick), y: floor + 15, "text-anchor": "middle" }, short(tick)));
    const order = data.higher.includes(this.metric) ? "higher is better" : this.metric.includes("loss")
      || this.metric.includes("bits") || this.metric.includes("perplexity") ? "lower is better" : "";
    const name = this.minus ? `${this.metric} minus that of ${data.variants[0]}` : this.metric;
    this.svg.append(svgElement("text", { x: 0, y: 12 }, name + (order && ` (${order})`)));
    this.svg.append(svgElement("text", { x: width - right, y: height - 4, "text-anchor": "end" }, data.axes[this.axis]));
  }

  curve(band) {
    const own = `--own: var(--v${band.number % 8})`;
    const line = (ys, xs) => xs.map((x, i) => `${this.across(x).toFixed(1)} ${this.up(ys[i]).toFixed(1)}`).join(" L");
    if (band.wide) {
      const back = line([...band.low].reverse(), [...band.x].reverse());
      this.svg.append(svgElement("path", { class: "band", style: own, d: `M${line(band.high, band.x)} L${back} Z` }));
    }
    const dashed = band.number >= 8 ? " dashed" : "";
    this.svg.append(svgElement("path", { class: "line" + dashed, style: own, d: `M${line(band.mean, band.x)}` }));
    if (band.x.length <= 12)
      for (let i = 0; i < band.x.length; i++)
        this.svg.append(svgElement("circle", { class: "point", style: own, r: 3.5, cx: this.across(band.x[i]),
          cy: this.up(band.mean[i]) }));
  }

  point(event) {
    if (!this.bands?.length) return;
    const box = this.svg.getBoundingClientRect(), { width, left, right } = this.size;
    const way = ((event.clientX - box.left) * (width / box.width) - left) / (width - left - right);
    this.read(this.x0 + Math.max(0, Math.min(1, way)) * (this.x1 - this.x0));
  }

  key(event) {
    const longest = this.bands?.reduce((a, b) => (b.x.length > a.x.length ? b : a), this.bands[0]);
    const moves = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };
    if (event.key === "Escape") return this.read(null);
    if (!longest || !(event.key in moves)) return;
    event.preventDefault();
    const here = this.place === null ? (moves[event.key] < 0 ? longest.x.length : -1) : nearest(longest.x, this.place);
    const next = Math.max(0, Math.min(longest.x.length - 1, here + moves[event.key]));
    this.read(longest.x[next]);
  }

  // Show what each curve has at a place; null shows nothing.
  read(place) {
    this.place = place;
    this.svg?.querySelector(".cursor")?.remove();
    this.note.hidden = place === null;
    if (place === null || !this.bands?.length) return;
    const cursor = svgElement("g", { class: "cursor" }), { width, height, top, bottom } = this.size;
    const readings = this.bands.map((band) => ({ band, i: nearest(band.x, place) }))
      .sort((a, b) => b.band.mean[b.i] - a.band.mean[a.i]);
    const x = readings.map(({ band, i }) => band.x[i]).reduce((a, b) =>
      Math.abs(b - place) < Math.abs(a - place) ? b : a);
    cursor.append(svgElement("line", { class: "cross", x1: this.across(x), x2: this.across(x), y1: top - 6, y2: height - bottom }));
    this.note.replaceChildren(element("b", {}, `${short(x)} ${data.axes[this.axis]}`));
    for (const { band, i } of readings) {
      const style = `--own: var(--v${band.number % 8})`;
      cursor.append(svgElement("circle", { class: "point", style, r: 4, cx: this.across(band.x[i]), cy: this.up(band.mean[i]) }));
      if (this.note.children.length <= 12) {
        const spread = band.wide ? ` (${precise(band.low[i])} – ${precise(band.high[i])})` : "";
        this.note.append(element("div", { style }, element("i"), element("span", {}, data.variants[band.number]),
          element("em", {}, precise(band.mean[i]) + spread)));
      }
    }
    if (readings.length > 12) this.note.append(element("div", {}, `and ${readings.length - 12} more`));
    this.svg.append(cursor);
    const share = this.across(x) / width;
    this.note.style.left = share < 0.5 ? `calc(${share * 100}% + 0.9rem)` : "auto";
    this.note.style.right = share < 0.5 ? "auto" : `calc(${(1 - share) * 100}% + 0.9rem)`;
  }
}

// The index of the number that is closest to x, of ascending ones.
function nearest(numbers, x) {
  let low = 0, high = numbers.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (numbers[middle] < x) low = middle; else high = middle;
  }
  return Math.abs(numbers[low] - x) <= Math.abs(numbers[high] - x) ? low : high;
}

// The height of a curve at x, on the line between its neighbours.
function between(xs, ys, x) {
  const i = nearest(xs, x), other = Math.max(0, Math.min(xs.length - 1, xs[i] < x ? i + 1 : i - 1));
  if (xs[other] === xs[i]) return ys[i];
  const share = Math.max(0, Math.min(1, (x - xs[i]) / (xs[other] - xs[i])));
  return ys[i] + share * (ys[other] - ys[i]);
}

// A colour of the page's style as red, green and blue.
function colour(name) {
  const probe = element("i", { style: `color: var(${name})` });
  document.body.append(probe);
  const found = getComputedStyle(probe).color.match(/\d+/g).slice(0, 3).map(Number);
  probe.remove();
  return found;
}

class Attention {
  constructor(root, view) {
    this.view = view;
    this.size = view.tokens.length;
    this.maps = view.maps.map((layer) => layer.map((head) => Uint8Array.from(atob(head), (c) => c.charCodeAt(0))));
    this.large = root.querySelector(".large canvas");
    this.reading = root.querySelector(".reading");
    this.small = [];
    const heads = root.querySelector(".heads");
    this.maps.forEach((layer, l) => heads.append(element("div", {}, element("span", {}, `layer ${l + 1}`),
      ...layer.map((_, h) => this.button(l, h)))));
    this.large.tabIndex = 0;
    this.large.addEventListener("pointermove", (event) => this.point(event));
    this.large.addEventListener("pointerdown", (event) => this.point(event));
    this.large.addEventListener("keydown", (event) => this.key(event));
    this.at = [this.size - 1, 0];
    this.choose(0, 0);
  }

  button(l, h) {
    const canvas = element("canvas");
    const button = element("button", { type: "button", "aria-label": `layer ${l + 1}, head ${h + 1}` }, canvas);
    button.addEventListener("click", () => this.choose(l, h));
    this.small.push({ l, h, canvas, button });
    return button;
  }

  choose(l, h) {
    [this.l, this.h] = [l, h];
    this.draw();
    this.read(...this.at);
  }

  draw() {
    const colours = [colour("--sheet"), colour("--accent")];
    for (const { l, h, canvas, button } of this.small) {
      this.paint(canvas, this.maps[l][h], colours);
      button.setAttribute("aria-pressed", String(l === this.l && h === this.h));
    }
    this.paint(this.large, this.maps[this.l][this.h], colours);
  }

  paint(canvas, weights, [none, all]) {
    canvas.width = canvas.height = this.size;
    const context = canvas.getContext("2d"), image = context.createImageData(this.size, this.size);
    weights.forEach((weight, i) => {
      const share = Math.sqrt(weight / 255); // by the root, so that small weights are seen
      for (let c = 0; c < 3; c++) image.data[4 * i + c] = none[c] + share * (all[c] - none[c]);
      image.data[4 * i + 3] = 255;
    });
    context.putImageData(image, 0, 0);
  }

  point(event) {
    const box = this.large.getBoundingClientRect();
    const place = (way, length) => Math.max(0, Math.min(this.size - 1, Math.floor((way / length) * this.size)));
    this.read(place(event.clientY - box.top, box.height), place(event.clientX - box.left, box.width));
  }

  key(event) {
    const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    if (!(event.key in moves)) return;
    event.preventDefault();
    const inside = (place) => Math.max(0, Math.min(this.size - 1, place));
    this.read(inside(this.at[0] + moves[event.key][0]), inside(this.at[1] + moves[event.key][1]));
  }

  read(row, column) {
    this.at = [row, column];
    const weight = this.maps[this.l][this.h][row * this.size + column] / 255;
    const token = (i) => element("b", {}, visible(this.view.tokens[i]));
    const said = column > row ? [token(row), " cannot see what follows it, ", token(column)]
      : [token(row), ` (${row + 1}) looks at `, token(column), ` (${column + 1}): ${weight.toFixed(2)}`];
    this.reading.replaceChildren(`layer ${this.l + 1}, head ${this.h + 1}: `, ...said);
  }
}

function visible(text) {
  return text.replaceAll(" ", "·").replaceAll("\n", "↵").replaceAll("\t", "⇥");
}

class Plane {
  constructor(root, view) {
    this.root = root;
    this.view = view;
    this.here = null;
    root.addEventListener("pointermove", (event) => this.point(event));
    root.addEventListener("pointerdown", (event) => this.point(event));
    root.addEventListener("keydown", (event) => this.key(event));
    this.order = view.places.map((_, i) => i).sort((a, b) => view.places[a][0] - view.places[b][0]);
    new ResizeObserver(() => this.draw()).observe(root);
  }

  draw() {
    const width = Math.max(this.root.clientWidth, 280), height = Math.max(280, Math.min(460, width * 0.55));
    const [xs, ys] = [0, 1].map((k) => this.view.places.map((place) => place[k]));
    const scale = (numbers, start, end) => {
      const low = Math.min(...numbers), high = Math.max(...numbers);
      return (number) => start + ((number - low) / (high - low || 1)) * (end - start);
    };
    const across = scale(xs, 24, width - 70), up = scale(ys, height - 18, 22);
    this.dots = this.view.places.map(([x, y]) => [across(x), up(y)]);
    this.svg = svgElement("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
    for (const [x, y] of this.dots) this.svg.append(svgElement("circle", { cx: x, cy: y, r: 3 }));
    this.names();
    this.root.replaceChildren(this.svg);
    if (this.here !== null) this.show(this.here);
  }

  // Name as many words as find room.
  names() {
    const taken = [];
    this.dots.forEach(([x, y], i) => {
      const box = [x + 5, y - 10, x + 12 + 7 * this.view.words[i].length, y + 6];
      if (taken.some((other) => box[0] < other[2] && other[0] < box[2] && box[1] < other[3] && other[1] < box[3])) return;
      taken.push(box);
      this.svg.append(svgElement("text", { x: x + 6, y: y + 4 }, visible(this.view.words[i])));
    });
  }

  point(event) {
    const box = this.svg.getBoundingClientRect(), ratio = this.svg.viewBox.baseVal.width / box.width;
    const [x, y] = [(event.clientX - box.left) * ratio, (event.clientY - box.top) * ratio];
    const far = this.dots.map(([a, b]) => (a - x) ** 2 + (b - y) ** 2);
    this.show(far.indexOf(Math.min(...far)));
  }

  key(event) {
    const moves = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 };
    if (!(event.key in moves)) return;
    event.preventDefault();
    const rank = this.here === null ? 0 : this.order.indexOf(this.here) + moves[event.key];
    this.show(this.order[Math.max(0, Math.min(this.order.length - 1, rank))]);
  }

  show(i) {
    this.here = i;
    for (const old of this.svg.querySelectorAll(".here, .here-name")) old.remove();
    const [x, y] = this.dots[i];
    this.svg.append(svgElement("circle", { class: "here", cx: x, cy: y, r: 5 }));
    this.svg.append(svgElement("text", { class: "here-name", x: x + 9, y: y - 6 }, visible(this.view.words[i])));
    this.root.setAttribute("aria-description", this.view.words[i]);
  }
}

new Chart(document.getElementById("chart"));
const attentions = [];
for (const section of document.querySelectorAll(".view")) {
  const view = data.views[Number(section.dataset.view)];
  attentions.push(new Attention(section, view));
  new Plane(section.querySelector(".plane"), view);
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => attentions.forEach((one) => one.draw()));
