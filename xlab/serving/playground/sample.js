/** A sheet with one text on it: the prompt, what the model wrote, how it ended. */

import { TokenText, join, tokensOf, visible } from "./tokens.js";

const ENDINGS = { stop: "came to its end", length: "reached its length", stopped: "stopped", error: "broken off" };
const LONGEST_PROMPT = 400; // the end of a longer one is enough to read on from
const template = document.getElementById("text");
const figure = new Intl.NumberFormat("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const minus = (value) => figure.format(value).replace("-", "−");

export class Sample {
  /**
   * @param {string} title
   * @param {string} prompt as it was written
   * @param {object} request what to send for this text, and those beside it, once more
   */
  constructor(title, prompt, request) {
    this.title = title;
    this.prompt = prompt;
    this.request = request;
    this.isFinished = false;
    this.promptIds = null; // as the service read the prompt
    this.element = template.content.firstElementChild.cloneNode(true);
    this.element.sample = this;
    this._find("h2").textContent = title;
    const start = prompt.length > LONGEST_PROMPT ? `…${prompt.slice(-LONGEST_PROMPT)}` : prompt;
    this._find(".prompt").textContent = start;
    this.text = new TokenText(this._find(".text"));
    this._origin = 0; // where the service's own text begins, after what a branch has kept
    this._first = null; // the offset that the service gives to that place
    this.nTokens = 0;
    this.element.classList.add("running");
  }

  _find(selector) {
    return this.element.querySelector(selector);
  }

  /** Add what came: a chunk's choice, or a whole answer's. */
  add(choice) {
    const tokens = tokensOf(choice.logprobs);
    this._first ??= tokens[0]?.start ?? null;
    for (const token of tokens) token.start += this._origin - this._first;
    this.text.append(choice.text, tokens);
    this.promptIds ??= choice.prompt_token_ids ?? null;
    this.nTokens += choice.token_ids?.length ?? 0;
    if (typeof choice.score === "number") this._find(".score").textContent = `score ${minus(choice.score)}`;
    if (choice.finish_reason) this.finish(choice.finish_reason);
  }

  /** The prompt and the text. */
  get whole() {
    return this.prompt + this.text.before(Infinity);
  }

  /** Say how the text ended, once. */
  finish(reason) {
    if (this.isFinished) return;
    this.isFinished = true;
    this.element.classList.remove("running");
    const facts = [this.nTokens === 1 ? "1 token" : `${this.nTokens} tokens`, ENDINGS[reason] ?? reason];
    const { tokens } = this.text;
    const mean = tokens.reduce((sum, token) => sum + token.logprob, 0) / tokens.length;
    if (tokens.length) facts.push(`perplexity ${figure.format(Math.exp(-mean))}`);
    this._find(".facts").textContent = facts.join(" · ");
  }

  /**
   * A text that goes another way from one token on. It is continued from token ids, so nothing is tokenised anew.
   * @param {number} index of the token that it replaces
   * @param {import("./tokens.js").Alternative} alternative
   */
  branch(index, alternative) {
    const kept = this.text.tokens.slice(0, index);
    const replaced = this.text.tokens[index];
    const prompt = [...this.promptIds, ...kept.map((token) => token.id), alternative.id];
    const title = `${this.title} → ${visible(alternative.text)}`;
    const branch = new Sample(title, this.prompt, { ...this.request, prompt, n: 1 });
    branch.text.append(this.text.before(replaced.start), kept);
    const { start, top } = replaced;
    const halves = kept.filter((token) => token.start === start); // of a character that the alternative may complete
    branch.text.append(join([...halves, alternative]), [{ ...alternative, start, top, isBranch: true }]);
    branch._origin = branch.text.length;
    branch.nTokens = index + 1;
    return branch;
  }
}
