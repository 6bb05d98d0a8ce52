/**
 * The tools that change the mask: what they do from the press of a button to its release.
 * @typedef {import("./shapes.js").Point} Point
 * @typedef {import("./stage.js").Stage} Stage
 * @typedef {{size: number, hardness: number}} Brush size is the diameter in pixels of the picture
 * @typedef {{shift: boolean, erases: boolean}} Keys what is held: Shift, and what turns a tool into its eraser (Alt, or
 *   the other end of a pen)
 * @typedef {object} Easel what tools work on
 * @property {() => import("./mask.js").Mask} mask
 * @property {Brush} brush
 * @property {(box: import("./shapes.js").Box | null) => void} changed a part of the mask is to be drawn again
 * @typedef {object} Tool
 * @property {(point: Point, keys: Keys) => void} begin
 * @property {(point: Point, keys: Keys) => void} move
 * @property {(point: Point) => void} end
 * @property {() => void} cancel
 * @property {(context: CanvasRenderingContext2D, stage: Stage, cursor: Point | null) => void} marks
 */

import { capsule, polygon, rectangle } from "./shapes.js";

// With Shift, a press and release this close together is a click: a line from where the last stroke ended.
const CLICK = 3;

/** @implements {Tool} */
export class BrushTool {
  /** @type {Point | null} where the stroke is; null while none is drawn */
  #at = null;
  /** @type {Point | null} where the last stroke has ended */
  #last = null;
  /** @type {Point | null} the other end of a straight line that is drawn once the button is released */
  #anchor = null;

  /**
   * @param {Easel} easel
   * @param {boolean} isErasing
   */
  constructor(easel, isErasing) {
    this.easel = easel;
    this.isErasing = isErasing;
  }

  /** @type {Tool["begin"]} */
  begin(point, keys) {
    this.easel.mask().begin(this.isErasing || keys.erases);
    this.#at = point;
    this.#anchor = keys.shift ? point : null;
    if (!keys.shift) this.#draw(point, point);
  }

  /** @type {Tool["move"]} */
  move(point) {
    if (this.#at === null) return;
    if (this.#anchor === null) this.#draw(this.#at, point);
    this.#at = point;
  }

  /** @type {Tool["end"]} */
  end(point) {
    if (this.#at === null) return;
    const anchor = this.#anchor;
    if (anchor !== null) {
      const isClick = Math.hypot(point.x - anchor.x, point.y - anchor.y) < CLICK;
      this.#draw(isClick && this.#last !== null ? this.#last : anchor, point);
    } else if (point.x !== this.#at.x || point.y !== this.#at.y) {
      this.#draw(this.#at, point);
    }
    this.#last = point;
    this.#at = this.#anchor = null;
  }

  cancel() {
    this.#at = this.#anchor = null;
  }

  /** @type {Tool["marks"]} */
  marks(context, stage, cursor) {
    if (cursor === null) return;
    const center = stage.view.toStage(cursor);
    const radius = (this.easel.brush.size / 2) * stage.view.scale;
    const from = this.#anchor;
    outlined(context, stage, () => {
      context.arc(center.x, center.y, Math.max(radius, 1), 0, 2 * Math.PI);
      if (this.easel.brush.hardness < 1) {
        context.moveTo(center.x + radius * this.easel.brush.hardness, center.y);
        context.arc(center.x, center.y, radius * this.easel.brush.hardness, 0, 2 * Math.PI);
      }
      if (from === null) return;
      const start = stage.view.toStage(from);
      context.moveTo(start.x, start.y);
      context.lineTo(center.x, center.y);
    });
  }

  /**
   * @param {Point} from
   * @param {Point} to
   */
  #draw(from, to) {
    const { size, hardness } = this.easel.brush;
    this.easel.changed(this.easel.mask().stamp(capsule(from, to, size / 2, hardness)));
  }
}

/** Draws a shape between the press and the release: a rectangle, or whatever is encircled. */
class ShapeTool {
  /** @type {Point[]} */
  points = [];

  /** @param {Easel} easel */
  constructor(easel) {
    this.easel = easel;
  }

  /** @type {Tool["begin"]} */
  begin(point, keys) {
    this.easel.mask().begin(keys.erases);
    this.points = [point];
  }

  cancel() {
    this.points = [];
  }
}

/** @implements {Tool} */
export class RectangleTool extends ShapeTool {
  /** @type {Tool["move"]} */
  move(point) {
    if (this.points.length > 0) this.points[1] = point;
  }

  /** @type {Tool["end"]} */
  end(point) {
    if (this.points.length > 0) this.easel.changed(this.easel.mask().stamp(rectangle(this.points[0], point)));
    this.points = [];
  }

  /** @type {Tool["marks"]} */
  marks(context, stage) {
    if (this.points.length < 2) return;
    const from = stage.view.toStage(this.points[0]);
    const to = stage.view.toStage(this.points[1]);
    outlined(context, stage, () => context.rect(from.x, from.y, to.x - from.x, to.y - from.y));
  }
}

/** @implements {Tool} */
export class LassoTool extends ShapeTool {
  /** @type {Tool["move"]} */
  move(point) {
    if (this.points.length > 0) this.points.push(point);
  }

  /** @type {Tool["end"]} */
  end(point) {
    if (this.points.length > 1) this.easel.changed(this.easel.mask().stamp(polygon([...this.points, point])));
    this.points = [];
  }

  /** @type {Tool["marks"]} */
  marks(context, stage) {
    if (this.points.length < 2) return;
    outlined(context, stage, () => {
      for (const point of this.points) {
        const at = stage.view.toStage(point);
        context.lineTo(at.x, at.y);
      }
    });
  }
}

/**
 * A line that is seen on any picture: dark, with a light one inside.
 * @param {CanvasRenderingContext2D} context
 * @param {Stage} stage
 * @param {() => void} path
 */
export function outlined(context, stage, path) {
  context.beginPath();
  path();
  context.lineWidth = 3 * stage.ratio;
  context.strokeStyle = "rgb(0 0 0 / 55%)";
  context.stroke();
  context.lineWidth = 1.25 * stage.ratio;
  context.strokeStyle = "white";
  context.stroke();
}
