/** Mouse, pen and fingers on the stage: strokes for the tool in hand, zoom by wheel and pinch, pan. */

/**
 * @typedef {import("./shapes.js").Point} Point
 * @typedef {object} Strokes is given what is drawn, in pixels of the picture
 * @property {() => boolean} canDraw
 * @property {(point: Point, keys: import("./tools.js").Keys) => void} begin
 * @property {(point: Point, keys: import("./tools.js").Keys) => void} move
 * @property {(point: Point) => void} end
 * @property {() => void} cancel
 * @property {(point: Point | null) => void} hover
 */

const LEFT = 0;
const MIDDLE = 1;
const PEN_ERASER = 5;

export class Gestures {
  /** Whether the space bar is held, with which everything pans. */
  isPanning = false;
  /** @type {Map<number, Point>} fingers and buttons that are down, on the stage */
  #down = new Map();
  /** @type {"draw" | "move" | null} */
  #mode = null;

  /**
   * @param {import("./stage.js").Stage} stage
   * @param {Strokes} strokes
   */
  constructor(stage, strokes) {
    this.stage = stage;
    this.strokes = strokes;
    const root = stage.root;
    root.addEventListener("pointerdown", (event) => this.#press(event));
    root.addEventListener("pointermove", (event) => this.#moved(event));
    root.addEventListener("pointerup", (event) => this.#release(event));
    root.addEventListener("pointercancel", (event) => this.#lost(event));
    root.addEventListener("pointerleave", () => this.strokes.hover(null));
    root.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    root.addEventListener("contextmenu", (event) => event.preventDefault());
  }

  /** @param {PointerEvent} event */
  #press(event) {
    if (this.stage.picture === null || ![LEFT, MIDDLE, PEN_ERASER].includes(event.button)) return;
    this.stage.root.focus({ preventScroll: true });
    this.stage.root.setPointerCapture(event.pointerId);
    const point = this.stage.pointOf(event);
    this.#down.set(event.pointerId, point);
    event.preventDefault();

    if (this.#down.size > 1) {
      if (this.#mode === "draw") this.strokes.cancel(); // it was the first finger of a pinch
      this.#mode = "move";
    } else if (this.isPanning || event.button === MIDDLE || !this.strokes.canDraw()) {
      this.#mode = "move";
    } else {
      this.#mode = "draw";
      this.strokes.begin(this.stage.view.toPicture(point), keysOf(event));
    }
  }

  /** @param {PointerEvent} event */
  #moved(event) {
    const point = this.stage.pointOf(event);
    if (event.pointerType !== "touch") this.strokes.hover(this.stage.view.toPicture(point));
    const before = this.#down.get(event.pointerId);
    if (before === undefined) return;

    if (this.#mode === "draw") {
      const events = event.getCoalescedEvents?.() ?? [];
      for (const each of events.length > 0 ? events : [event]) {
        this.strokes.move(this.stage.view.toPicture(this.stage.pointOf(each)), keysOf(event));
      }
    } else if (this.#mode === "move") {
      this.#pinch(event.pointerId, before, point);
    }
    this.#down.set(event.pointerId, point);
  }

  /** @param {PointerEvent} event */
  #release(event) {
    if (!this.#down.delete(event.pointerId)) return;
    if (this.#mode === "draw") this.strokes.end(this.stage.view.toPicture(this.stage.pointOf(event)));
    if (this.#down.size === 0) this.#mode = null;
  }

  /** @param {PointerEvent} event */
  #lost(event) {
    if (!this.#down.delete(event.pointerId)) return;
    if (this.#mode === "draw") this.strokes.cancel();
    if (this.#down.size === 0) this.#mode = null;
  }

  /**
   * One of the fingers has moved: with another one down the picture is zoomed about that, alone it is panned.
   * @param {number} id
   * @param {Point} before
   * @param {Point} after
   */
  #pinch(id, before, after) {
    const others = [...this.#down].filter(([other]) => other !== id);
    if (others.length > 0) {
      const still = others[0][1];
      const distance = Math.hypot(before.x - still.x, before.y - still.y);
      const factor = Math.hypot(after.x - still.x, after.y - still.y) / Math.max(distance, 1);
      this.stage.view.zoom(factor, still);
    } else {
      this.stage.view.pan(after.x - before.x, after.y - before.y);
    }
    this.stage.refresh();
  }

  /** @param {WheelEvent} event */
  #wheel(event) {
    if (this.stage.picture === null) return;
    event.preventDefault();
    const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 16 : 1;
    const speed = event.ctrlKey ? 0.01 : 0.0016; // a touchpad's pinch comes as small steps with Ctrl
    this.stage.view.zoom(Math.exp(-event.deltaY * lines * speed), this.stage.pointOf(event));
    this.stage.refresh();
  }
}

/**
 * @param {PointerEvent} event
 * @returns {import("./tools.js").Keys}
 */
function keysOf(event) {
  return { shift: event.shiftKey, erases: event.altKey || event.button === PEN_ERASER || (event.buttons & 32) !== 0 };
}
