/** The model card: how large the model is, what it learnt from, and how well. */

const whole = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const figure = new Intl.NumberFormat("en", { maximumSignificantDigits: 5 });

/** Show a card of GET /model_card. @param {HTMLElement} summary @param {HTMLElement} facts */
export function showCard(card, summary, facts) {
  summary.textContent = `${card.name} · ${short.format(card.parameters)} parameters · context ${card.max_len}`;
  const size = {
    parameters: whole.format(card.parameters),
    memory: `${figure.format(card.bytes / 2 ** 20)} MiB, ${card.precision}`,
    context: `${whole.format(card.max_len)} tokens`,
    vocabulary: `${whole.format(card.vocab_size)} tokens`,
    width: card.d_model,
    layers: card.n_layers,
    heads: card.n_heads,
  };
  const origin = { "training steps": card.step, "XLab": card.xlab_version };
  facts.replaceChildren(
    group("Size", size),
    group("Data", flat(card.data)),
    group("Validation", { ...flat(card.validation), ...origin }),
  );
}

function group(title, facts) {
  const part = document.createElement("section");
  part.append(element("h2", title));
  const list = element("dl");
  for (const [name, value] of Object.entries(facts)) {
    if (value === null || value === undefined) continue;
    const row = element("div");
    row.append(element("dt", name), element("dd", typeof value === "number" ? figure.format(value) : String(value)));
    list.append(row);
  }
  part.append(list);
  return part;
}

/** Nested settings as one list: {a: {b: 1}} is {"a.b": 1}. */
function flat(settings, prefix = "") {
  const facts = {};
  for (const [name, value] of Object.entries(settings ?? {})) {
    const isNested = value !== null && typeof value === "object" && !Array.isArray(value);
    Object.assign(facts, isNested ? flat(value, `${prefix}${name}.`) : { [prefix + name]: value });
  }
  return facts;
}

function element(name, text = "") {
  const made = document.createElement(name);
  made.textContent = text;
  return made;
}
