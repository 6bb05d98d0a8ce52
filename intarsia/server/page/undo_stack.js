/** Changes of the mask that can be taken back and made again, without end. */

/** @typedef {import("./mask.js").Change} Change */

export class UndoStack {
  /** @type {Change[]} */
  #done = [];
  /** @type {Change[]} */
  #undone = [];

  get canUndo() {
    return this.#done.length > 0;
  }

  get canRedo() {
    return this.#undone.length > 0;
  }

  /**
   * A change has been made.
   * @param {Change} change
   */
  push(change) {
    this.#done.push(change);
    this.#undone = [];
  }

  /**
   * Take the last change back.
   * @param {import("./mask.js").Mask} mask
   */
  undo(mask) {
    const change = this.#done.pop();
    if (change === undefined) return;
    mask.apply(change, "before");
    this.#undone.push(change);
  }

  /**
   * Make the change again that was taken back last.
   * @param {import("./mask.js").Mask} mask
   */
  redo(mask) {
    const change = this.#undone.pop();
    if (change === undefined) return;
    mask.apply(change, "after");
    this.#done.push(change);
  }
}
