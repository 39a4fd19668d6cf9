/** The small sheet beside a token: how likely the model held it, and what else it thought of. */

import { percent, setInspected, visible } from "./tokens.js";

const LEAVING = 200; // ms to get from a token to its sheet
const GAP = 6; // px between them, and between the sheet and the window's edge

export class Alternatives {
  /**
   * @param {HTMLElement} sheet
   * @param {HTMLElement} texts holds the samples
   * @param {(sample: object, index: number, alternative: object) => void} choose
   */
  constructor(sheet, texts, choose) {
    Object.assign(this, { sheet, texts, choose });
    this.span = null;
    this.specialIds = new Set(); // of tokens that stand for no text: no text goes on from them
    this._timer = 0;
    texts.addEventListener("focusin", (event) => this._focus(event.target));
    texts.addEventListener("click", (event) => this._showFor(event.target));
    texts.addEventListener("keydown", (event) => this._walk(event));
    texts.addEventListener("pointerover", (event) => event.pointerType === "mouse" && this._hover(event.target));
    sheet.addEventListener("pointerenter", () => clearTimeout(this._timer));
    sheet.addEventListener("pointerleave", () => this._leave());
    sheet.addEventListener("keydown", (event) => this._walkSheet(event));
    for (const part of [texts, sheet]) part.addEventListener("focusout", (event) => this._blur(event));
    document.addEventListener("pointerdown", (event) => {
      if (!event.target.closest(".token, #alternatives")) this.hide();
    });
  }

  /** Show tokens as something to point at, or as plain text. */
  setInspected(isInspected) {
    document.body.classList.toggle("plain", !isInspected);
    for (const span of this.texts.querySelectorAll(".token")) setInspected(span, isInspected);
    if (!isInspected) this.hide();
  }

  hide() {
    clearTimeout(this._timer);
    this.span?.classList.remove("shown");
    this.span?.removeAttribute("aria-describedby");
    this.span = null;
    this.sheet.hidden = true;
  }

  _showFor(target) {
    const span = target.closest(".token[role]");
    if (span) this.show(span);
  }

  _focus(target) {
    if (!target.matches(".token")) return;
    for (const span of target.parentElement.querySelectorAll(".token[tabindex='0']")) span.tabIndex = -1;
    target.tabIndex = 0;
    this.show(target);
  }

  _hover(target) {
    if (target.closest(".token")) {
      clearTimeout(this._timer);
      if (!this.sheet.contains(document.activeElement)) this._showFor(target);
    } else {
      this._leave();
    }
  }

  /** Nothing is pointed at any more: back to the token that has the focus, if one has. */
  _leave() {
    clearTimeout(this._timer);
    this._timer = setTimeout(() => {
      const { activeElement } = document;
      if (this.sheet.contains(activeElement)) return;
      if (activeElement.matches(".token")) this._showFor(activeElement);
      else this.hide();
    }, LEAVING);
  }

  _blur(event) {
    const next = event.relatedTarget;
    if (!next || !(this.sheet.contains(next) || next.matches(".token"))) this.hide();
  }

  /** @param {HTMLElement} span of a token */
  show(span) {
    if (span === this.span) return;
    this.hide();
    this.span = span;
    const { sample } = span.closest(".sample");
    const index = Number(span.dataset.index);
    const token = sample.text.tokens[index];
    this.sheet.querySelector(".chosen").replaceChildren(word(token.text), part("share", percent(token.logprob)));
    const rows = token.top.map((other) => {
      return this._row(other, other.id === token.id, () => this.choose(sample, index, other));
    });
    this.sheet.querySelector("ul").replaceChildren(...rows);
    this.sheet.querySelector(".hint").hidden = !this.sheet.querySelector("button:enabled");
    this.sheet.hidden = false;
    span.classList.add("shown");
    span.setAttribute("aria-describedby", this.sheet.id);
    this._place(span);
  }

  _row(alternative, isChosen, choose) {
    const row = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.id = alternative.id;
    button.append(word(alternative.text), part("share", percent(alternative.logprob)));
    button.style.setProperty("--share", Math.exp(alternative.logprob).toFixed(4));
    button.addEventListener("click", choose);
    button.disabled = isChosen || this.specialIds.has(alternative.id);
    if (isChosen) button.setAttribute("aria-current", "true");
    row.append(button);
    return row;
  }

  /** Below the token, or above where there is no room; always within the window. */
  _place(span) {
    const [box] = span.getClientRects();
    const { offsetWidth: width, offsetHeight: height } = this.sheet;
    const { clientWidth, clientHeight } = document.documentElement;
    const left = Math.max(GAP, Math.min(box.left, clientWidth - width - GAP));
    const isBelow = box.bottom + GAP + height <= clientHeight || box.top - GAP - height < 0;
    const top = isBelow ? box.bottom + GAP : box.top - GAP - height;
    this.sheet.style.left = `${left + scrollX}px`;
    this.sheet.style.top = `${top + scrollY}px`;
  }

  _walk(event) {
    const span = event.target.closest(".token");
    if (!span || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Enter" || event.key === " " || event.key === "ArrowDown") {
      this.show(span);
      this.sheet.querySelector("button:enabled")?.focus();
      event.preventDefault();
      return;
    }
    const spans = span.parentElement.querySelectorAll(".token");
    const index = Number(span.dataset.index);
    const goal = { ArrowLeft: index - 1, ArrowRight: index + 1, Home: 0, End: spans.length - 1 }[event.key];
    if (goal === undefined) return;
    event.preventDefault();
    spans[goal]?.focus();
  }

  _walkSheet(event) {
    const buttons = [...this.sheet.querySelectorAll("button:enabled")];
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape" || event.key === "Tab") {
      this.span.focus(); // Tab goes on from the token
    } else if (step) {
      const index = buttons.indexOf(document.activeElement) + step;
      buttons[(index + buttons.length) % buttons.length].focus();
    }
    if (step || event.key === "Escape") event.preventDefault();
    if (event.key === "Escape") event.stopPropagation();
  }
}

function word(text) {
  return part("word", visible(text));
}

function part(name, text) {
  const made = document.createElement("span");
  made.className = name;
  made.textContent = text;
  return made;
}
