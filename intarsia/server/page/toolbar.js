/** The buttons around the stage: tools, brush, commands on the mask, zoom, and what the mask covers. */

import { byId, download } from "./dom.js";
import { zoom } from "./keyboard.js";
import { UnreadablePicture } from "./picture.js";
import { text } from "./texts.js";

/** @typedef {import("./editor.js").ToolName} ToolName */

const ZOOM = 1.4;

// The size slider is logarithmic: 0 … 100 is 1 … 2000 pixels.
const SLIDER = 100 / Math.log(2000);

export class Toolbar {
  #undo = byId("undo", HTMLButtonElement);
  #redo = byId("redo", HTMLButtonElement);
  #size = byId("brush-size", HTMLInputElement);
  #pixels = byId("brush-pixels", HTMLInputElement);
  #hardness = byId("brush-hardness", HTMLInputElement);
  #error = byId("mask-error", HTMLElement);

  /** @param {import("./editor.js").Editor} editor */
  constructor(editor) {
    this.editor = editor;
    this.#tools();
    this.#brush();
    this.#commands();
    this.update();
  }

  /** Show the state of tools and mask. */
  update() {
    const { editor } = this;
    for (const tool of document.querySelectorAll("[data-tool]")) {
      tool.setAttribute("aria-pressed", String(tool.getAttribute("data-tool") === editor.toolName));
    }
    this.#size.value = String(Math.round(Math.log(editor.brush.size) * SLIDER));
    this.#size.setAttribute("aria-valuetext", `${editor.brush.size} ${text("pixels")}`);
    if (document.activeElement !== this.#pixels) this.#pixels.value = String(editor.brush.size);
    this.#hardness.value = String(Math.round(100 * editor.brush.hardness));
    this.#undo.disabled = !editor.undoStack.canUndo || !editor.canEdit();
    this.#redo.disabled = !editor.undoStack.canRedo || !editor.canEdit();

    const { mask } = editor;
    const percent = mask === null ? 0 : 100 * mask.share;
    const digits = percent > 0 && percent < 1 ? 2 : 1;
    byId("coverage", HTMLElement).textContent = mask === null ? "" : text("coverage", { percent: percent.toFixed(digits) });
    byId("picture-size", HTMLElement).textContent = mask === null ? "" : text("pictureSize", { ...sizeOf(mask) });
    if (percent > 0) this.sayMaskError("");
  }

  /** @param {string} message "" for none */
  sayMaskError(message) {
    this.#error.textContent = message;
    this.#error.hidden = message === "";
  }

  #tools() {
    for (const tool of document.querySelectorAll("[data-tool]")) {
      tool.addEventListener("click", () => {
        this.editor.choose(/** @type {ToolName} */ (tool.getAttribute("data-tool")));
      });
    }
  }

  #brush() {
    this.#size.addEventListener("input", () => this.editor.resizeBrush(Math.exp(Number(this.#size.value) / SLIDER)));
    this.#pixels.addEventListener("input", () => this.editor.resizeBrush(Number(this.#pixels.value) || 1));
    this.#hardness.addEventListener("input", () => {
      this.editor.brush.hardness = Number(this.#hardness.value) / 100;
      this.editor.stage.refreshMarks();
    });
  }

  #commands() {
    const { editor } = this;
    const radius = () => Math.max(1, Math.min(200, Math.round(Number(byId("grow-by", HTMLInputElement).value) || 1)));
    /** @type {Record<string, () => void>} */
    const commands = {
      undo: () => editor.undo(),
      redo: () => editor.redo(),
      invert: () => editor.invert(),
      fill: () => editor.fill(),
      clear: () => editor.clear(),
      grow: () => editor.grow(radius()),
      shrink: () => editor.grow(-radius()),
      "zoom-in": () => zoom(editor, ZOOM),
      "zoom-out": () => zoom(editor, 1 / ZOOM),
      "zoom-fit": () => editor.stage.fit(),
      "load-mask": () => byId("mask-file", HTMLInputElement).click(),
    };
    for (const [id, command] of Object.entries(commands)) {
      byId(id, HTMLButtonElement).addEventListener("click", () => {
        if (editor.mask !== null) command();
      });
    }
    byId("save-mask", HTMLButtonElement).addEventListener("click", async () => {
      if (editor.mask !== null) download(await editor.file(), "mask.png");
    });
    byId("mask-file", HTMLInputElement).addEventListener("change", (event) => this.#load(event));
  }

  /** @param {Event} event */
  async #load(event) {
    const input = /** @type {HTMLInputElement} */ (event.target);
    const file = input.files?.[0];
    input.value = ""; // so that the same file can be chosen again
    if (file === undefined || this.editor.mask === null) return;
    try {
      const other = await this.editor.load(file);
      if (other === null) return;
      const values = { name: file.name, maskWidth: other.width, maskHeight: other.height, ...sizeOf(this.editor.mask) };
      this.sayMaskError(text("wrongMask", values));
    } catch (error) {
      if (!(error instanceof UnreadablePicture)) throw error;
      this.sayMaskError(text("unreadable", { name: file.name }));
    }
  }
}

/** @param {{width: number, height: number}} of */
function sizeOf({ width, height }) {
  return { width, height };
}
