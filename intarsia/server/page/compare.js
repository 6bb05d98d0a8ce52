/** Compare: two parameters over one picture. All jobs are submitted together, so that the server mixes their lanes. */

import * as api from "./api.js";
import { asRow } from "./as_code.js";
import { gridPicture } from "./compare_grid.js";
import { byId, download, make, show } from "./dom.js";
import { isTemporary } from "./job_events.js";
import { explain, say } from "./problems.js";
import { submitted } from "./runner.js";
import { valueOf } from "./settings.js";
import { text } from "./texts.js";

/**
 * @typedef {import("./compare_grid.js").Axis} Axis
 * @typedef {{fields: Record<string, any>, image: Blob | null, mask: Blob, name: string}} Subject what is compared: the
 *   image is null where the fields name its address
 * @typedef {{fields: Record<string, any>, job: import("./api.js").Job}} Cell
 */

/** Parameters that can be compared, each with values to begin with. */
const PARAMETERS = /** @type {Record<string, string>} */ ({
  scheduler: "euler, dpm++ 2m, unipc",
  steps: "8, 14, 21",
  guidance_scale: "2, 4, 7.5",
  strength: "0.5, 0.75, 1",
  seed: "1, 2, 3",
  token_merging: "0, 0.25, 0.5",
  masked_content: "original, fill, noise",
  mask_padding: "16, 64, 256",
  mask_blur: "0, 4, 16",
  prompt: "a red circle | a blue star",
});
const MOST = 36;
const AT_ONCE = 4;
const POLL = 400;
const LARGEST_CELL = 512;

export class Compare {
  /** @type {Cell[]} */
  #cells = [];
  /** @type {(ImageBitmap | null)[]} */
  #pictures = [];
  #name = "";
  /** @type {AbortController | null} */
  #running = null;
  /** @type {string[]} */
  #addresses = [];

  /**
   * @param {() => Promise<Subject | null>} subject what is open now; null where there is nothing to be compared
   * @param {() => import("./controls.js").Controls | null} controls
   */
  constructor(subject, controls) {
    this.subject = subject;
    this.controls = controls;
    this.#axis("across", "scheduler");
    this.#axis("down", "steps");
    this.#count();
    byId("compare-run", HTMLButtonElement).addEventListener("click", () => this.#run());
    byId("compare-cancel", HTMLButtonElement).addEventListener("click", () => this.#running?.abort());
    byId("save-grid", HTMLButtonElement).addEventListener("click", () => this.#save());
    byId("save-manifest", HTMLButtonElement).addEventListener("click", () => this.#saveManifest());
  }

  /**
   * @param {"across" | "down"} side
   * @param {string} first
   */
  #axis(side, first) {
    const choice = byId(`${side}-name`, HTMLSelectElement);
    const values = byId(`${side}-values`, HTMLInputElement);
    choice.append(...Object.keys(PARAMETERS).map((name) => make("option", { value: name, text: text(name) })));
    choice.value = first;
    values.value = PARAMETERS[first];
    choice.addEventListener("change", () => {
      values.value = PARAMETERS[choice.value];
      this.#count();
    });
    values.addEventListener("input", () => this.#count());
  }

  /**
   * @param {"across" | "down"} side
   * @returns {Axis} values are separated by commas, or by bars where there are any
   */
  #read(side) {
    const given = byId(`${side}-values`, HTMLInputElement).value;
    const values = given.split(given.includes("|") ? "|" : ",").map((value) => value.trim());
    return { name: byId(`${side}-name`, HTMLSelectElement).value, values: values.filter((value) => value !== "") };
  }

  #count() {
    const count = this.#read("across").values.length * this.#read("down").values.length;
    byId("compare-run", HTMLButtonElement).textContent = text("compareRun", { count });
  }

  async #run() {
    const across = this.#read("across");
    const down = this.#read("down");
    const count = across.values.length * down.values.length;
    say("compare-error", "");
    if (across.name === down.name) return say("compare-error", text("compareSame"));
    if (count === 0) return say("compare-error", text("compareNone"));
    if (count > MOST) return say("compare-error", text("compareMost", { most: MOST }));
    const subject = await this.subject();
    if (subject === null) return;

    this.#name = subject.name;
    const running = new AbortController();
    this.#running = running;
    this.#show(true);
    try {
      this.#cells = await submitAll(subject, across, down, running.signal);
      await this.#wait(running.signal);
      this.#pictures = await Promise.all(this.#cells.map(pictureOf));
      await this.#render(across, down);
    } catch (error) {
      if (!running.signal.aborted) explain(error, this.controls(), "compare-error");
    } finally {
      if (running.signal.aborted) await Promise.all(this.#cells.map(({ job }) => api.cancel(job.id)));
      this.#running = null;
      this.#show(false);
    }
  }

  /** @param {boolean} isRunning */
  #show(isRunning) {
    byId("compare-run", HTMLButtonElement).disabled = isRunning;
    show(byId("compare-cancel", HTMLElement), isRunning);
    show(byId("compare-progress", HTMLElement), isRunning);
    byId("compare-progress", HTMLElement).textContent = text("sending");
    if (isRunning) show(byId("compare-result", HTMLElement), false);
  }

  /** @param {AbortSignal} signal */
  async #wait(signal) {
    const isOpen = (/** @type {Cell} */ { job }) => ["queued", "running"].includes(job.state);
    for (;;) {
      const open = this.#cells.filter(isOpen);
      const done = this.#cells.length - open.length;
      byId("compare-progress", HTMLElement).textContent = text("compareProgress", { done, count: this.#cells.length });
      if (open.length === 0) return;
      await new Promise((resolve) => setTimeout(resolve, POLL));
      signal.throwIfAborted();
      for (const cell of open) {
        try {
          cell.job = await api.job(cell.job.id);
        } catch (error) {
          if (!isTemporary(error)) throw error; // a server that restarts goes on with its jobs
        }
      }
    }
  }

  /**
   * @param {Axis} across
   * @param {Axis} down
   */
  async #render(across, down) {
    const failed = this.#cells.find(({ job }) => job.state !== "done");
    if (failed !== undefined) say("compare-error", text("failed", { message: failed.job.error?.message ?? failed.job.state }));
    if (this.#pictures.every((picture) => picture === null)) return;
    this.grid = { across, down, cells: this.#pictures };

    for (const address of this.#addresses) URL.revokeObjectURL(address);
    this.#addresses = [];
    const head = make("tr", {}, make("td"), ...across.values.map((value) => make("th", { scope: "col", text: value })));
    const rows = down.values.map((value, row) => this.#row(across, down.name, value, row));
    const names = { across: text(across.name), down: text(down.name) };
    const table = make("table", {}, make("caption", { text: text("compareGrid", names) }), head, ...(await Promise.all(rows)));
    byId("compare-table", HTMLElement).replaceChildren(table);
    show(byId("compare-result", HTMLElement), true);
  }

  /**
   * @param {Axis} across
   * @param {string} down
   * @param {string} y
   * @param {number} row
   */
  async #row(across, down, y, row) {
    const made = make("tr", {}, make("th", { scope: "row", text: y }));
    for (const [column, x] of across.values.entries()) {
      const picture = this.#pictures[row * across.values.length + column];
      const alt = text("cell", { across: text(across.name), x, down: text(down), y });
      made.append(make("td", {}, picture === null ? "–" : make("img", { src: await this.#address(picture), alt, title: alt })));
    }
    return made;
  }

  /** @param {ImageBitmap} picture */
  async #address(picture) {
    const canvas = new OffscreenCanvas(picture.width, picture.height);
    canvas.getContext("2d")?.drawImage(picture, 0, 0);
    const address = URL.createObjectURL(await canvas.convertToBlob({ type: "image/webp", quality: 0.92 }));
    this.#addresses.push(address);
    return address;
  }

  async #save() {
    if (this.grid !== undefined) download(await gridPicture(this.grid), "comparison.png");
  }

  #saveManifest() {
    const names = { image: this.#name, mask: "mask.png", origin: "" };
    const rows = this.#cells.map(({ fields }, at) => {
      const { init_image: _, ...rest } = fields;
      return asRow({ id: `cell-${at + 1}`, ...rest }, names);
    });
    download(new Blob([rows.join("\n"), "\n"], { type: "application/jsonl" }), "comparison.jsonl");
  }
}

/**
 * Submit a job for every cell.
 * @param {Subject} subject
 * @param {Axis} across
 * @param {Axis} down
 * @param {AbortSignal} signal
 * @returns {Promise<Cell[]>} row by row
 */
async function submitAll(subject, across, down, signal) {
  // One seed for all, or the grid would compare seeds too.
  const seed = subject.fields.seed ?? crypto.getRandomValues(new Uint32Array(1))[0];
  const requests = down.values.flatMap((y) =>
    across.values.map((x) => ({
      ...subject.fields,
      seed,
      samples: 1,
      [across.name]: valueOf(across.name, x),
      [down.name]: valueOf(down.name, y),
    })),
  );
  /** @type {Cell[]} */
  const cells = new Array(requests.length);
  let next = 0;
  const parts = { image: subject.image, mask: subject.mask, previewEvery: 0 };
  const work = async () => {
    while (next < requests.length) {
      signal.throwIfAborted();
      const at = next++;
      cells[at] = { fields: requests[at], job: await submitted(requests[at], parts, signal) };
    }
  };
  try {
    await Promise.all(Array.from({ length: AT_ONCE }, work));
  } catch (error) {
    next = requests.length;
    const accepted = cells.filter((cell) => cell !== undefined);
    await Promise.allSettled(accepted.map(({ job }) => api.cancel(job.id)));
    throw error;
  }
  return cells;
}

/**
 * @param {Cell} cell
 * @returns {Promise<ImageBitmap | null>} null where the job has not been done
 */
async function pictureOf({ job }) {
  if (job.result === null || job.result.images.length === 0) return null;
  const whole = await createImageBitmap(await api.file(job.result.images[0]));
  const factor = Math.min(1, LARGEST_CELL / Math.max(whole.width, whole.height));
  if (factor === 1) return whole;
  return createImageBitmap(whole, {
    resizeWidth: Math.max(1, Math.round(whole.width * factor)),
    resizeHeight: Math.max(1, Math.round(whole.height * factor)),
    resizeQuality: "high",
  });
}
