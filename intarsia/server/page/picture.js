/** A picture that has been opened: its file, and its pixels upright, as the server sees them too. */

/**
 * @typedef {object} Picture
 * @property {Blob} file what is sent
 * @property {string} name
 * @property {string} url where the server has it already; "" where it has not
 * @property {number} width
 * @property {number} height
 * @property {ImageBitmap} bitmap
 * @property {ImageBitmap} small the same with sides up to 2048, for views that are zoomed out
 */

const SMALL = 2048;

/** A file cannot be read as a picture. */
export class UnreadablePicture extends Error {}

/**
 * @param {Blob} file
 * @param {string} name
 * @param {string} [url]
 * @returns {Promise<Picture>}
 */
export async function openPicture(file, name, url = "") {
  const bitmap = await decode(file);
  return { file, name, url, width: bitmap.width, height: bitmap.height, bitmap, small: await reduced(bitmap) };
}

/**
 * @param {Blob} file
 * @returns {Promise<ImageBitmap>} upright
 */
export async function decode(file) {
  try {
    return await createImageBitmap(file, { imageOrientation: "from-image" });
  } catch (error) {
    throw new UnreadablePicture("", { cause: error });
  }
}

/** @param {ImageBitmap} bitmap */
async function reduced(bitmap) {
  const factor = SMALL / Math.max(bitmap.width, bitmap.height);
  if (factor >= 1) return bitmap;
  return createImageBitmap(bitmap, {
    resizeWidth: Math.max(1, Math.round(bitmap.width * factor)),
    resizeHeight: Math.max(1, Math.round(bitmap.height * factor)),
    resizeQuality: "medium",
  });
}

/**
 * The levels of a mask file, fitted to a size without smoothing; what is transparent counts as black.
 * @param {Blob} file
 * @param {number} width
 * @param {number} height
 * @returns {Promise<{levels: Uint8Array, width: number, height: number}>} with the file's own size
 */
export async function readMask(file, width, height) {
  const bitmap = await decode(file);
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  if (context === null) throw new Error("no canvas of that size");
  context.imageSmoothingEnabled = false;
  context.fillStyle = "black";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0, width, height);

  const levels = new Uint8Array(width * height);
  const strip = 256;
  for (let y = 0; y < height; y += strip) {
    const rows = Math.min(strip, height - y);
    const { data } = context.getImageData(0, y, width, rows);
    for (let at = 0; at < width * rows; at++) {
      levels[y * width + at] = Math.round((299 * data[4 * at] + 587 * data[4 * at + 1] + 114 * data[4 * at + 2]) / 1000);
    }
  }
  return { levels, width: bitmap.width, height: bitmap.height };
}
