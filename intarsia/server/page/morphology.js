/** A mask grown or shrunk by a disc, with hard edges: the same that the server's `mask_dilate` does. */

import { THRESHOLD } from "./mask.js";

/**
 * @param {import("./mask.js").Mask} mask
 * @param {number} radius whole pixels
 * @returns {Uint8Array} a mask of 0 and 255
 */
export function grown(mask, radius) {
  const hard = mask.data.map((value) => (value >= THRESHOLD ? 255 : 0));
  const bounds = mask.bounds();
  if (bounds !== null) dilate(hard, mask, bounds, radius);
  return hard;
}

/**
 * Beyond the picture's edge the mask counts as going on: what touches the edge stays there.
 * @param {import("./mask.js").Mask} mask
 * @param {number} radius whole pixels
 * @returns {Uint8Array} a mask of 0 and 255
 */
export function shrunk(mask, radius) {
  const rest = mask.data.map((value) => (value >= THRESHOLD ? 0 : 255));
  const bounds = mask.bounds();
  if (bounds !== null) dilate(rest, mask, bounds, radius);
  return rest.map((value) => 255 - value);
}

/**
 * Turn on every pixel within `radius` of one that is on, near the box.
 * @param {Uint8Array} pixels 0 and 255, changed
 * @param {{width: number, height: number}} size
 * @param {import("./shapes.js").Box} box what is to be looked at, and `radius` around it
 * @param {number} radius
 */
function dilate(pixels, { width, height }, box, radius) {
  const x0 = Math.max(0, box[0] - radius);
  const y0 = Math.max(0, box[1] - radius);
  const x1 = Math.min(width, box[2] + radius);
  const y1 = Math.min(height, box[3] + radius);
  const columns = x1 - x0;
  const distance = columnDistance(pixels, width, [x0, y0, x1, y1], radius + 1);

  // For each column of the disc, how far it reaches up and down.
  const reach = new Int32Array(2 * radius + 1);
  for (let shift = -radius; shift <= radius; shift++) {
    reach[shift + radius] = Math.floor(Math.sqrt(radius * radius - shift * shift));
  }
  for (let y = 0; y < y1 - y0; y++) {
    const row = distance.subarray(y * columns, (y + 1) * columns);
    for (let x = 0; x < columns; x++) {
      const first = Math.max(-radius, -x);
      const last = Math.min(radius, columns - 1 - x);
      for (let shift = first; shift <= last; shift++) {
        if (row[x + shift] > reach[shift + radius]) continue;
        pixels[(y0 + y) * width + x0 + x] = 255;
        break;
      }
    }
  }
}

/**
 * Each pixel's distance to the next pixel of its column that is on.
 * @param {Uint8Array} pixels
 * @param {number} width
 * @param {import("./shapes.js").Box} box
 * @param {number} most larger distances are cut to this
 */
function columnDistance(pixels, width, [x0, y0, x1, y1], most) {
  const columns = x1 - x0;
  const rows = y1 - y0;
  const distance = new Uint16Array(columns * rows).fill(most);
  for (let x = 0; x < columns; x++) {
    let away = most;
    for (let y = 0; y < rows; y++) {
      away = pixels[(y0 + y) * width + x0 + x] ? 0 : Math.min(most, away + 1);
      distance[y * columns + x] = away;
    }
    away = most;
    for (let y = rows - 1; y >= 0; y--) {
      away = Math.min(distance[y * columns + x], away + 1);
      distance[y * columns + x] = away;
    }
  }
  return distance;
}
