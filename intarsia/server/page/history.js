/** Results of the picture that is open, each with what it takes to make it again. */

import { button, byId, make } from "./dom.js";
import { text } from "./texts.js";

/**
 * @typedef {object} HistoryEntry
 * @property {number} job
 * @property {Record<string, any>} request fields, with the seed that was drawn
 * @property {import("./api.js").JobResult} result
 * @property {Blob} mask
 * @property {Blob} thumbnail
 *
 * @typedef {object} HistoryActions
 * @property {(entry: HistoryEntry) => void} restore
 * @property {(entry: HistoryEntry) => void} show
 */

const THUMBNAIL = 96;
const KEPT = 50;

export class History {
  /** @type {HistoryEntry[]} the newest first */
  entries = [];
  #list = byId("history-list", HTMLElement);
  /** @type {string[]} */
  #addresses = [];

  /** @param {HistoryActions} actions */
  constructor(actions) {
    this.actions = actions;
    this.#render();
  }

  /** @param {HistoryEntry[]} entries */
  replace(entries) {
    this.entries = entries;
    this.#render();
  }

  /** @param {HistoryEntry} entry */
  add(entry) {
    const others = this.entries.filter((each) => each.job !== entry.job);
    this.replace([entry, ...others].slice(0, KEPT));
  }

  #render() {
    for (const address of this.#addresses) URL.revokeObjectURL(address);
    this.#addresses = this.entries.map((entry) => URL.createObjectURL(entry.thumbnail));
    const items = this.entries.map((entry, at) => this.#item(entry, this.#addresses[at]));
    this.#list.replaceChildren(...items);
    byId("history-empty", HTMLElement).hidden = this.entries.length > 0;
  }

  /**
   * @param {HistoryEntry} entry
   * @param {string} address
   */
  #item(entry, address) {
    const prompt = entry.request.prompt || text("background");
    const line = text("historyLine", { prompt, seed: entry.request.seed });
    return make(
      "li",
      {},
      make("img", { src: address, alt: "" }),
      make("p", { text: line, title: settingsLine(entry.request) }),
      make(
        "div",
        { class: "row" },
        button(text("showResult"), () => this.actions.show(entry), { class: "quiet", "aria-label": `${text("showResult")}: ${line}` }),
        button(text("restore"), () => this.actions.restore(entry), {
          class: "quiet",
          title: text("restoreHint"),
          "aria-label": `${text("restore")}: ${line}`,
        }),
      ),
    );
  }
}

/** @param {Record<string, any>} request */
function settingsLine(request) {
  const shown = Object.entries(request).filter(([name]) => name !== "prompt");
  return shown.map(([name, value]) => `${name} ${typeof value === "object" ? JSON.stringify(value) : value}`).join(", ");
}

/**
 * A small picture of a file, for the list.
 * @param {ImageBitmap} bitmap
 */
export async function thumbnailOf(bitmap) {
  const factor = THUMBNAIL / Math.max(bitmap.width, bitmap.height);
  const width = Math.max(1, Math.round(bitmap.width * factor));
  const height = Math.max(1, Math.round(bitmap.height * factor));
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  if (context === null) throw new Error("this browser has no 2D canvas");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  return canvas.convertToBlob({ type: "image/webp", quality: 0.8 });
}
