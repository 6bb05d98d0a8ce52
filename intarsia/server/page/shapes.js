/**
 * Shapes as coverage: how much of each pixel of the mask a stroke covers, 0 to 255. A pixel counts by its center.
 * @typedef {{x: number, y: number}} Point in pixels of the picture; pixel (0, 0) has its center at (0.5, 0.5)
 * @typedef {[number, number, number, number]} Box x0, y0, x1, y1 in whole pixels, ends excluded
 * @typedef {{box: Box, row: (y: number, x0: number, x1: number, out: Uint8Array) => void}} Shape `row` writes the
 *   coverage of the pixels x0 … x1 of row y to the beginning of `out`
 */

/**
 * A round brush drawn along a line: all pixels within `radius` of it.
 * @param {Point} from
 * @param {Point} to
 * @param {number} radius in pixels
 * @param {number} hardness 0 … 1: the part of the radius that is covered wholly; from there it falls to 0
 * @returns {Shape}
 */
export function capsule(from, to, radius, hardness) {
  const dx = to.x - from.x;
  const dy = to.y - from.y;
  const squaredLength = dx * dx + dy * dy;
  const inner = radius * hardness;
  const fall = radius - inner;
  const squaredRadius = radius * radius;
  const squaredInner = fall > 0 ? inner * inner : squaredRadius;

  /** @type {Shape["row"]} */
  const row = (y, x0, x1, out) => {
    const py = y + 0.5 - from.y;
    for (let x = x0; x < x1; x++) {
      const px = x + 0.5 - from.x;
      let along = 0;
      if (squaredLength > 0) along = Math.min(1, Math.max(0, (px * dx + py * dy) / squaredLength));
      const ex = px - along * dx;
      const ey = py - along * dy;
      const squared = ex * ex + ey * ey;

      let covered = 0;
      if (squared <= squaredInner) covered = 255;
      else if (squared <= squaredRadius) covered = Math.round((255 * (radius - Math.sqrt(squared))) / fall);
      out[x - x0] = covered;
    }
  };
  return {
    box: [
      Math.floor(Math.min(from.x, to.x) - radius),
      Math.floor(Math.min(from.y, to.y) - radius),
      Math.ceil(Math.max(from.x, to.x) + radius) + 1,
      Math.ceil(Math.max(from.y, to.y) + radius) + 1,
    ],
    row,
  };
}

/**
 * The pixels whose centers lie in the rectangle between two corners.
 * @param {Point} one
 * @param {Point} other
 * @returns {Shape}
 */
export function rectangle(one, other) {
  const x0 = Math.ceil(Math.min(one.x, other.x) - 0.5);
  const y0 = Math.ceil(Math.min(one.y, other.y) - 0.5);
  const x1 = Math.floor(Math.max(one.x, other.x) - 0.5) + 1;
  const y1 = Math.floor(Math.max(one.y, other.y) - 0.5) + 1;
  return { box: [x0, y0, x1, y1], row: (_y, from, to, out) => out.fill(255, 0, to - from) };
}

/**
 * The inside of a closed polygon, by the even-odd rule.
 * @param {Point[]} points
 * @returns {Shape}
 */
export function polygon(points) {
  const xs = points.map((point) => point.x);
  const ys = points.map((point) => point.y);
  /** @type {Map<number, number[]>} */
  const crossings = new Map();

  /** @type {Shape["row"]} */
  const row = (y, x0, x1, out) => {
    let at = crossings.get(y);
    if (at === undefined) {
      at = crossingsOf(points, y + 0.5);
      crossings.set(y, at);
    }
    out.fill(0, 0, x1 - x0);
    for (let pair = 0; pair + 1 < at.length; pair += 2) {
      const first = Math.max(x0, Math.ceil(at[pair] - 0.5));
      const last = Math.min(x1, Math.ceil(at[pair + 1] - 0.5));
      if (last > first) out.fill(255, first - x0, last - x0);
    }
  };
  const low = (/** @type {number[]} */ values) => Math.floor(values.reduce((a, b) => Math.min(a, b), Infinity));
  const high = (/** @type {number[]} */ values) => Math.ceil(values.reduce((a, b) => Math.max(a, b), -Infinity));
  return { box: [low(xs), low(ys), high(xs), high(ys)], row };
}

/**
 * Where the edges of a polygon cross a horizontal line, from left to right.
 * @param {Point[]} points
 * @param {number} y
 */
function crossingsOf(points, y) {
  const found = [];
  let before = points[points.length - 1];
  for (const point of points) {
    if (before.y <= y !== point.y <= y) {
      found.push(before.x + ((y - before.y) * (point.x - before.x)) / (point.y - before.y));
    }
    before = point;
  }
  return found.sort((a, b) => a - b);
}
