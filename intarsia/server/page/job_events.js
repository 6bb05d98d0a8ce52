/** A job as it runs: server-sent events over fetch, which can send a key, connected again wherever they end. */

import { ApiError, parse, send } from "./api.js";

/**
 * @typedef {{name: string, data: any, id: string}} JobEvent
 * @typedef {object} Follower
 * @property {(event: JobEvent) => void} onEvent
 * @property {() => void} onLost the connection has been lost, and is tried again
 * @property {AbortSignal} signal ends it
 */

const ENDED = ["done", "failed", "cancelled"];
const LONGEST_WAIT = 8000;

/**
 * Follow a job to its end.
 * @param {number} id
 * @param {Follower} follower
 * @returns {Promise<import("./api.js").Job>} the job as it has ended
 */
export async function follow(id, { onEvent, onLost, signal }) {
  let seen = "";
  let wait = 500;
  for (;;) {
    try {
      const response = await send(`jobs/${id}/events`, { headers: seen ? { "Last-Event-ID": seen } : {}, signal });
      for await (const event of eventsOf(response)) {
        seen = event.id;
        wait = 500;
        onEvent(event);
        if (ENDED.includes(event.name)) return event.data;
      }
    } catch (error) {
      if (signal.aborted || !isTemporary(error)) throw error;
      onLost();
    }
    signal.throwIfAborted();
    await new Promise((resolve) => setTimeout(resolve, wait));
    wait = Math.min(LONGEST_WAIT, wait * 2);
  }
}

/**
 * Whether the same request may succeed later: the server restarts, or is busy.
 * @param {unknown} error
 */
export function isTemporary(error) {
  if (error instanceof ApiError) return error.status === 0 || error.status === 429 || error.status >= 502;
  return error instanceof TypeError; // the connection ended in the middle of a body
}

/**
 * The events of a stream (WHATWG HTML, section 9.2).
 * @param {Response} response
 * @returns {AsyncGenerator<JobEvent>}
 */
async function* eventsOf(response) {
  if (response.body === null) return;
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (text + value).split("\n\n");
    text = blocks.pop() ?? "";
    for (const block of blocks) {
      const event = eventOf(block);
      if (event !== null) yield event;
    }
  }
}

/**
 * @param {string} block
 * @returns {JobEvent | null} null for a comment
 */
function eventOf(block) {
  /** @type {Record<string, string>} */
  const fields = {};
  for (const line of block.split("\n")) {
    const colon = line.indexOf(": ");
    if (colon > 0) fields[line.slice(0, colon)] = line.slice(colon + 2);
  }
  if (fields.event === undefined) return null;
  return { name: fields.event, id: fields.id ?? "", data: parse(fields.data) };
}
