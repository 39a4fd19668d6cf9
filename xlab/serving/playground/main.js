/** The playground: runs what the form says, and shows the texts as they come. */

import { Alternatives } from "./alternatives.js";
import { address, ask, chunks } from "./api.js";
import { curl, python } from "./code.js";
import { copy } from "./copying.js";
import { storedKey } from "./key.js";
import { showCard } from "./model_card.js";
import { Sample } from "./sample.js";
import * as settings from "./settings.js";

const find = (id) => document.getElementById(id);
const form = find("form");
const texts = find("texts");
const isPhone = matchMedia("(max-width: 52rem)");

/** What runs: a run, and the branches from its texts. @type {Set<AbortController>} */
const running = new Set();
let card = null;

async function modelCard() {
  if (card === null) {
    card = await (await ask("model_card")).json();
    showCard(card, find("model"), find("facts"));
    settings.limitFields(form, card.limits, card.max_len);
    alternatives.specialIds = new Set(card.special_ids);
  }
  return card;
}

/** Start what the form says, in place of what stands there. */
async function run() {
  const fault = settings.findFault(form);
  if (fault) return complain(fault.message, fault.field);
  stop();
  settings.drawSeed(form);
  remember();
  await attempt(async (signal) => {
    const { name } = await modelCard();
    const request = settings.requestOf(form, name);
    const samples = [];
    for (let i = 0; i < (request.n ?? 1); i++) samples.push(new Sample(`Text ${i + 1}`, request.prompt, request));
    const show = () => {
      texts.replaceChildren(...samples.map((sample) => sample.element));
      find("hint").hidden = true;
    };
    await write(samples, request, signal, show);
  });
}

/** Go on from an alternative, beside the text that it was chosen in. */
async function branch(sample, index, alternative) {
  const branched = sample.branch(index, alternative);
  const show = () => {
    sample.element.after(branched.element);
    branched.element.querySelector(".branch").focus({ preventScroll: true });
    alternatives.hide();
    branched.element.scrollIntoView({ block: "nearest" });
  };
  await attempt((signal) => write([branched], branched.request, signal, show));
}

/**
 * Let the service write into the samples.
 * @param {Sample[]} samples
 * @param {object} request
 * @param {AbortSignal} signal
 * @param {() => void} show put them on the page: called when there is an answer, so that a refusal leaves what stands
 */
async function write(samples, request, signal, show) {
  const started = performance.now();
  const known = samples.map((sample) => sample.nTokens);
  const body = { ...request, return_token_ids: true };
  const nAlternatives = settings.alternativesOf(form);
  if (nAlternatives !== null) body.logprobs = nAlternatives;
  say(request.beam_width ? "Searching …" : "Writing …");
  let reason = "error";
  try {
    if (request.beam_width) {
      const answer = await (await ask("v1/completions", { body, signal })).json();
      show();
      for (const choice of answer.choices) samples[choice.index].add(choice);
    } else {
      const response = await ask("v1/completions", { body: { ...body, stream: true }, signal });
      show();
      for await (const chunk of chunks(response)) {
        for (const choice of chunk.choices) samples[choice.index].add(choice);
      }
    }
    const nTokens = samples.reduce((sum, sample, i) => sum + sample.nTokens - known[i], 0);
    const seconds = (performance.now() - started) / 1000;
    const rate = seconds > 0.1 ? `, ${Math.round(nTokens / seconds)} a second` : "";
    say(`Done: ${nTokens === 1 ? "1 token" : `${nTokens} tokens`} in ${seconds.toFixed(1)} s${rate}.`);
  } catch (error) {
    if (signal.aborted) reason = "stopped";
    throw error;
  } finally {
    for (const sample of samples) sample.finish(reason);
  }
}

/** Do something that can be stopped, and that may fail in one line. */
async function attempt(work) {
  const controller = new AbortController();
  running.add(controller);
  complain("");
  showRunning();
  try {
    await work(controller.signal);
  } catch (error) {
    if (!controller.signal.aborted) complain(error.message);
    else if (running.size === 1) say("Stopped."); // otherwise another one goes on, and says so
  } finally {
    running.delete(controller);
    showRunning();
  }
}

function stop() {
  for (const controller of running) controller.abort();
}

function showRunning() {
  const button = find("halt");
  if (running.size === 0 && document.activeElement === button) find("go").focus(); // a disabled button loses it
  button.disabled = running.size === 0;
  document.body.classList.toggle("writing", running.size > 0);
}

function say(text) {
  find("status").textContent = text;
}

/** Show an error in one line, or none. */
function complain(message, field) {
  const line = find("error");
  line.textContent = message;
  line.hidden = message === "";
  if (message !== "") say("");
  if (field) {
    find("settings").open ||= find("settings").contains(field);
    field.focus();
  }
}

/** Keep the settings in the address, so that it can be given to others. */
function remember() {
  history.replaceState(null, "", `#${settings.toFragment(form)}`);
}

function recall() {
  const unknown = settings.fromFragment(form, location.hash.slice(1));
  follow();
  if (unknown.length) complain(`The link sets ${unknown.join(", ")}, which this page does not know.`);
}

/** Copy a request as code; the texts it gives are those that the page shows. */
async function copyCode(kind, request) {
  const write = kind === "curl" ? curl : python;
  await copied(write(request, address("v1"), storedKey() !== null), kind === "curl" ? "the command" : "the program");
}

async function copied(text, name) {
  if (await copy(text)) say(`Copied ${name}.`);
}

async function copyOfForm(kind) {
  const fault = settings.findFault(form);
  if (fault) return complain(fault.message, fault.field);
  if (kind === "link") {
    remember();
    await copied(location.href, "the link");
  } else {
    const { name } = await modelCard();
    await copyCode(kind, settings.requestOf(form, name));
  }
}

/** Show the form as it now is. */
function follow() {
  settings.showWay(form);
  alternatives.setInspected(form.elements.inspect.checked);
}

const alternatives = new Alternatives(find("alternatives"), texts, branch);

form.addEventListener("submit", (event) => {
  event.preventDefault();
  run();
});
form.elements.seed.addEventListener("input", () => {
  form.elements.new_seed.checked = false; // it was typed to be used
});
document.querySelector("main").addEventListener("change", () => {
  complain("");
  follow();
  remember();
});
find("halt").addEventListener("click", stop);
find("copies").addEventListener("click", (event) => {
  const { copy: kind } = event.target.dataset;
  if (kind) copyOfForm(kind).catch((error) => complain(error.message));
});
texts.addEventListener("click", (event) => {
  const { copy: kind } = event.target.dataset;
  const sample = event.target.closest(".sample")?.sample;
  if (kind === "text") copied(sample.whole, "the text");
  else if (kind) copyCode(kind, sample.request);
});
find("defaults").addEventListener("click", () => {
  const { prompt } = form.elements;
  const { value } = prompt;
  form.reset();
  prompt.value = value;
  form.dispatchEvent(new Event("change", { bubbles: true }));
});
document.addEventListener("keydown", (event) => {
  if (document.querySelector("dialog[open]")) return;
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    run();
  } else if (event.key === "Escape") {
    stop();
    alternatives.hide();
  }
});
addEventListener("hashchange", recall);

find("settings").open = !isPhone.matches;
recall();
modelCard().catch((error) => complain(error.message));
