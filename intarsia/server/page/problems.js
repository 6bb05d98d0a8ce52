/** Errors in the page: each as one sentence beside what has caused it. */

import { ApiError, storeKey } from "./api.js";
import { WrongSetting } from "./controls.js";
import { byId, show } from "./dom.js";
import { text } from "./texts.js";

/** @typedef {"picture-error" | "mask-error" | "run-error" | "key-error" | "compare-error"} Place */

const PLACES = /** @type {Place[]} */ (["picture-error", "mask-error", "run-error", "key-error", "compare-error"]);

/**
 * @param {Place} place
 * @param {string} message
 */
export function say(place, message) {
  const element = byId(place, HTMLElement);
  element.textContent = message;
  show(element, message !== "");
}

export function clear() {
  for (const place of PLACES) say(place, "");
}

/**
 * Say what has gone wrong.
 * @param {unknown} error
 * @param {import("./controls.js").Controls | null} controls
 * @param {Place} [elsewhere] where what belongs to no control is said
 */
export function explain(error, controls, elsewhere = "run-error") {
  if (error instanceof WrongSetting && controls?.showError(error.field, error.message)) return;
  if (!(error instanceof ApiError)) throw error;
  if (error.status === 0) {
    say(elsewhere, text("unreachable"));
  } else if (error.status === 401) {
    askForKey(error.message);
  } else if (error.field === "init_image" || error.status === 413) {
    say("picture-error", error.message);
  } else if (error.field === "mask_image") {
    say("mask-error", error.message);
  } else if (!error.field || !controls?.showError(error.field, error.message)) {
    say(elsewhere, error.message);
  }
}

/** @param {string} message of the server */
export function askForKey(message) {
  show(byId("key-row", HTMLElement), true);
  say("key-error", message);
  byId("key", HTMLInputElement).focus();
}

/** @param {() => void} again what is tried with the key */
export function listenForKey(again) {
  byId("key-row", HTMLFormElement).addEventListener("submit", (event) => {
    event.preventDefault();
    storeKey(byId("key", HTMLInputElement).value);
    say("key-error", "");
    show(byId("key-row", HTMLElement), false);
    again();
  });
}
