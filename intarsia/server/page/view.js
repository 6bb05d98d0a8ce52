/** Which part of the picture is seen, and how large: zoom and pan, in the stage's device pixels. */

/** @typedef {import("./shapes.js").Point} Point */

const LARGEST = 32;

export class View {
  scale = 1;
  x = 0;
  y = 0;
  /** Whether the whole picture is kept in sight when the stage's size changes. */
  isFitted = true;

  /**
   * @param {{width: number, height: number}} picture
   * @param {{width: number, height: number}} stage
   */
  fit(picture, stage) {
    const room = 0.94;
    this.scale = Math.min((room * stage.width) / picture.width, (room * stage.height) / picture.height, 4);
    this.x = (stage.width - picture.width * this.scale) / 2;
    this.y = (stage.height - picture.height * this.scale) / 2;
    this.isFitted = true;
  }

  /**
   * Zoom so that what is at a point of the stage stays there.
   * @param {number} factor
   * @param {Point} at
   */
  zoom(factor, at) {
    const scale = Math.min(LARGEST, Math.max(0.01, this.scale * factor));
    const applied = scale / this.scale;
    this.x = at.x - (at.x - this.x) * applied;
    this.y = at.y - (at.y - this.y) * applied;
    this.scale = scale;
    this.isFitted = false;
  }

  /**
   * @param {number} dx
   * @param {number} dy
   */
  pan(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.isFitted = false;
  }

  /**
   * A point of the stage in pixels of the picture.
   * @param {Point} point
   * @returns {Point}
   */
  toPicture(point) {
    return { x: (point.x - this.x) / this.scale, y: (point.y - this.y) / this.scale };
  }

  /**
   * A point of the picture on the stage.
   * @param {Point} point
   * @returns {Point}
   */
  toStage(point) {
    return { x: point.x * this.scale + this.x, y: point.y * this.scale + this.y };
  }
}
