/** A comparison as one picture: cells with the values of two parameters at its edges. */

/**
 * @typedef {{name: string, values: string[]}} Axis
 * @typedef {{across: Axis, down: Axis, cells: (ImageBitmap | null)[]}} Grid cells row by row
 */

const FONT = 15;
const PADDING = 8;
const HEAD = FONT + 2 * PADDING;

/**
 * @param {Grid} grid
 * @returns {Promise<Blob>} PNG
 */
export async function gridPicture({ across, down, cells }) {
  const sample = cells.find((cell) => cell !== null);
  if (sample === null || sample === undefined) throw new Error("a grid needs a picture");
  const { width, height } = sample;
  const measure = contextOf(new OffscreenCanvas(1, 1));
  const labels = down.values.map((value) => `${down.name} ${value}`);
  const left = Math.ceil(Math.max(...labels.map((label) => measure.measureText(label).width))) + 2 * PADDING;

  const canvas = new OffscreenCanvas(
    left + across.values.length * (width + PADDING),
    HEAD + down.values.length * (height + PADDING),
  );
  const context = contextOf(canvas);
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.fillStyle = "black";
  for (const [column, value] of across.values.entries()) {
    context.fillText(`${across.name} ${value}`, left + column * (width + PADDING), HEAD / 2, width);
  }
  for (const [row, label] of labels.entries()) {
    context.fillText(label, PADDING, HEAD + row * (height + PADDING) + height / 2);
  }
  for (const [at, cell] of cells.entries()) {
    if (cell === null) continue;
    const x = left + (at % across.values.length) * (width + PADDING);
    const y = HEAD + Math.floor(at / across.values.length) * (height + PADDING);
    context.drawImage(cell, x, y);
  }
  return canvas.convertToBlob({ type: "image/png" });
}

/** @param {OffscreenCanvas} canvas */
function contextOf(canvas) {
  const context = canvas.getContext("2d");
  if (context === null) throw new Error("this browser has no 2D canvas");
  context.font = `${FONT}px system-ui, sans-serif`;
  context.textBaseline = "middle";
  return context;
}
