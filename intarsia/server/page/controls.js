/** The settings' controls: each with its meaning, its default and limits from the server's schema, and its error. */

import { byId, make, show } from "./dom.js";
import { LoraPicker } from "./lora_picker.js";
import { CONTROLS, defaults, plainSchema, requestFields } from "./settings.js";
import { text } from "./texts.js";

/**
 * @typedef {import("./api.js").FieldSchema} FieldSchema
 * @typedef {import("./settings.js").Settings} Settings
 * @typedef {HTMLInputElement | HTMLSelectElement | HTMLTextAreaElement} Control
 */

// What an empty control stands for, where the schema has no default for it.
/** @type {Record<string, string>} */
const EMPTY = { seed: "drawn", token_merging: "off" };

// Controls that take the panel's whole width.
const WIDE = ["negative_prompt", "model", "other"];

/** A setting cannot be sent; the field is named, and the sentence is in `message`. */
export class WrongSetting extends Error {
  /**
   * @param {string} field
   * @param {string} message
   */
  constructor(field, message) {
    super(message);
    this.field = field;
  }
}

export class Controls {
  /** @type {Map<string, Control>} */
  #controls = new Map();
  /** @type {Map<string, HTMLElement>} */
  #errors = new Map();
  /** @type {() => void} */
  onChange = () => {};

  /**
   * @param {Record<string, FieldSchema>} schema
   * @param {import("./api.js").Models} models
   * @param {import("./api.js").Scheduler[]} schedulers
   */
  constructor(schema, models, schedulers) {
    this.schema = schema;
    this.models = models;
    this.schedulers = schedulers;
    this.fieldset = byId("settings-fields", HTMLElement);
    this.fieldset.replaceChildren();
    this.loras = new LoraPicker(models.loras, () => this.onChange());
    this.#add("prompt", byId("prompt", HTMLTextAreaElement), byId("prompt-error", HTMLElement));
    for (const name of CONTROLS) {
      this.fieldset.append(this.#row(name, this.#control(name)));
      if (name === "model") this.fieldset.append(this.#loraRow());
    }
    this.fieldset.append(this.#row("other", make("textarea", { rows: 2, spellcheck: "false" })));
    this.reset();
  }

  /** The settings as they stand. */
  get settings() {
    const settings = defaults();
    for (const [name, control] of this.#controls) {
      if (name === "other") settings.other = control.value;
      else settings.values[name] = isSwitch(control) ? String(control.checked) : control.value;
    }
    settings.loras = this.loras.choices;
    return settings;
  }

  /** @param {Settings} settings */
  set settings(settings) {
    for (const [name, control] of this.#controls) {
      const value = name === "other" ? settings.other : (settings.values[name] ?? this.#default(name));
      if (isSwitch(control)) control.checked = value === "true";
      else this.#setValue(control, value);
    }
    this.loras.choices = settings.loras;
    this.loras.show(this.model);
    this.clearErrors();
    this.onChange();
  }

  /** Everything but the prompt at its default. */
  reset() {
    const settings = defaults();
    settings.values.prompt = this.value("prompt");
    this.settings = settings;
  }

  /** @param {string} name */
  value(name) {
    return this.#controls.get(name)?.value ?? "";
  }

  /**
   * @param {string} name
   * @param {string} value
   */
  setValue(name, value) {
    const control = this.#controls.get(name);
    if (control === undefined) return;
    this.#setValue(control, value);
    this.onChange();
  }

  /** A number that a control holds; null where it holds none. */
  number(/** @type {string} */ name) {
    const value = this.value(name).trim();
    return value !== "" && Number.isFinite(Number(value)) ? Number(value) : null;
  }

  /** The entry of the chosen model. */
  get model() {
    const chosen = this.value("model");
    return this.models.models.find((entry) => (chosen === "" ? entry.default : entry.id === chosen));
  }

  /**
   * The fields of a request.
   * @throws {WrongSetting}
   */
  request() {
    try {
      return requestFields(this.settings, this.schema);
    } catch (error) {
      if (error instanceof SyntaxError) throw new WrongSetting("other", text("otherWrong"));
      throw error;
    }
  }

  /**
   * Say what is wrong beside the control of a field.
   * @param {string} field as the server names it, `loras.0.strength` too
   * @param {string} message
   * @returns {boolean} false where there is no such control
   */
  showError(field, message) {
    let name = field.split(".")[0];
    if (!this.#errors.has(name) && name in this.schema) name = "other";
    const place = this.#errors.get(name);
    if (place === undefined) return false;
    place.textContent = message;
    show(place, true);
    const control = this.#controls.get(name) ?? byId("lora-search", HTMLInputElement);
    control.setAttribute("aria-invalid", "true");
    if (name !== "prompt") byId("settings", HTMLDetailsElement).open = true;
    control.focus();
    return true;
  }

  clearErrors() {
    for (const place of this.#errors.values()) show(place, false);
    for (const control of this.#controls.values()) control.removeAttribute("aria-invalid");
    byId("lora-search", HTMLInputElement).removeAttribute("aria-invalid");
  }

  /**
   * @param {string} name
   * @param {Control} control
   * @param {HTMLElement} error
   */
  #add(name, control, error) {
    this.#controls.set(name, control);
    this.#errors.set(name, error);
    control.addEventListener("input", () => {
      control.removeAttribute("aria-invalid");
      show(error, false);
      if (name === "model") this.loras.show(this.model);
      this.onChange();
    });
  }

  /**
   * @param {string} name
   * @returns {Control}
   */
  #control(name) {
    const schema = plainSchema(this.schema[name]);
    if (name === "model") return select(this.models.models.map((entry) => [entry.default ? "" : entry.id, label(entry)]));
    if (name === "scheduler") return this.#schedulerSelect();
    if (schema.enum !== undefined) return select(schema.enum.map((value) => [value, value]));
    if (schema.type === "boolean") return make("input", { type: "checkbox" });
    const isNumber = schema.minimum !== undefined;
    // Text, so that whatever is typed can be sent: the server says what is wrong with it.
    return make("input", {
      type: "text",
      inputmode: isNumber || name === "seed" ? "decimal" : "text",
      placeholder: this.#placeholder(name),
      autocomplete: "off",
    });
  }

  #schedulerSelect() {
    const names = this.schedulers.map(({ name }) => /** @type {[string, string]} */ ([name, shortName(name)]));
    return select([["", text("modelsOwn")], ...names]);
  }

  /**
   * @param {string} name
   * @param {Control} control
   */
  #row(name, control) {
    control.id = `field-${name}`;
    const error = make("p", { class: "error", id: `${control.id}-error`, role: "alert", hidden: true });
    const limits = make("span", { class: "limits", id: `${control.id}-limits`, text: this.#limits(name) });
    control.setAttribute("aria-describedby", `${control.id}-limits ${control.id}-error`);
    control.title = text(`${name}Hint`);
    this.#add(name, control, error);

    const head = make("label", { for: control.id, title: text(`${name}Hint`), text: text(name) });
    const row = make("div", { class: isSwitch(control) ? "field is-switch" : "field" }, head, control);
    if (name === "seed") row.append(this.#lastSeed());
    row.append(limits, error);
    if (WIDE.includes(name)) row.classList.add("is-wide");
    return row;
  }

  #loraRow() {
    const error = make("p", { class: "error", role: "alert", hidden: true });
    this.#errors.set("loras", error);
    this.loras.root.append(error);
    return this.loras.root;
  }

  #lastSeed() {
    const last = make("button", { type: "button", id: "last-seed", class: "quiet", title: text("seedLastHint") });
    last.textContent = text("seedLast");
    last.disabled = true;
    return last;
  }

  /** @param {string} name */
  #default(name) {
    const value = this.schema[name]?.default;
    return value === null || value === undefined ? "" : String(value);
  }

  /** @param {string} name */
  #placeholder(name) {
    if (name in EMPTY) return text(EMPTY[name]);
    const isNullable = this.schema[name]?.default === null;
    return isNullable ? text("modelsOwn") : "";
  }

  /** @param {string} name */
  #limits(name) {
    const schema = plainSchema(this.schema[name]);
    const parts = [];
    if (schema.minimum !== undefined && schema.maximum !== undefined) {
      parts.push(text("limits", { low: schema.minimum, high: schema.maximum }));
    }
    const value = this.#default(name);
    if (value !== "" && schema.type !== "boolean") parts.push(text("defaultIs", { value }));
    return parts.join(". ");
  }

  /**
   * @param {Control} control
   * @param {string} value
   */
  #setValue(control, value) {
    const isMissing =
      control instanceof HTMLSelectElement && ![...control.options].some((option) => option.value === value);
    // A value that the server does not list is shown, and refused by it in its own words.
    if (isMissing) control.append(make("option", { value, text: value }));
    control.value = value;
  }
}

/**
 * @param {[string, string][]} choices value and label
 */
function select(choices) {
  return make("select", {}, ...choices.map(([value, label]) => make("option", { value, text: label })));
}

/** @param {import("./api.js").Entry} entry */
function label(entry) {
  if (entry.default) return text("modelDefault", { id: entry.id });
  return entry.installed ? entry.id : text("notInstalled", { id: entry.id });
}

/** @param {string} scheduler */
export function shortName(scheduler) {
  return scheduler.replace(/Scheduler$/, "").replace(/Discrete$/, "");
}

/**
 * @param {Control} control
 * @returns {control is HTMLInputElement}
 */
function isSwitch(control) {
  return control instanceof HTMLInputElement && control.type === "checkbox";
}
