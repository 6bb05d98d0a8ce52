/**
 * What is drawn: the picture, a running job's preview, the mask as a veil, and marks above it. Each is a canvas of the
 * stage's own size, so that a stroke on a large picture costs what is seen of it.
 */

import { THRESHOLD } from "./mask.js";
import { View } from "./view.js";

/**
 * @typedef {import("./shapes.js").Box} Box
 * @typedef {import("./shapes.js").Point} Point
 * @typedef {{image: CanvasImageSource, box: Box}} Overlay an image that lies over a part of the picture
 */

// Opaque pixels of the veil as little-endian RGBA; how transparent it is, is CSS.
const VEIL = 0xff_ff_3c_c8;

export class Stage {
  view = new View();
  /** @type {import("./picture.js").Picture | null} */
  picture = null;
  /** @type {import("./mask.js").Mask | null} */
  mask = null;
  /** @type {Overlay | null} */
  preview = null;
  /** @type {ImageBitmap | null} the result that is compared with the picture */
  after = null;
  /** Where the picture ends and the result begins, 0 … 1 of the picture's width. */
  split = 0.5;
  /** Standard deviation of the mask's feather, in pixels of the picture. */
  feather = 0;
  /** @type {(context: CanvasRenderingContext2D, stage: Stage) => void} draws the marks above everything */
  marks = () => {};

  #isPictureStale = true;
  #isMarkStale = true;
  /** @type {Box | null} part of the veil that is to be drawn again, in device pixels */
  #staleVeil = null;
  #isScheduled = false;

  /**
   * @param {HTMLElement} root
   * @param {HTMLCanvasElement[]} canvases for picture, veil and marks, from below
   * @param {SVGFEGaussianBlurElement} blur of the filter that feathers the veil
   */
  constructor(root, [picture, veil, marks], blur) {
    this.root = root;
    this.pictureCanvas = picture;
    this.veilCanvas = veil;
    this.marksCanvas = marks;
    this.blur = blur;
    new ResizeObserver(() => this.#resize()).observe(root);
    this.#resize();
  }

  /** Device pixels for each pixel of CSS. */
  get ratio() {
    return window.devicePixelRatio || 1;
  }

  /** The stage in device pixels. */
  get size() {
    return { width: this.pictureCanvas.width, height: this.pictureCanvas.height };
  }

  /** The middle of the stage. */
  get middle() {
    return { x: this.size.width / 2, y: this.size.height / 2 };
  }

  /** Show the whole picture. */
  fit() {
    if (this.picture === null) return;
    this.view.fit(this.picture, this.size);
    this.refresh();
  }

  /** Draw everything again, at the next frame. */
  refresh() {
    this.#isPictureStale = this.#isMarkStale = true;
    this.#staleVeil = [0, 0, this.size.width, this.size.height];
    this.#schedule();
  }

  /** Draw the picture again, with preview or result. */
  refreshPicture() {
    this.#isPictureStale = true;
    this.#schedule();
  }

  /** Draw the marks again. */
  refreshMarks() {
    this.#isMarkStale = true;
    this.#schedule();
  }

  /**
   * Draw a part of the mask again.
   * @param {Box | null} box in pixels of the picture; null is nothing
   */
  refreshMask(box) {
    if (box === null) return;
    const from = this.view.toStage({ x: box[0], y: box[1] });
    const to = this.view.toStage({ x: box[2], y: box[3] });
    /** @type {Box} */
    const part = [Math.floor(from.x) - 1, Math.floor(from.y) - 1, Math.ceil(to.x) + 1, Math.ceil(to.y) + 1];
    this.#staleVeil = this.#staleVeil === null ? part : around(this.#staleVeil, part);
    this.#isMarkStale = true;
    this.#schedule();
  }

  /**
   * Where an event is on the stage, in device pixels.
   * @param {{clientX: number, clientY: number}} event
   * @returns {Point}
   */
  pointOf(event) {
    const { left, top } = this.root.getBoundingClientRect();
    return { x: (event.clientX - left) * this.ratio, y: (event.clientY - top) * this.ratio };
  }

  #resize() {
    const width = Math.max(1, Math.round(this.root.clientWidth * this.ratio));
    const height = Math.max(1, Math.round(this.root.clientHeight * this.ratio));
    for (const canvas of [this.pictureCanvas, this.veilCanvas, this.marksCanvas]) {
      if (canvas.width !== width) canvas.width = width;
      if (canvas.height !== height) canvas.height = height;
    }
    if (this.view.isFitted) this.fit();
    this.refresh();
  }

  #schedule() {
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    requestAnimationFrame(() => {
      this.#isScheduled = false;
      this.#draw();
    });
  }

  #draw() {
    if (this.#isPictureStale) this.#drawPicture();
    if (this.#staleVeil !== null) this.#drawVeil(this.#staleVeil);
    if (this.#isMarkStale) {
      const context = contextOf(this.marksCanvas);
      context.clearRect(0, 0, this.size.width, this.size.height);
      this.marks(context, this);
    }
    this.#isPictureStale = this.#isMarkStale = false;
    this.#staleVeil = null;
  }

  #drawPicture() {
    const context = contextOf(this.pictureCanvas);
    const { width, height } = this.size;
    context.clearRect(0, 0, width, height);
    const picture = this.picture;
    if (picture === null) return;

    const isReduced = this.view.scale <= picture.small.width / picture.width;
    context.imageSmoothingEnabled = this.view.scale < 3;
    context.imageSmoothingQuality = "medium";
    this.#place(context, isReduced ? picture.small : picture.bitmap, [0, 0, picture.width, picture.height]);
    if (this.preview !== null) this.#place(context, this.preview.image, this.preview.box);
    if (this.after === null) return;

    const seam = this.view.toStage({ x: this.split * picture.width, y: 0 }).x;
    context.save();
    context.beginPath();
    context.rect(seam, 0, width - seam, height);
    context.clip();
    this.#place(context, this.after, [0, 0, picture.width, picture.height]);
    context.restore();
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {CanvasImageSource} image
   * @param {Box} box
   */
  #place(context, image, [x0, y0, x1, y1]) {
    const { x, y, scale } = this.view;
    context.drawImage(image, x + x0 * scale, y + y0 * scale, (x1 - x0) * scale, (y1 - y0) * scale);
  }

  /** @param {Box} part */
  #drawVeil(part) {
    const { width, height } = this.size;
    const [x0, y0] = [Math.max(0, part[0]), Math.max(0, part[1])];
    const [columns, rows] = [Math.min(width, part[2]) - x0, Math.min(height, part[3]) - y0];
    if (columns <= 0 || rows <= 0) return;
    const context = contextOf(this.veilCanvas);
    const mask = this.mask;
    this.veilCanvas.classList.toggle("is-hidden", this.after !== null || this.preview !== null);
    if (mask === null) {
      context.clearRect(x0, y0, columns, rows);
      return;
    }

    const image = context.createImageData(columns, rows);
    const pixels = new Uint32Array(image.data.buffer);
    const sources = this.#sources(x0, columns, this.view.x, mask.width);
    const lines = this.#sources(y0, rows, this.view.y, mask.height);
    for (let y = 0; y < rows; y++) {
      if (lines[y] < 0) continue;
      const line = lines[y] * mask.width;
      for (let x = 0; x < columns; x++) {
        if (sources[x] >= 0 && mask.data[line + sources[x]] >= THRESHOLD) pixels[y * columns + x] = VEIL;
      }
    }
    context.putImageData(image, x0, y0);
    this.#setFeather();
  }

  #setFeather() {
    const deviation = (this.feather * this.view.scale) / this.ratio;
    const isSeen = deviation >= 0.4;
    this.veilCanvas.classList.toggle("is-feathered", isSeen);
    if (isSeen) this.blur.setAttribute("stdDeviation", deviation.toFixed(2));
  }

  /**
   * The pixel of the mask under the center of each of `count` pixels of the stage; -1 where there is none.
   * @param {number} start
   * @param {number} count
   * @param {number} offset
   * @param {number} limit
   */
  #sources(start, count, offset, limit) {
    const found = new Int32Array(count);
    for (let at = 0; at < count; at++) {
      const source = Math.floor((start + at + 0.5 - offset) / this.view.scale);
      found[at] = source >= 0 && source < limit ? source : -1;
    }
    return found;
  }
}

/**
 * @param {HTMLCanvasElement} canvas
 * @returns {CanvasRenderingContext2D}
 */
function contextOf(canvas) {
  const context = canvas.getContext("2d");
  if (context === null) throw new Error("this browser has no 2D canvas");
  return context;
}

/**
 * @param {Box} one
 * @param {Box} other
 * @returns {Box}
 */
export function around(one, other) {
  return [
    Math.min(one[0], other[0]),
    Math.min(one[1], other[1]),
    Math.max(one[2], other[2]),
    Math.max(one[3], other[3]),
  ];
}
