/** The picture and its mask under the tools: strokes, commands on all of the mask, undo and redo. */

import { Mask } from "./mask.js";
import { grown, shrunk } from "./morphology.js";
import { readMask } from "./picture.js";
import { encodeGray } from "./png.js";
import { BrushTool, LassoTool, RectangleTool } from "./tools.js";
import { UndoStack } from "./undo_stack.js";

/**
 * @typedef {import("./shapes.js").Point} Point
 * @typedef {"brush" | "eraser" | "rectangle" | "lasso"} ToolName
 */

const LARGEST_BRUSH = 4000;

export class Editor {
  /** @type {Mask | null} */
  mask = null;
  brush = { size: 40, hardness: 1 };
  /** @type {ToolName} */
  toolName = "brush";
  /** @type {Point | null} where the pointer is, or the keyboard's cursor */
  cursor = null;
  isDrawing = false;
  undoStack = new UndoStack();
  /** @type {() => void} is called once a change of the mask is complete */
  onChange = () => {};
  /** @type {() => void} is called when tool or brush have changed */
  onTool = () => {};
  /** @type {() => boolean} whether the mask may be changed now */
  canEdit = () => true;

  /** @param {import("./stage.js").Stage} stage */
  constructor(stage) {
    this.stage = stage;
    /** @type {import("./tools.js").Easel} */
    const easel = {
      mask: () => this.#mask(),
      brush: this.brush,
      changed: (box) => stage.refreshMask(box),
    };
    /** @type {Record<ToolName, import("./tools.js").Tool>} */
    this.tools = {
      brush: new BrushTool(easel, false),
      eraser: new BrushTool(easel, true),
      rectangle: new RectangleTool(easel),
      lasso: new LassoTool(easel),
    };
  }

  get tool() {
    return this.tools[this.toolName];
  }

  /**
   * Begin with another picture, and a mask for it.
   * @param {import("./picture.js").Picture} picture
   * @param {Mask} [mask]
   */
  open(picture, mask = new Mask(picture.width, picture.height)) {
    this.mask = this.stage.mask = mask;
    this.stage.picture = picture;
    this.undoStack = new UndoStack();
    this.cursor = null;
    this.stage.fit();
    this.stage.refresh();
    this.onChange();
  }

  /** @param {ToolName} name */
  choose(name) {
    this.cancel();
    this.toolName = name;
    this.stage.refreshMarks();
    this.onTool();
  }

  /** @param {number} size diameter in pixels of the picture */
  resizeBrush(size) {
    this.brush.size = Math.min(LARGEST_BRUSH, Math.max(1, Math.round(size)));
    this.stage.refreshMarks();
    this.onTool();
  }

  canDraw() {
    return this.mask !== null && this.canEdit();
  }

  /**
   * @param {Point} point
   * @param {import("./tools.js").Keys} keys
   */
  begin(point, keys) {
    this.isDrawing = true;
    this.cursor = point;
    this.tool.begin(point, keys);
    this.stage.refreshMarks();
  }

  /**
   * @param {Point} point
   * @param {import("./tools.js").Keys} keys
   */
  move(point, keys) {
    this.cursor = point;
    if (this.isDrawing) this.tool.move(point, keys);
    this.stage.refreshMarks();
  }

  /** @param {Point} point */
  end(point) {
    if (!this.isDrawing) return;
    this.isDrawing = false;
    this.tool.end(point);
    this.#record(this.#mask().end());
  }

  /** Take what is being drawn back. */
  cancel() {
    if (!this.isDrawing) return;
    this.isDrawing = false;
    this.tool.cancel();
    this.#mask().cancel();
    this.stage.refresh();
  }

  /** @param {Point | null} point */
  hover(point) {
    this.cursor = point;
    this.stage.refreshMarks();
  }

  undo() {
    if (this.mask === null || !this.canEdit()) return;
    this.cancel();
    this.undoStack.undo(this.mask);
    this.#changed();
  }

  redo() {
    if (this.mask === null || !this.canEdit()) return;
    this.cancel();
    this.undoStack.redo(this.mask);
    this.#changed();
  }

  clear() {
    this.#replace((mask) => new Uint8Array(mask.data.length));
  }

  fill() {
    this.#replace((mask) => new Uint8Array(mask.data.length).fill(255));
  }

  invert() {
    this.#replace((mask) => mask.data.map((value) => 255 - value));
  }

  /** @param {number} radius pixels; below 0 the mask is shrunk */
  grow(radius) {
    this.#replace((mask) => (radius > 0 ? grown(mask, radius) : shrunk(mask, -radius)));
  }

  /**
   * Replace the mask by a file's.
   * @param {Blob} file
   * @returns {Promise<{width: number, height: number} | null>} the file's size where it has another shape than the
   *   picture, and nothing was done
   */
  async load(file) {
    const mask = this.#mask();
    const { levels, width, height } = await readMask(file, mask.width, mask.height);
    const isOfShape = Math.abs((width * mask.height) / (height * mask.width) - 1) <= 0.02;
    if (!isOfShape) return { width, height };
    this.#replace(() => levels);
    return null;
  }

  /** The mask as a file. */
  file() {
    const mask = this.#mask();
    return encodeGray(mask.data, mask.width, mask.height);
  }

  /** @param {(mask: Mask) => Uint8Array} made */
  #replace(made) {
    if (this.mask === null || !this.canEdit()) return;
    this.cancel();
    this.#record(this.mask.replace(made(this.mask)));
    this.stage.refresh();
  }

  /** @param {import("./mask.js").Change | null} change */
  #record(change) {
    if (change === null) return;
    this.undoStack.push(change);
    this.#changed();
  }

  #changed() {
    this.stage.refresh();
    this.onChange();
  }

  #mask() {
    if (this.mask === null) throw new Error("there is no picture yet");
    return this.mask;
  }
}
