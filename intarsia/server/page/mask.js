/**
 * The mask at the picture's full resolution, 8 bits a pixel; 128 and above is repainted, as the server reads it.
 *
 * It is changed by strokes or as a whole. Each change is kept as the tiles that differ, packed, so that it can be taken
 * back however many there are.
 * @typedef {import("./shapes.js").Box} Box
 * @typedef {import("./shapes.js").Shape} Shape
 * @typedef {number | Uint8Array | Uint16Array} Packed a tile of one value, as it is, or as runs of (value, length)
 * @typedef {{before: Map<number, Packed>, after: Map<number, Packed>}} Change by number of the tile
 */

export const THRESHOLD = 128;

const TILE = 128;

export class Mask {
  /** @type {Map<number, Uint8Array>} tiles as they were before the stroke that is being drawn */
  #before = new Map();
  /** @type {Map<number, Uint8Array>} what the stroke covers by now */
  #coverage = new Map();
  #isErasing = false;
  #row = new Uint8Array(TILE);

  /**
   * An empty mask.
   * @param {number} width
   * @param {number} height
   */
  constructor(width, height) {
    this.width = width;
    this.height = height;
    this.data = new Uint8Array(width * height);
    this.columns = Math.ceil(width / TILE);
    this.rows = Math.ceil(height / TILE);
    /** Pixels of each tile that are repainted. */
    this.counts = new Uint32Array(this.columns * this.rows);
    /** Pixels that are repainted. */
    this.selected = 0;
  }

  /** The part of the picture that is repainted, 0 … 1. */
  get share() {
    return this.selected / (this.width * this.height);
  }

  /** @param {boolean} isErasing */
  begin(isErasing) {
    this.#before.clear();
    this.#coverage.clear();
    this.#isErasing = isErasing;
  }

  /**
   * Add a shape to the stroke. Where shapes of one stroke overlap, the larger coverage counts; strokes build up.
   * @param {Shape} shape
   * @returns {Box | null} what may have changed
   */
  stamp(shape) {
    const box = this.clip(shape.box);
    if (box === null) return null;
    for (const tile of this.tilesIn(box)) this.#stampTile(tile, box, shape);
    return box;
  }

  /**
   * End the stroke.
   * @returns {Change | null} null where it has changed nothing
   */
  end() {
    return this.#changed(this.#before);
  }

  /** Take the stroke that is being drawn back. */
  cancel() {
    for (const [tile, pixels] of this.#before) this.#writeTile(tile, pixels);
    this.#before.clear();
    this.#coverage.clear();
  }

  /**
   * Replace all of the mask.
   * @param {Uint8Array} data as large as the mask
   * @returns {Change | null}
   */
  replace(data) {
    const before = new Map();
    for (let tile = 0; tile < this.counts.length; tile++) before.set(tile, this.#readTile(tile));
    this.data.set(data);
    for (let tile = 0; tile < this.counts.length; tile++) this.#count(tile);
    return this.#changed(before);
  }

  /**
   * Make or unmake a change.
   * @param {Change} change
   * @param {"before" | "after"} side
   */
  apply(change, side) {
    for (const [tile, packed] of change[side]) {
      const [x0, y0, x1, y1] = this.#tileBox(tile);
      this.#writeTile(tile, unpack(packed, (x1 - x0) * (y1 - y0)));
    }
  }

  /**
   * The smallest box around all pixels that are repainted.
   * @returns {Box | null} null where there are none
   */
  bounds() {
    /** @type {Box | null} */
    let found = null;
    for (let tile = 0; tile < this.counts.length; tile++) {
      if (this.counts[tile] === 0) continue;
      const [x0, y0, x1, y1] = this.#tileBox(tile);
      if (found !== null && x0 >= found[0] && y0 >= found[1] && x1 <= found[2] && y1 <= found[3]) continue;
      found = this.#extend(found, [x0, y0, x1, y1]);
    }
    return found;
  }

  /**
   * A box without what lies outside of the mask.
   * @param {Box} box
   * @returns {Box | null} null where nothing is left
   */
  clip([x0, y0, x1, y1]) {
    /** @type {Box} */
    const inside = [Math.max(0, x0), Math.max(0, y0), Math.min(this.width, x1), Math.min(this.height, y1)];
    return inside[0] < inside[2] && inside[1] < inside[3] ? inside : null;
  }

  /**
   * Numbers of the tiles that a box meets.
   * @param {Box} box inside the mask
   */
  *tilesIn([x0, y0, x1, y1]) {
    for (let row = Math.floor(y0 / TILE); row * TILE < y1; row++) {
      for (let column = Math.floor(x0 / TILE); column * TILE < x1; column++) yield row * this.columns + column;
    }
  }

  /**
   * @param {number} tile
   * @param {Box} box
   * @param {Shape} shape
   */
  #stampTile(tile, box, shape) {
    const [left, top, right, bottom] = this.#tileBox(tile);
    const x0 = Math.max(left, box[0]);
    const x1 = Math.min(right, box[2]);
    const width = right - left;
    const [before, coverage] = this.#opened(tile);

    let gained = 0;
    for (let y = Math.max(top, box[1]); y < Math.min(bottom, box[3]); y++) {
      shape.row(y, x0, x1, this.#row);
      let inTile = (y - top) * width + x0 - left;
      let inMask = y * this.width + x0;
      for (let x = 0; x < x1 - x0; x++, inTile++, inMask++) {
        const covered = this.#row[x];
        if (covered <= coverage[inTile]) continue;
        coverage[inTile] = covered;
        const was = this.data[inMask];
        const is = blended(before[inTile], covered, this.#isErasing);
        this.data[inMask] = is;
        gained += Number(is >= THRESHOLD) - Number(was >= THRESHOLD);
      }
    }
    this.counts[tile] += gained;
    this.selected += gained;
  }

  /**
   * The tile before the stroke, and what the stroke covers of it.
   * @param {number} tile
   * @returns {[Uint8Array, Uint8Array]}
   */
  #opened(tile) {
    let before = this.#before.get(tile);
    let coverage = this.#coverage.get(tile);
    if (before === undefined || coverage === undefined) {
      before = this.#readTile(tile);
      coverage = new Uint8Array(before.length);
      this.#before.set(tile, before);
      this.#coverage.set(tile, coverage);
    }
    return [before, coverage];
  }

  /**
   * @param {Map<number, Uint8Array>} tiles as they were
   * @returns {Change | null}
   */
  #changed(tiles) {
    /** @type {Change} */
    const change = { before: new Map(), after: new Map() };
    for (const [tile, before] of tiles) {
      const after = this.#readTile(tile);
      if (after.every((value, at) => value === before[at])) continue;
      change.before.set(tile, pack(before));
      change.after.set(tile, pack(after));
    }
    this.#before.clear();
    this.#coverage.clear();
    return change.before.size > 0 ? change : null;
  }

  /**
   * @param {number} tile
   * @returns {Box}
   */
  #tileBox(tile) {
    const x = (tile % this.columns) * TILE;
    const y = Math.floor(tile / this.columns) * TILE;
    return [x, y, Math.min(x + TILE, this.width), Math.min(y + TILE, this.height)];
  }

  /** @param {number} tile */
  #readTile(tile) {
    const [x0, y0, x1, y1] = this.#tileBox(tile);
    const width = x1 - x0;
    const pixels = new Uint8Array(width * (y1 - y0));
    for (let y = y0; y < y1; y++) {
      const start = y * this.width + x0;
      pixels.set(this.data.subarray(start, start + width), (y - y0) * width);
    }
    return pixels;
  }

  /**
   * @param {number} tile
   * @param {Uint8Array} pixels
   */
  #writeTile(tile, pixels) {
    const [x0, y0, x1, y1] = this.#tileBox(tile);
    const width = x1 - x0;
    for (let y = y0; y < y1; y++) {
      const start = (y - y0) * width;
      this.data.set(pixels.subarray(start, start + width), y * this.width + x0);
    }
    this.#count(tile);
  }

  /** @param {number} tile */
  #count(tile) {
    let count = 0;
    for (const value of this.#readTile(tile)) count += Number(value >= THRESHOLD);
    this.selected += count - this.counts[tile];
    this.counts[tile] = count;
  }

  /**
   * @param {Box | null} found
   * @param {Box} tile
   * @returns {Box | null}
   */
  #extend(found, [x0, y0, x1, y1]) {
    let [left, top, right, bottom] = found ?? [this.width, this.height, 0, 0];
    for (let y = y0; y < y1; y++) {
      for (let x = x0; x < x1; x++) {
        if (this.data[y * this.width + x] < THRESHOLD) continue;
        left = Math.min(left, x);
        right = Math.max(right, x + 1);
        top = Math.min(top, y);
        bottom = Math.max(bottom, y + 1);
      }
    }
    return [left, top, right, bottom];
  }
}

/**
 * @param {number} before
 * @param {number} covered
 * @param {boolean} isErasing
 */
function blended(before, covered, isErasing) {
  if (isErasing) return Math.round((before * (255 - covered)) / 255);
  return before + Math.round(((255 - before) * covered) / 255);
}

/**
 * @param {Uint8Array} pixels
 * @returns {Packed}
 */
export function pack(pixels) {
  const runs = [];
  for (let start = 0; start < pixels.length; ) {
    let end = start + 1;
    while (end < pixels.length && pixels[end] === pixels[start]) end++;
    runs.push(pixels[start], end - start);
    if (runs.length * 2 >= pixels.length) return pixels;
    start = end;
  }
  return runs.length === 2 ? runs[0] : Uint16Array.from(runs);
}

/**
 * @param {Packed} packed
 * @param {number} length pixels of the tile
 * @returns {Uint8Array}
 */
export function unpack(packed, length) {
  if (packed instanceof Uint8Array) return packed;
  const pixels = new Uint8Array(length);
  if (typeof packed === "number") return pixels.fill(packed);
  let start = 0;
  for (let run = 0; run < packed.length; run += 2) {
    pixels.fill(packed[run], start, start + packed[run + 1]);
    start += packed[run + 1];
  }
  return pixels;
}
