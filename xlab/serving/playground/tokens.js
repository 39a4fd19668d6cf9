/** A text as a row of tokens, which together say exactly what the service sent. */

/**
 * @typedef {{id: number, text: string, logprob: number}} Alternative
 * @typedef {Alternative & {start: number, top: Alternative[], isBranch?: boolean}} Token
 *   start: where its text begins, in code points, as the service counts
 */

const BITS_OF_SURPRISE = 10; // as unlikely as this, or less likely, is shaded in full

/** The tokens that a choice's logprobs tell of. @returns {Token[]} */
export function tokensOf(logprobs) {
  return (logprobs?.tokens ?? []).map((text, i) => ({
    id: logprobs.token_ids[i],
    text,
    logprob: logprobs.token_logprobs[i],
    start: logprobs.text_offset[i],
    top: logprobs.top_token_ids[i].map((id, k) => ({
      id,
      text: logprobs.top_tokens[i][k],
      logprob: logprobs.top_token_logprobs[i][k],
    })),
  }));
}

/** A log-probability in per cent, as exactly as one wants to read it. */
export function percent(logprob) {
  const value = 100 * Math.exp(logprob);
  if (value < 0.01) return "< 0.01 %";
  return `${value.toFixed(value < 0.1 ? 2 : value < 9.95 ? 1 : 0)} %`;
}

/** A token's text with what cannot be seen made visible. */
export function visible(text) {
  const signs = { " ": "␣", "\n": "↵", "\t": "⇥" };
  return text.replace(/[\x00-\x20]/g, (sign) => signs[sign] ?? String.fromCharCode(0x2400 + sign.charCodeAt(0)));
}

/** What tokens say together; the service spells one that is half a character by its bytes. */
export function join(tokens) {
  const bytes = tokens.flatMap(({ text }) => {
    if (!/^bytes:(\\x[0-9a-f]{2})+$/.test(text)) return [...new TextEncoder().encode(text)];
    return text.match(/[0-9a-f]{2}\b/g).map((digits) => parseInt(digits, 16));
  });
  return new TextDecoder("utf-8", { ignoreBOM: true }).decode(new Uint8Array(bytes));
}

/** Make a token's span something to point at and walk to, or plain text. */
export function setInspected(span, isInspected) {
  if (isInspected) {
    span.setAttribute("role", "button");
    span.setAttribute("aria-label", span.dataset.says);
    span.tabIndex = span.dataset.index === "0" ? 0 : -1; // one stop for Tab; arrow keys walk from there
  } else {
    for (const name of ["role", "aria-label", "tabindex"]) span.removeAttribute(name);
  }
}

export class TokenText {
  /** @param {HTMLElement} element holds the text and nothing else */
  constructor(element) {
    this.element = element;
    /** @type {Token[]} */
    this.tokens = [];
    this._spans = [];
    this._characters = []; // code points: the service counts those, JavaScript's strings count halves of some
    this._open = 0; // the first token whose text may yet grow
  }

  get length() {
    return this._characters.length;
  }

  /** What stands before a place. */
  before(place) {
    return this._characters.slice(0, place).join("");
  }

  /**
   * Add text as it comes, and the tokens it came with. A token's text may come later than the token, when it is half
   * a character or may begin a stop string.
   * @param {string} piece
   * @param {Token[]} tokens
   */
  append(piece, tokens) {
    for (const token of tokens) {
      const least = this.tokens.length ? this.tokens.at(-1).start : this.length;
      const start = this.tokens.length ? Math.max(least, token.start) : least;
      this._add({ ...token, start });
    }
    this._characters.push(...piece);
    if (this.tokens.length) this._layOut();
    else this.element.append(piece);
  }

  _add(token) {
    const span = document.createElement("span");
    span.className = "token";
    span.classList.toggle("branch", Boolean(token.isBranch));
    span.dataset.index = this.tokens.length;
    span.dataset.says = `${visible(token.text)}, ${percent(token.logprob)}`;
    setInspected(span, !document.body.classList.contains("plain"));
    const surprise = Math.min(1, -token.logprob / Math.LN2 / BITS_OF_SURPRISE);
    span.style.setProperty("--surprise", surprise.toFixed(3));
    this.tokens.push(token);
    this._spans.push(span);
    this.element.append(span);
  }

  _layOut() {
    for (; this._open < this.tokens.length; this._open++) {
      const end = this.tokens[this._open + 1]?.start ?? Infinity;
      const text = this._characters.slice(this.tokens[this._open].start, end).join("");
      const span = this._spans[this._open];
      span.textContent = text;
      span.classList.toggle("empty", text === "");
      span.classList.toggle("break", text.startsWith("\n"));
      if (end > this.length) return;
    }
  }
}
