/** The server's own API. Addresses are relative, so that the page works below any path of a proxy too. */

/**
 * @typedef {object} Job as `GET /jobs/{id}` shows it; its schema is in openapi.json
 * @property {number} id
 * @property {"queued" | "running" | "done" | "failed" | "cancelled"} state
 * @property {number | null} eta
 * @property {{step: number, steps: number}} progress
 * @property {number | string} seed
 * @property {Record<string, any>} request
 * @property {{canvas: {geometry: import("./preview.js").Geometry}} | null} plan
 * @property {JobResult | null} result
 * @property {{message: string, kind: string} | null} error
 * @property {boolean} expired
 *
 * @typedef {object} JobResult
 * @property {string[]} images
 * @property {(number | string)[]} seeds
 * @property {string[]} warnings
 * @property {number} seconds
 * @property {Record<string, any>} meta
 *
 * @typedef {{id: string, families?: string[], family?: string, size?: number, default?: boolean, installed: boolean,
 *   aliases: string[]}} Entry
 * @typedef {{models: Entry[], loras: Entry[]}} Models
 * @typedef {{name: string, aliases: string[], note: string}} Scheduler
 * @typedef {{type?: string, minimum?: number, maximum?: number, default?: any, enum?: string[], anyOf?: FieldSchema[]}}
 *   FieldSchema
 */

const KEY = "intarsia-key";

/** What the server has refused, in its own words; status 0 where it could not be reached. */
export class ApiError extends Error {
  /**
   * @param {number} status
   * @param {string} message
   * @param {string} [field] the field that is wrong
   */
  constructor(status, message, field = "") {
    super(message);
    this.status = status;
    this.field = field;
  }
}

/** The key that requests are sent with; kept for as long as the tab is open. */
export function storedKey() {
  return sessionStorage.getItem(KEY) ?? "";
}

/** @param {string} key */
export function storeKey(key) {
  sessionStorage.setItem(KEY, key.trim());
}

/**
 * A request of the API.
 * @param {string} path
 * @param {RequestInit} [options]
 * @returns {Promise<Response>} of success
 */
export async function send(path, options = {}) {
  const headers = new Headers(options.headers);
  if (storedKey()) headers.set("Authorization", `Bearer ${storedKey()}`);
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new ApiError(0, "");
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

/**
 * @param {string} path
 * @param {RequestInit} [options]
 */
async function json(path, options) {
  return parse(await (await send(path, options)).text());
}

/**
 * JSON in which seeds above 2^53 stay exact, as text.
 * @param {string} text
 */
export function parse(text) {
  /** @type {(key: string, value: any, context?: {source?: string}) => any} */
  const exact = (_key, value, context) => {
    const isLarge = typeof value === "number" && Number.isInteger(value) && !Number.isSafeInteger(value);
    return isLarge ? (context?.source ?? value) : value;
  };
  return JSON.parse(text, exact);
}

/** @param {Response} response */
async function refusal(response) {
  try {
    const { message, field } = await response.json();
    return new ApiError(response.status, message, field);
  } catch {
    return new ApiError(response.status, `${response.status} ${response.statusText}`); // of a proxy in between
  }
}

/** @returns {Promise<Record<string, FieldSchema>>} schemas of a request's fields by name */
export async function requestSchema() {
  const document = await json("openapi.json");
  return document.components.schemas.InpaintRequest.properties;
}

/** @returns {Promise<Models>} */
export function models() {
  return json("models");
}

/** @returns {Promise<Scheduler[]>} */
export async function schedulers() {
  return (await json("schedulers")).schedulers;
}

/**
 * @param {Record<string, any>} request
 * @param {{image: Blob | null, mask: Blob, idempotencyKey: string, previewEvery: number}} parts the image is null where
 *   the request names its address
 * @returns {Promise<Job>}
 */
export function submit(request, { image, mask, idempotencyKey, previewEvery }) {
  const form = new FormData();
  form.append("request", JSON.stringify(request));
  if (image !== null) form.append("init_image", image, "image");
  form.append("mask_image", mask, "mask.png");
  const headers = { "Idempotency-Key": idempotencyKey };
  return json(`jobs?preview_every=${previewEvery}`, { method: "POST", body: form, headers });
}

/**
 * @param {number} id
 * @returns {Promise<Job>}
 */
export function job(id) {
  return json(`jobs/${id}`);
}

/**
 * @param {number} id
 * @returns {Promise<Job>}
 */
export function cancel(id) {
  return json(`jobs/${id}`, { method: "DELETE" });
}

/**
 * The path of an image of this server below the page's own address, whatever host its URL names.
 * @param {string} url
 */
export function filePath(url) {
  return `files/${url.slice(url.lastIndexOf("/files/") + "/files/".length)}`;
}

/**
 * @param {string} url of a result's image
 * @returns {Promise<Blob>}
 */
export async function file(url) {
  return (await send(filePath(url))).blob();
}

/** A name that no other request has. */
export function newIdempotencyKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
