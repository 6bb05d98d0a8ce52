/** PNG files (ISO/IEC 15948): masks as 8-bit gray, exactly, and the texts that a file holds. */

const SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];

// A text longer than this is not a setting of anything.
const LONGEST_TEXT = 1 << 20;

/**
 * An 8-bit gray PNG.
 * @param {Uint8Array} pixels row by row
 * @param {number} width
 * @param {number} height
 */
export async function encodeGray(pixels, width, height) {
  const rows = new Uint8Array((width + 1) * height);
  for (let y = 0; y < height; y++) {
    rows.set(pixels.subarray(y * width, (y + 1) * width), y * (width + 1) + 1); // filter 0 before each row
  }
  const header = new Uint8Array(13);
  const numbers = new DataView(header.buffer);
  numbers.setUint32(0, width);
  numbers.setUint32(4, height);
  header[8] = 8; // bits; the color type 0 is gray
  const parts = [
    new Uint8Array(SIGNATURE),
    chunk("IHDR", header),
    chunk("IDAT", await through(rows, new CompressionStream("deflate"))),
    chunk("IEND", new Uint8Array(0)),
  ];
  return new Blob(parts, { type: "image/png" });
}

/**
 * The texts of a PNG by their keywords: tEXt, zTXt and iTXt.
 * @param {Blob} file
 * @returns {Promise<Map<string, string>>} empty where the file is no PNG
 */
export async function textsOf(file) {
  /** @type {Map<string, string>} */
  const texts = new Map();
  const start = new Uint8Array(await file.slice(0, 8).arrayBuffer());
  if (!SIGNATURE.every((byte, at) => start[at] === byte)) return texts;

  for (let at = 8; at + 8 <= file.size; ) {
    const head = new DataView(await file.slice(at, at + 8).arrayBuffer());
    const length = head.getUint32(0);
    const kind = String.fromCharCode(...new Uint8Array(head.buffer, 4, 4));
    if (kind === "IEND") break;
    if (["tEXt", "zTXt", "iTXt"].includes(kind) && length <= LONGEST_TEXT) {
      const data = new Uint8Array(await file.slice(at + 8, at + 8 + length).arrayBuffer());
      const found = await readText(kind, data);
      if (found !== null) texts.set(found[0], found[1]);
    }
    at += 12 + length;
  }
  return texts;
}

/**
 * @param {string} kind
 * @param {Uint8Array<ArrayBuffer>} data
 * @returns {Promise<[string, string] | null>} null where it cannot be read
 */
async function readText(kind, data) {
  const latin1 = new TextDecoder("latin1");
  const end = data.indexOf(0);
  if (end < 1) return null;
  const keyword = latin1.decode(data.subarray(0, end));
  try {
    if (kind === "tEXt") return [keyword, latin1.decode(data.subarray(end + 1))];
    if (kind === "zTXt") return [keyword, latin1.decode(await inflated(data.slice(end + 2)))];

    const isCompressed = data[end + 1] === 1;
    const language = data.indexOf(0, end + 3);
    const translated = data.indexOf(0, language + 1);
    const rest = data.slice(translated + 1);
    return [keyword, new TextDecoder().decode(isCompressed ? await inflated(rest) : rest)];
  } catch (error) {
    if (error instanceof TypeError) return null; // it is not compressed as it says
    throw error;
  }
}

/** @param {Uint8Array<ArrayBuffer>} data */
async function inflated(data) {
  const reader = new Blob([data]).stream().pipeThrough(new DecompressionStream("deflate")).getReader();
  const parts = [];
  let size = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    size += value.length;
    if (size > LONGEST_TEXT) throw new TypeError("the text is too long");
    parts.push(value);
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

/**
 * @param {Uint8Array<ArrayBuffer>} data
 * @param {CompressionStream} stream
 */
async function through(data, stream) {
  const result = new Blob([data]).stream().pipeThrough(stream);
  return new Uint8Array(await new Response(result).arrayBuffer());
}

/**
 * @param {string} kind
 * @param {Uint8Array} data
 */
function chunk(kind, data) {
  const whole = new Uint8Array(12 + data.length);
  const numbers = new DataView(whole.buffer);
  numbers.setUint32(0, data.length);
  for (let at = 0; at < 4; at++) whole[4 + at] = kind.charCodeAt(at);
  whole.set(data, 8);
  numbers.setUint32(8 + data.length, crc32(whole.subarray(4, 8 + data.length)));
  return whole;
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, number) => {
  let value = number;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  return value;
});

/** @param {Uint8Array} data */
function crc32(data) {
  let value = 0xffffffff;
  for (const byte of data) value = CRC_TABLE[(value ^ byte) & 0xff] ^ (value >>> 8);
  return ~value >>> 0;
}
