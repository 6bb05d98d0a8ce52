/** One job at a time: sent, followed to its end, cancelled, and found again after the page was closed. */

import * as api from "./api.js";
import { follow, isTemporary } from "./job_events.js";
import * as problems from "./problems.js";
import { duration, text } from "./texts.js";

/**
 * @typedef {import("./api.js").Job} Job
 * @typedef {object} RunnerEvents
 * @property {(job: Job) => void} accepted the server has it
 * @property {(line: string, share: number | null, isNews: boolean) => void} progress what is to be said, how much is
 *   done, and whether it is worth to be read aloud
 * @property {(images: string[]) => void} preview data URIs
 * @property {(job: Job) => void} ended done or failed
 * @property {() => void} cancelled
 * @property {(error: unknown) => void} refused nothing runs
 */

const ATTEMPTS = 5;
const FIRST_WAIT = 500;

export class Runner {
  /** @type {AbortController | null} */
  #running = null;
  /** @type {number | null} */
  #job = null;
  /** When the first step was done, for the time that is left. */
  #began = { time: 0, step: 0 };

  /** @param {RunnerEvents} events */
  constructor(events) {
    this.events = events;
  }

  get isRunning() {
    return this.#running !== null;
  }

  /** Whether the server has yet to confirm the job. */
  get isSending() {
    return this.isRunning && this.#job === null;
  }

  /**
   * Send a request and follow it.
   * @param {Record<string, any>} request
   * @param {{image: Blob | null, mask: Blob, previewEvery: number}} parts
   */
  async start(request, parts) {
    await this.#follow(async (signal) => {
      this.events.progress(text("sending"), null, true);
      return submitted(request, parts, signal, () => this.events.progress(text("stillSending"), null, true));
    });
  }

  /**
   * Follow a job that was accepted earlier.
   * @param {number} id
   */
  async resume(id) {
    await this.#follow(() => api.job(id));
  }

  /** Cancel the job: between two steps where it runs, once it is accepted where it is still being sent. */
  async cancel() {
    const running = this.#running;
    if (running === null) return;
    if (this.#job !== null) {
      try {
        const job = await api.cancel(this.#job);
        if (job.state === "done" || job.state === "failed") return; // its stream says so
      } catch (error) {
        problems.explain(error, null); // it runs on
        return;
      }
    }
    running.abort();
    this.#finish();
    this.events.cancelled();
  }

  /** @param {(signal: AbortSignal) => Promise<Job>} open */
  async #follow(open) {
    const running = new AbortController();
    this.#running = running;
    this.#began = { time: 0, step: 0 };
    try {
      let job = await open(running.signal);
      if (running.signal.aborted) {
        await api.cancel(job.id);
        return;
      }
      this.#job = job.id;
      this.events.accepted(job);
      if (["queued", "running"].includes(job.state)) {
        job = await follow(job.id, {
          onEvent: (event) => this.#heard(event),
          onLost: () => this.events.progress(text("lost"), null, true),
          signal: running.signal,
        });
      }
      if (running.signal.aborted) return;
      this.#finish();
      if (job.state === "cancelled") this.events.cancelled();
      else this.events.ended(job);
    } catch (error) {
      if (running.signal.aborted) return;
      this.#finish();
      this.events.refused(error);
    }
  }

  #finish() {
    this.#running = null;
    this.#job = null;
  }

  /** @param {import("./job_events.js").JobEvent} event */
  #heard({ name, data }) {
    if (name === "queued") {
      const line = text("queued", { position: data.position, eta: duration(data.eta) });
      this.events.progress(line, null, true);
    } else if (name === "step") {
      this.#step(data.step, data.steps);
    } else if (name === "preview") {
      this.events.preview(data.images);
    }
  }

  /**
   * @param {number} step
   * @param {number} steps
   */
  #step(step, steps) {
    const now = performance.now();
    if (step === 0 || this.#began.time === 0) this.#began = { time: now, step };
    const done = step - this.#began.step;
    const each = done > 0 ? (now - this.#began.time) / done : null;

    let line = step === 0 ? text("starting") : text("step", { step, steps });
    if (each !== null && step < steps) {
      line = text("stepLeft", { step, steps, left: duration((each * (steps - step)) / 1000) });
    }
    const quarter = Math.floor((4 * step) / steps) > Math.floor((4 * (step - 1)) / steps);
    this.events.progress(line, step / steps, step === 0 || quarter);
  }
}

/**
 * Send a request, again where the connection fails: the key makes it the same job.
 * @param {Record<string, any>} request
 * @param {{image: Blob | null, mask: Blob, previewEvery: number}} parts
 * @param {AbortSignal} signal
 * @param {() => void} [onWait]
 * @returns {Promise<Job>}
 */
export async function submitted(request, parts, signal, onWait = () => {}) {
  const idempotencyKey = api.newIdempotencyKey();
  for (let attempt = 1; ; attempt++) {
    try {
      return await api.submit(request, { ...parts, idempotencyKey });
    } catch (error) {
      const isUnreachable = isTemporary(error) && !(error instanceof api.ApiError && error.status === 429);
      if (!isUnreachable || attempt === ATTEMPTS || signal.aborted) throw error;
      onWait();
      await new Promise((resolve) => setTimeout(resolve, FIRST_WAIT * 2 ** (attempt - 1)));
      signal.throwIfAborted();
    }
  }
}
