/** The settings: what the form says, as a request and as a link that repeats it. */

const fieldsOf = (form) => [...form.elements].filter((field) => field.name);
const RENAMED = { beam_texts: "n" };

/** Show the fields that have a meaning in the chosen way of writing, and no others. */
export function showWay(form) {
  const way = form.elements.way.value;
  for (const part of form.querySelectorAll("[data-ways]")) {
    const isUsed = part.dataset.ways.split(" ").includes(way);
    part.hidden = !isUsed;
    const field = part.control ?? part; // a label's own field, or a whole fieldset
    field.disabled = !isUsed;
  }
}

/** Hold the fields to what the service allows. @param {Object<string, number>} limits */
export function limitFields(form, limits, maxLength) {
  const texts = Math.min(limits.n, limits.beam_width);
  const most = { ...limits, max_tokens: Math.min(limits.max_tokens, maxLength), beam_texts: texts };
  for (const name of ["max_tokens", "n", "beam_width", "beam_texts", "logprobs"]) {
    const field = form.elements[name];
    field.max = most[name];
    const isFirst = field.value === field.defaultValue;
    if (Number(field.defaultValue) > most[name]) field.defaultValue = most[name];
    if (isFirst) field.value = field.defaultValue;
  }
}

/** The first field whose value cannot be sent, and why. @returns {{field: HTMLInputElement, message: string} | null} */
export function findFault(form) {
  for (const field of fieldsOf(form)) {
    if (field.validity.valid) continue;
    const label = field.labels[0].firstChild.textContent.trim();
    return { field, message: `${label}: ${field.validationMessage}` };
  }
  return null;
}

/** Put a new seed into its field, so that what was drawn can be drawn again. */
export function drawSeed(form) {
  const { seed, new_seed: isNew } = form.elements;
  if (isNew.checked || seed.value === "") seed.value = crypto.getRandomValues(new Uint32Array(1))[0] % 1_000_000;
}

/** The body of a request to /v1/completions; a setting that is off is left out. */
export function requestOf(form, model) {
  const body = { model, prompt: form.elements.prompt.value };
  for (const field of fieldsOf(form)) {
    if (field.type !== "number" || field.name === "logprobs") continue;
    if (field.value === "" || field.matches(":disabled")) continue;
    body[RENAMED[field.name] ?? field.name] = field.valueAsNumber;
  }
  const { way, stop, truncate_prompt: truncate } = form.elements;
  if (way.value === "greedy") body.temperature = 0;
  const stops = stop.value.split("\n").filter((line) => line !== "");
  if (stops.length && !stop.disabled) body.stop = stops.map(unescapeLine);
  if (truncate.checked) body.truncate_prompt = true;
  return body;
}

/** How many alternatives to ask for; null for none, and no probabilities either. @returns {number | null} */
export function alternativesOf(form) {
  const { logprobs } = form.elements;
  return logprobs.matches(":disabled") || logprobs.value === "" ? null : logprobs.valueAsNumber;
}

function unescapeLine(line) {
  const meanings = { n: "\n", t: "\t", "\\": "\\" };
  return line.replace(/\\([nt\\])/g, (_, letter) => meanings[letter]);
}

/** The settings that are not the first ones, as an address's fragment. */
export function toFragment(form) {
  const changed = new URLSearchParams();
  for (const field of fieldsOf(form)) {
    if (field.name === "new_seed" || field.matches(":disabled")) continue;
    if (field.type === "radio") {
      if (field.checked && !field.defaultChecked) changed.set(field.name, field.value);
    } else if (field.type === "checkbox") {
      if (field.checked !== field.defaultChecked) changed.set(field.name, field.checked ? "yes" : "no");
    } else if (field.value !== field.defaultValue) {
      changed.set(field.name, field.value);
    }
  }
  return changed.toString();
}

/**
 * Set the form as a fragment says, everything else as it first was.
 * @returns {string[]} the names that this page does not know
 */
export function fromFragment(form, fragment) {
  form.reset();
  const unknown = [];
  for (const [name, value] of new URLSearchParams(fragment)) {
    const field = form.elements[name];
    if (!field || !("value" in field)) unknown.push(name);
    else if (field.type === "checkbox") field.checked = value === "yes";
    else field.value = value;
    if (name === "seed") form.elements.new_seed.checked = false; // a link repeats what was drawn
  }
  return unknown;
}
