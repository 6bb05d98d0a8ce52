/** Writes what is open into the browser's store as it changes, so that it survives a reload. */

import { notice } from "./settings_files.js";
import { text } from "./texts.js";

/** @typedef {import("./store.js").Session} Session */

// Milliseconds of quiet before the mask is written.
const QUIET = 250;

export class Autosave {
  #timer = 0;
  #isMaskWritten = true;

  /**
   * @param {import("./store.js").Store} store
   * @param {import("./editor.js").Editor} editor
   */
  constructor(store, editor) {
    this.store = store;
    this.editor = editor;
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
    await this.keep("picture", { file, name, url });
  }

  /**
   * Write a part of the session.
   * @template {keyof Session} Name
   * @param {Name} name
   * @param {Session[Name] | Promise<Session[Name]>} value
   */
  async keep(name, value) {
    try {
      await this.store.keep(name, value);
    } catch (error) {
      notice(text("notStored", { reason: error instanceof Error ? error.message : String(error) }));
    }
  }

  async #keepMask() {
    clearTimeout(this.#timer);
    const { mask } = this.editor;
    if (mask === null) return;
    this.#isMaskWritten = true; // by the store, which counts what it has begun
    const { width, height } = mask;
    const made = this.editor.file().then((file) => ({ width, height, file }));
    await this.keep("mask", made);
  }
}
