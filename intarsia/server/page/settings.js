/** The settings as texts of their controls, and as fields of a request. */

/**
 * @typedef {import("./api.js").FieldSchema} FieldSchema
 * @typedef {Record<string, string>} Values of the controls by the field's name; "" leaves a field to the server
 * @typedef {{id: string, strength: string}} LoraChoice
 * @typedef {{values: Values, loras: LoraChoice[], other: string}} Settings
 */

/** Fields that have a control of their own, in their order. */
export const CONTROLS = [
  "negative_prompt",
  "model",
  "scheduler",
  "steps",
  "guidance_scale",
  "strength",
  "seed",
  "samples",
  "token_merging",
  "mask_padding",
  "masked_content",
  "mask_blur",
  "color_match",
];

/** Fields whose values are words, never numbers. */
const WORDS = ["prompt", "negative_prompt", "model", "scheduler", "masked_content"];

/** Fields of a result's metadata that are none of a request, or that the picture itself decides. */
const NOT_RESTORED = [
  "model_hash",
  "width",
  "height",
  "evaluations",
  "ip_adapter",
  "ip_adapter_scale",
  "backend",
  "device",
  "version",
];

/** @returns {Settings} every field left to the server */
export function defaults() {
  return { values: {}, loras: [], other: "" };
}

/**
 * The schema of a field without its null.
 * @param {FieldSchema | undefined} schema
 * @returns {FieldSchema}
 */
export function plainSchema(schema) {
  const choices = schema?.anyOf ?? [schema ?? {}];
  const numeric = choices.find((choice) => choice.minimum !== undefined);
  return numeric ?? choices.find((choice) => choice.type !== "null") ?? {};
}

/**
 * A text as a value of JSON: a number or a flag where it is one. What is neither is left to the server to refuse.
 * @param {string} name
 * @param {string} given
 */
export function valueOf(name, given) {
  const trimmed = given.trim();
  if (WORDS.includes(name)) return given;
  if (trimmed === "true" || trimmed === "false") return trimmed === "true";
  const number = Number(trimmed);
  const isExact = Number.isFinite(number) && (!Number.isInteger(number) || Number.isSafeInteger(number));
  return trimmed !== "" && isExact ? number : trimmed;
}

/**
 * The fields of a request, without those that are left to the server.
 * @param {Settings} settings
 * @param {Record<string, FieldSchema>} schema
 * @returns {Record<string, any>}
 * @throws {SyntaxError} the other fields are no JSON object
 */
export function requestFields(settings, schema) {
  /** @type {Record<string, any>} */
  const fields = {};
  for (const [name, given] of Object.entries(settings.values)) {
    if (given === "" || given === String(schema[name]?.default)) continue;
    fields[name] = valueOf(name, given);
  }
  if (settings.loras.length > 0) {
    fields.loras = settings.loras.map(({ id, strength }) => ({ id, strength: valueOf("strength", strength) }));
  }
  return { ...fields, ...otherFields(settings.other) };
}

/**
 * @param {string} given
 * @returns {Record<string, any>}
 */
function otherFields(given) {
  if (given.trim() === "") return {};
  const fields = JSON.parse(given);
  if (typeof fields !== "object" || fields === null || Array.isArray(fields)) throw new SyntaxError("no object");
  return fields;
}

/**
 * Settings that ask for what these fields say: of a request, or of a result's metadata.
 * @param {Record<string, any>} fields
 * @param {Record<string, FieldSchema>} schema
 * @returns {{settings: Settings, left: string[]}} and the names of fields that no request has
 */
export function fromFields(fields, schema) {
  const settings = defaults();
  /** @type {Record<string, any>} */
  const other = {};
  const left = [];
  for (const [name, value] of Object.entries(fields)) {
    if (name === "loras" && Array.isArray(value)) {
      settings.loras = value.map(({ id, strength }) => ({ id: String(id), strength: String(strength ?? 1) }));
    } else if (name === "prompt" || CONTROLS.includes(name)) {
      settings.values[name] = asText(name, value);
    } else if (NOT_RESTORED.includes(name) || isDefault(name, value, schema)) {
      continue;
    } else if (name in schema) {
      other[name] = value;
    } else {
      left.push(name);
    }
  }
  if (Object.keys(other).length > 0) settings.other = JSON.stringify(other);
  return { settings, left };
}

/**
 * @param {string} name
 * @param {any} value
 */
function asText(name, value) {
  if (value === null || value === undefined) return "";
  if (name === "token_merging" && !value) return ""; // 0 and false are off
  return String(value);
}

/**
 * @param {string} name
 * @param {any} value
 * @param {Record<string, FieldSchema>} schema
 */
function isDefault(name, value, schema) {
  if (name === "vae" && value === "model") return true;
  if (value === "" || value === null) return true;
  return name in schema && JSON.stringify(schema[name].default) === JSON.stringify(value);
}
