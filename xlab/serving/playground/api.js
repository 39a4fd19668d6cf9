/** Talk to the service: the key, errors of one line, and answers as they come. */

import { askForKey, storedKey } from "./key.js";

export class ServiceError extends Error {}

/** Where the service lies: beside the page, whatever a proxy put before it. */
export const address = (path) => new URL(path, document.baseURI).href;

/**
 * Ask the service, and for the key if it wants one.
 * @param {string} path
 * @param {{body?: object, signal?: AbortSignal}} [options] a body makes it a POST
 * @returns {Promise<Response>}
 * @throws {ServiceError} with what the service said
 */
export async function ask(path, { body, signal } = {}) {
  for (;;) {
    const key = storedKey();
    const headers = body ? { "Content-Type": "application/json" } : {};
    if (key !== null) headers.Authorization = `Bearer ${key}`;
    const content = body && { method: "POST", body: JSON.stringify(body) };
    const response = await fetch(address(path), { headers, signal, cache: "no-store", ...content }).catch((error) => {
      if (signal?.aborted) throw error;
      throw new ServiceError("The service does not answer. Is it still running?");
    });
    if (response.ok) return response;
    const message = await messageOf(response);
    if (response.status !== 401) throw new ServiceError(message);
    if (!(await askForKey(key === null ? "This service asks for a key." : message))) throw new ServiceError(message);
  }
}

async function messageOf(response) {
  const answer = await response.json().catch(() => null);
  let message = answer?.error?.message ?? answer?.detail ?? `The service answered ${response.status}`;
  if (typeof message !== "string") message = JSON.stringify(message);
  const wait = response.headers.get("Retry-After");
  return wait ? `${message.replace(/\.$/, "")}. Try again in ${wait} s.` : message;
}

/**
 * The chunks of a streamed answer, until it says that it is done.
 * @returns {AsyncGenerator<object>}
 * @throws {ServiceError} when it breaks off
 */
export async function* chunks(response) {
  for await (const data of eventData(response.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ServiceError(chunk.error.message);
    yield chunk;
  }
  throw new ServiceError("The stream broke off before its end.");
}

/** The data of server-sent events: lines that begin with "data:", an empty one ends the event. */
async function* eventData(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let data = [];
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split(/\r?\n/);
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data:")) data.push(line.slice(5).trimStart());
      if (line !== "" || !data.length) continue;
      yield data.join("\n");
      data = [];
    }
  }
}
