/** Previews of a running job, cut to the mask and laid over their place in the picture. */

import { THRESHOLD } from "./mask.js";

/**
 * @typedef {import("./shapes.js").Box} Box
 * @typedef {{working: [number, number], crop: Box, width: number, height: number, resized: [number, number], offset: [number, number]}} Geometry
 *   of a job's plan: the picture's size, the part of it that is generated, and where that lies in what is generated
 */

// Sides of the cut-out: previews have the size of latents, so more shows nothing more.
const LARGEST = 768;

export class PreviewPainter {
  /**
   * @param {Geometry} geometry
   * @param {import("./mask.js").Mask} mask
   */
  constructor(geometry, mask) {
    this.geometry = geometry;
    const [x0, y0, x1, y1] = geometry.crop;
    const factor = Math.min(1, LARGEST / Math.max(x1 - x0, y1 - y0));
    this.width = Math.max(1, Math.round((x1 - x0) * factor));
    this.height = Math.max(1, Math.round((y1 - y0) * factor));
    this.cutOut = this.#cutOut(mask);
  }

  /**
   * @param {string} address data URI of the whole generated image, reduced
   * @returns {Promise<import("./stage.js").Overlay>}
   */
  async paint(address) {
    const image = new Image();
    image.src = address;
    await image.decode();

    const { crop, width, height, resized, offset } = this.geometry;
    const across = image.naturalWidth / width;
    const down = image.naturalHeight / height;
    const canvas = new OffscreenCanvas(this.width, this.height);
    const context = contextOf(canvas);
    context.imageSmoothingQuality = "high";
    context.drawImage(
      image,
      offset[0] * across,
      offset[1] * down,
      resized[0] * across,
      resized[1] * down,
      0,
      0,
      this.width,
      this.height,
    );
    context.globalCompositeOperation = "destination-in";
    context.drawImage(this.cutOut, 0, 0);
    return { image: canvas, box: crop };
  }

  /**
   * The mask of the generated part, as transparency.
   * @param {import("./mask.js").Mask} mask
   */
  #cutOut(mask) {
    const [x0, y0, x1, y1] = this.geometry.crop;
    const canvas = new OffscreenCanvas(this.width, this.height);
    const context = contextOf(canvas);
    const image = context.createImageData(this.width, this.height);
    for (let y = 0; y < this.height; y++) {
      const row = y0 + Math.floor(((y + 0.5) * (y1 - y0)) / this.height);
      for (let x = 0; x < this.width; x++) {
        const column = x0 + Math.floor(((x + 0.5) * (x1 - x0)) / this.width);
        const isOn = mask.data[row * mask.width + column] >= THRESHOLD;
        image.data[4 * (y * this.width + x) + 3] = isOn ? 255 : 0;
      }
    }
    context.putImageData(image, 0, 0);
    return canvas;
  }
}

/** @param {OffscreenCanvas} canvas */
function contextOf(canvas) {
  const context = canvas.getContext("2d");
  if (context === null) throw new Error("this browser has no 2D canvas");
  return context;
}
