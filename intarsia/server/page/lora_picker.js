/** LoRAs of the chosen model: a list that can be searched, each with its strength. */

import { make } from "./dom.js";
import { text } from "./texts.js";

/**
 * @typedef {import("./api.js").Entry} Entry
 * @typedef {import("./settings.js").LoraChoice} LoraChoice
 */

export class LoraPicker {
  /** @type {Map<string, string>} strengths of those that are chosen, by id */
  #chosen = new Map();
  /** @type {Entry | undefined} */
  #model = undefined;

  /**
   * @param {Entry[]} entries
   * @param {() => void} onChange
   */
  constructor(entries, onChange) {
    this.entries = entries;
    this.onChange = onChange;
    this.search = make("input", {
      type: "search",
      id: "lora-search",
      placeholder: text("lorasSearch"),
      "aria-label": text("lorasSearch"),
    });
    this.search.addEventListener("input", () => this.#render());
    this.list = make("ul", { class: "loras" });
    const legend = make("legend", { text: text("loras"), title: text("lorasHint") });
    this.root = make("fieldset", { class: "field is-wide" }, legend, this.search, this.list);
    this.#render();
  }

  get choices() {
    return [...this.#chosen].map(([id, strength]) => ({ id, strength }));
  }

  /** @param {LoraChoice[]} choices */
  set choices(choices) {
    this.#chosen = new Map(choices.map(({ id, strength }) => [id, strength]));
    this.#render();
  }

  /**
   * Show what fits a model; what is chosen stays.
   * @param {Entry | undefined} model
   */
  show(model) {
    this.#model = model;
    this.#render();
  }

  #render() {
    const wanted = this.search.value.trim().toLowerCase();
    const fitting = this.entries.filter((entry) => this.#fits(entry)).map(({ id }) => id);
    const ids = [...new Set([...this.#chosen.keys(), ...fitting])];
    const shown = ids.filter((id) => this.#chosen.has(id) || id.toLowerCase().includes(wanted));
    this.search.hidden = ids.length < 2;
    this.list.replaceChildren(...shown.map((id) => this.#item(id)));
    if (ids.length === 0) this.list.append(make("li", { class: "limits", text: text("lorasNone") }));
  }

  /** @param {Entry} entry */
  #fits(entry) {
    const families = entry.families ?? [];
    const family = this.#model?.family;
    return families.length === 0 || family === undefined || families.includes(family);
  }

  /** @param {string} id */
  #item(id) {
    const isChosen = this.#chosen.has(id);
    const box = make("input", { type: "checkbox", checked: isChosen });
    const strength = make("input", {
      type: "text",
      inputmode: "decimal",
      value: this.#chosen.get(id) ?? "1",
      "aria-label": text("loraStrength", { id }),
      hidden: !isChosen,
    });
    box.addEventListener("change", () => {
      if (box.checked) this.#chosen.set(id, strength.value);
      else this.#chosen.delete(id);
      strength.hidden = !box.checked;
      this.onChange();
    });
    strength.addEventListener("input", () => {
      this.#chosen.set(id, strength.value);
      this.onChange();
    });
    return make("li", {}, make("label", {}, box, id), strength);
  }
}
