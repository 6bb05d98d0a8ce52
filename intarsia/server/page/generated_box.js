/** The part of the picture that will be generated: the server's own rule. */

/** @typedef {import("./shapes.js").Box} Box */

// More than this many times the model's own area, or a longer side, is scaled down.
const LARGEST_AREA = 2.25;
const LARGEST_SIDE = 2048;

/**
 * Whether only the mask's surroundings are generated: with `auto` where the whole would be scaled down.
 * @param {{width: number, height: number}} picture
 * @param {{padding: string, native: number, width: number | null, height: number | null}} options
 */
export function followsMask(picture, { padding, native, width, height }) {
  if (padding !== "auto") return padding !== "whole" && Number.isFinite(Number(padding));
  if (width === null && height === null) {
    const longest = Math.max(picture.width, picture.height);
    const scale = native * Math.sqrt(LARGEST_AREA / picture.width / picture.height);
    return longest > LARGEST_SIDE || Math.round(longest * scale) < longest;
  }
  // One side that is not asked for follows the other, up to the largest.
  const across = width ?? Math.min(LARGEST_SIDE, Math.round(((height ?? 0) * picture.width) / picture.height));
  const down = height ?? Math.min(LARGEST_SIDE, Math.round((across * picture.height) / picture.width));
  return across < picture.width || down < picture.height;
}

/**
 * @param {{width: number, height: number}} picture
 * @param {Box} mask box of the mask, grown as the request grows it
 * @param {{padding: number, blur: number, native: number, width: number | null, height: number | null}} options
 *   padding and blur of the request, the side that the model is made for, and the generation size where one is asked for
 * @returns {Box}
 */
export function generatedBox(picture, [left, top, right, bottom], options) {
  const maskWidth = right - left;
  const maskHeight = bottom - top;
  const context = Math.max(
    Math.ceil(Math.max(picture.width, picture.height) / 16),
    Math.ceil(Math.max(maskWidth, maskHeight) / 2),
    options.padding,
    options.blur > 0 ? Math.ceil(4 * options.blur) + 2 : 0,
  );
  const leastWidth = options.width ?? options.height ?? options.native;
  const leastHeight = options.height ?? options.width ?? options.native;
  let width = Math.max(maskWidth + 2 * context, leastWidth);
  let height = Math.max(maskHeight + 2 * context, leastHeight);
  width = Math.max(width, Math.ceil((height * leastWidth) / leastHeight));
  height = Math.max(height, Math.ceil((width * leastHeight) / leastWidth));

  const [x0, x1] = interval(left, right, width, picture.width);
  const [y0, y1] = interval(top, bottom, height, picture.height);
  return [x0, y0, x1, y1];
}

/**
 * `length` pixels around the middle of start … end, inside 0 … limit.
 * @param {number} start
 * @param {number} end
 * @param {number} length
 * @param {number} limit
 * @returns {[number, number]}
 */
function interval(start, end, length, limit) {
  const inside = Math.min(length, limit);
  const centered = Math.floor((start + end - inside) / 2);
  const first = Math.min(Math.max(0, centered), limit - inside);
  return [first, first + inside];
}
