/** The course of the page's job: what is shown while it runs, and once it has ended. */

import * as api from "./api.js";
import { byId } from "./dom.js";
import { thumbnailOf } from "./history.js";
import { PreviewPainter } from "./preview.js";
import * as problems from "./problems.js";
import { text } from "./texts.js";

/**
 * @typedef {import("./api.js").Job} Job
 * @typedef {import("./app.js").App} App
 */

export class JobCourse {
  /** @type {PreviewPainter | null} */
  #painter = null;

  /** @param {App} app */
  constructor(app) {
    this.app = app;
  }

  /** @param {Job} job */
  accepted(job) {
    this.app.autosave.keep("job", job.id);
    const geometry = job.plan?.canvas.geometry;
    const { picture, mask } = this.app.stage;
    const isInPlace = geometry && mask && picture && String(geometry.working) === String([picture.width, picture.height]);
    this.#painter = isInPlace ? new PreviewPainter(geometry, mask) : null;
    this.app.update();
  }

  /**
   * @param {string} line
   * @param {number | null} share
   * @param {boolean} isNews
   */
  progress(line, share, isNews) {
    byId("progress-line", HTMLElement).textContent = line;
    const bar = byId("progress-bar", HTMLProgressElement);
    if (share === null) bar.removeAttribute("value");
    else bar.value = share;
    if (isNews) announce(line);
  }

  /** @param {string[]} images */
  async preview(images) {
    if (this.#painter === null) return;
    const preview = await this.#painter.paint(images[0]);
    if (this.#painter === null) return; // it has ended meanwhile
    this.app.stage.preview = preview;
    this.app.stage.refresh();
  }

  /** @param {Job} job */
  async ended(job) {
    this.#clear();
    if (job.state === "done" && job.result !== null) await this.#done(job, job.result);
    else this.#over(text("failed", { message: job.error?.message ?? "" }));
    this.app.update();
  }

  cancelled() {
    this.#clear();
    this.#over(text("cancelled"));
    this.app.update();
  }

  /** @param {unknown} error */
  refused(error) {
    this.#clear();
    // While the server cannot be reached, a job stays known: a reload finds it again.
    if (error instanceof api.ApiError && error.status === 404) this.#over(text("jobGone"));
    else problems.explain(error, this.app.controls);
    this.app.update();
  }

  /**
   * Nothing runs any more, and there is no result.
   * @param {string} message
   */
  #over(message) {
    this.app.autosave.keep("job", null);
    problems.say("run-error", message);
    announce(message);
  }

  #clear() {
    this.#painter = null;
    this.app.stage.preview = null;
    this.app.stage.refresh();
  }

  /**
   * @param {Job} job
   * @param {import("./api.js").JobResult} result
   */
  async #done(job, result) {
    const { app } = this;
    if (job.expired) {
      this.#over(text("expired"));
      return;
    }
    try {
      await app.result.open(result);
    } catch (error) {
      problems.explain(error, app.controls);
      return;
    }
    app.autosave.keep("job", null);
    const line = text("done", { seconds: result.seconds.toFixed(1), seed: String(job.seed) });
    byId("result-note", HTMLElement).textContent = line;
    announce(line);
    if (app.stage.after === null) return;
    app.history.add({
      job: job.id,
      request: { ...withoutDefaults(job.request, app.controls), seed: job.seed },
      result,
      mask: await app.editor.file(),
      thumbnail: await thumbnailOf(app.stage.after),
    });
    await app.autosave.keep("history", app.history.entries);
  }
}

/** @param {string} line for screen readers */
function announce(line) {
  byId("announcer", HTMLElement).textContent = line;
}

/**
 * The fields of a request that are not at their defaults, without its images.
 * @param {Record<string, any>} request
 * @param {import("./controls.js").Controls | null} controls
 */
function withoutDefaults(request, controls) {
  const given = Object.entries(request).filter(([name, value]) => {
    if (name === "init_image" || name === "mask_image") return false;
    const standard = controls?.schema[name]?.default ?? null;
    return name === "prompt" || JSON.stringify(value ?? null) !== JSON.stringify(standard);
  });
  return Object.fromEntries(given);
}
