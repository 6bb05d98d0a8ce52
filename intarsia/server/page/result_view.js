/** A finished job over its picture: before and after, samples, and what can be done with them. */

import * as api from "./api.js";
import { byId, make, show } from "./dom.js";
import { decode } from "./picture.js";
import { text } from "./texts.js";
import { outlined } from "./tools.js";

/** @typedef {import("./shapes.js").Point} Point */

export class ResultView {
  /** @type {import("./api.js").JobResult | null} */
  result = null;
  /** @type {Blob[]} */
  files = [];
  selected = 0;
  /** @type {() => void} is called when it has opened or closed */
  onChange = () => {};
  #root = byId("result", HTMLElement);
  #samples = byId("samples", HTMLElement);
  #grid = byId("side-by-side", HTMLElement);
  #slider = byId("split", HTMLInputElement);
  #gridButton = byId("toggle-grid", HTMLButtonElement);
  /** @type {string[]} */
  #addresses = [];

  /** @param {import("./stage.js").Stage} stage */
  constructor(stage) {
    this.stage = stage;
    this.#slider.addEventListener("input", () => this.#moveTo(Number(this.#slider.value) / 100));
    this.#gridButton.addEventListener("click", () => this.#showGrid(this.#grid.hidden));
    byId("copy-image", HTMLButtonElement).addEventListener("click", () => this.#copy());
  }

  get isOpen() {
    return this.result !== null;
  }

  /** The file of the selected sample. */
  get file() {
    return this.files[this.selected];
  }

  /** The address of the selected sample. */
  get url() {
    return this.result?.images[this.selected] ?? "";
  }

  /** The seed of the selected sample. */
  get seed() {
    return this.result?.seeds[this.selected] ?? "";
  }

  /**
   * Show the images of a job.
   * @param {import("./api.js").JobResult} result
   */
  async open(result) {
    const files = await Promise.all(result.images.map((url) => api.file(url)));
    const first = await decode(files[0]);
    this.close();
    this.result = result;
    this.files = files;
    this.#addresses = files.map((file) => URL.createObjectURL(file));
    this.#samples.replaceChildren(...files.map((_, sample) => this.#thumbnail(sample)));
    this.#grid.replaceChildren(...files.map((_, sample) => this.#gridCell(sample)));
    show(this.#samples, files.length > 1);
    show(this.#gridButton, files.length > 1);
    show(this.#root, true);
    this.stage.root.classList.add("is-comparing");
    byId("warnings", HTMLElement).replaceChildren(...result.warnings.map((line) => make("li", { text: line })));
    this.#display(0, first);
    this.#moveTo(this.#besideMask());
    this.onChange();
  }

  /** Back to picture and mask. */
  close() {
    for (const address of this.#addresses) URL.revokeObjectURL(address);
    this.#addresses = [];
    this.result = null;
    this.files = [];
    this.stage.after?.close();
    this.stage.after = null;
    this.stage.root.classList.remove("is-comparing");
    this.#showGrid(false);
    show(this.#root, false);
    this.stage.refresh();
    this.onChange();
  }

  /** @param {number} sample */
  async select(sample) {
    const file = this.files[sample];
    this.selected = sample;
    const after = await decode(file);
    if (this.file === file) this.#display(sample, after);
    else after.close(); // another was chosen meanwhile
  }

  /**
   * @param {number} sample
   * @param {ImageBitmap} after its decoded file
   */
  #display(sample, after) {
    this.selected = sample;
    this.stage.after?.close();
    this.stage.after = after;
    for (const [at, each] of [...this.#samples.children].entries()) {
      each.setAttribute("aria-pressed", String(at === sample));
    }
    const link = byId("download", HTMLAnchorElement);
    link.href = api.filePath(this.url);
    link.download = `intarsia-${this.seed}.png`;
    this.#showGrid(false);
    this.stage.refresh();
  }

  /**
   * Move the seam to a point of the picture.
   * @param {Point} point
   */
  drag(point) {
    if (this.stage.picture !== null) this.#moveTo(point.x / this.stage.picture.width);
  }

  /** @param {CanvasRenderingContext2D} context */
  marks(context) {
    const { stage } = this;
    const picture = stage.picture;
    if (picture === null) return;
    const top = stage.view.toStage({ x: stage.split * picture.width, y: 0 });
    const bottom = stage.view.toStage({ x: 0, y: picture.height });
    const from = Math.max(0, top.y);
    const to = Math.min(stage.size.height, bottom.y);
    outlined(context, stage, () => {
      context.moveTo(top.x, from);
      context.lineTo(top.x, to);
      context.moveTo(top.x + 9 * stage.ratio, (from + to) / 2);
      context.arc(top.x, (from + to) / 2, 9 * stage.ratio, 0, 2 * Math.PI);
    });
  }

  /** Where the seam is at first: left of the mask, so that all of what is new is seen. */
  #besideMask() {
    const left = this.stage.mask?.bounds()?.[0] ?? 0;
    return left / (this.stage.picture?.width ?? 1) - 0.02;
  }

  /** @param {number} split 0 … 1 */
  #moveTo(split) {
    this.stage.split = Math.min(1, Math.max(0, split));
    const percent = String(Math.round(100 * this.stage.split));
    this.#slider.value = percent;
    this.#slider.setAttribute("aria-valuetext", `${percent} %`);
    this.stage.refreshPicture();
    this.stage.refreshMarks();
  }

  /** @param {number} sample */
  #thumbnail(sample) {
    const image = make("img", { src: this.#addresses[sample], alt: this.#name(sample) });
    const made = make("button", { type: "button", "aria-pressed": "false", title: this.#name(sample) }, image);
    made.addEventListener("click", () => this.select(sample));
    return made;
  }

  /** @param {number} sample */
  #gridCell(sample) {
    const image = make("img", { src: this.#addresses[sample], alt: "" });
    const made = make("button", { type: "button" }, image, make("span", { text: this.#name(sample) }));
    made.addEventListener("click", () => this.select(sample));
    return made;
  }

  /** @param {number} sample */
  #name(sample) {
    return text("sample", { number: sample + 1, seed: String(this.result?.seeds[sample]) });
  }

  /** @param {boolean} isShown */
  #showGrid(isShown) {
    show(this.#grid, isShown);
    this.#gridButton.setAttribute("aria-pressed", String(isShown));
  }

  async #copy() {
    const note = byId("result-note", HTMLElement);
    try {
      await navigator.clipboard.write([new ClipboardItem({ "image/png": this.file })]);
      note.textContent = text("copied");
    } catch {
      note.textContent = text("copyImageFailed");
    }
  }
}
