/** Writes what is open into the browser's store as it changes, so that it survives a reload. */

import { notice } from "./settings_files.js";
import { text } from "./texts.js";

// Milliseconds without a change of the mask before it is written.
const QUIET = 250;

export class Autosave {
  #timer = 0;
  #isMaskWritten = true;

  /**
   * @param {import("./store.js").Store} store
   * @param {import("./editor.js").Editor} editor
   * @param {import("./history.js").History} history
   */
  constructor(store, editor, history) {
    this.store = store;
    this.editor = editor;
    this.history = history;
    document.addEventListener("visibilitychange", () => {
      if (document.visibilityState === "hidden" && !this.#isMaskWritten) this.#keepMask();
    });
  }

  /** Whether everything that is seen has been written. */
  get isComplete() {
    return this.#isMaskWritten && !this.store.isWriting;
  }

  maskChanged() {
    this.#isMaskWritten = false;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#keepMask(), QUIET);
  }

  async keepPicture() {
    const { picture } = this.editor.stage;
    if (picture === null) return;
    const { file, name, url } = picture;
    await this.#keep("picture", { file, name, url });
  }

  keepHistory() {
    return this.#keep("history", this.history.entries);
  }

  /** @param {import("./settings.js").Settings} settings */
  keepSettings(settings) {
    return this.#keep("settings", settings);
  }

  /** @param {number | null} job its id while it runs */
  keepJob(job) {
    return this.#keep("job", job);
  }

  async #keepMask() {
    clearTimeout(this.#timer);
    const { mask } = this.editor;
    if (mask === null) return;
    this.#isMaskWritten = true; // the store counts it from here on, and the next change says otherwise
    const { width, height } = mask;
    const made = this.editor.file().then((file) => ({ width, height, file }));
    await this.#keep("mask", made);
  }

  /**
   * @template {keyof import("./store.js").Session} Name
   * @param {Name} name
   * @param {import("./store.js").Session[Name] | Promise<import("./store.js").Session[Name]>} value
   */
  async #keep(name, value) {
    try {
      await this.store.keep(name, value);
    } catch (error) {
      notice(text("notStored", { reason: error instanceof Error ? error.message : String(error) }));
    }
  }
}
