/** The settings that a file holds: our own JSON, or the text that AUTOMATIC1111's web UI and others write. */

import { parse } from "./api.js";
import { textsOf } from "./png.js";

// Ours, and the product's former name.
const OWN = ["intarsia", "inlay"];

/** @type {Record<string, string>} */
const A1111_FIELDS = {
  Steps: "steps",
  Sampler: "scheduler",
  "CFG scale": "guidance_scale",
  Seed: "seed",
  Model: "model",
  "Denoising strength": "strength",
  "Clip skip": "clip_skip",
  "Mask blur": "mask_blur",
};
// What says nothing of the making that a request could repeat.
const A1111_IGNORED = ["Size", "Model hash", "Version"];

// `Key: value` pairs, the value quoted as JSON where it has commas.
const PAIR = /\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)/g;

/**
 * @param {Blob} file
 * @param {import("./api.js").Scheduler[]} schedulers
 * @returns {Promise<Record<string, any> | null>} fields by name; null where the file holds none
 */
export async function fieldsOf(file, schedulers) {
  const texts = await textsOf(file);
  for (const name of OWN) {
    const fields = ownFields(texts.get(name));
    if (fields !== null) return fields;
  }
  const parameters = texts.get("parameters");
  return parameters === undefined ? null : a1111Fields(parameters, schedulers);
}

/**
 * @param {string | undefined} json
 * @returns {Record<string, any> | null}
 */
function ownFields(json) {
  if (json === undefined) return null;
  try {
    const fields = parse(json);
    return typeof fields === "object" && !Array.isArray(fields) ? fields : null;
  } catch {
    return null; // another program's text of that name
  }
}

/**
 * @param {string} parameters prompt, negative prompt, and a line of pairs
 * @param {import("./api.js").Scheduler[]} schedulers
 * @returns {Record<string, any>}
 */
export function a1111Fields(parameters, schedulers) {
  const lines = parameters.split("\n");
  const hasPairs = (lines[lines.length - 1].match(PAIR) ?? []).length >= 3;
  const pairs = hasPairs ? (lines.pop() ?? "") : "";
  const negative = lines.findIndex((line) => line.startsWith("Negative prompt:"));

  /** @type {Record<string, any>} */
  const fields = { prompt: lines.slice(0, negative < 0 ? undefined : negative).join("\n") };
  if (negative >= 0) fields.negative_prompt = lines.slice(negative).join("\n").replace(/^Negative prompt:\s*/, "");
  for (const [, key, quoted] of pairs.matchAll(PAIR)) {
    const value = quoted.startsWith('"') ? JSON.parse(quoted) : quoted.trim();
    const name = A1111_FIELDS[key];
    if (name === "scheduler") Object.assign(fields, schedulerFields(value, schedulers));
    else if (name !== undefined) fields[name] = /^-?\d+(\.\d+)?$/.test(value) ? numberOf(value) : value;
    else if (!A1111_IGNORED.includes(key)) fields[key] = value;
  }
  return fields;
}

/**
 * `DPM++ 2M SDE Karras` → scheduler, form of the solver, spacing.
 * @param {string} sampler
 * @param {import("./api.js").Scheduler[]} schedulers
 */
function schedulerFields(sampler, schedulers) {
  const isKarras = sampler.endsWith(" Karras");
  let name = sampler.replace(/ Karras$/, "");
  /** @type {Record<string, any>} */
  const fields = { karras_sigmas: isKarras };
  if (name === "DPM++ 2M SDE") {
    name = "DPM++ 2M";
    fields.algorithm_type = "sde-dpmsolver++";
  }
  const known = schedulers.find((each) => [each.name, ...each.aliases].some((alias) => same(alias, name)));
  return { ...fields, scheduler: known?.name ?? name };
}

/**
 * @param {string} one
 * @param {string} other
 */
function same(one, other) {
  return one.toLowerCase() === other.toLowerCase();
}

/** @param {string} value */
function numberOf(value) {
  const number = Number(value);
  return Number.isInteger(number) && !Number.isSafeInteger(number) ? value : number;
}
