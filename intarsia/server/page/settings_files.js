/** Settings from files: offered where a picture that is opened holds some, taken where a file is dropped on them. */

import { button, byId, make, show } from "./dom.js";
import { fieldsOf } from "./metadata.js";
import { fromFields } from "./settings.js";
import { text } from "./texts.js";

/** @typedef {import("./controls.js").Controls} Controls */

/**
 * @param {Controls} controls
 * @param {Blob} file
 * @param {string} name
 */
export async function offerSettings(controls, file, name) {
  if ((await fieldsOf(file, controls.schedulers)) === null) return;
  notice(text("settingsFound"), button(text("useSettings"), () => takeSettings(controls, file, name)));
}

/**
 * @param {Controls} controls
 * @param {Blob} file
 * @param {string} name
 */
export async function takeSettings(controls, file, name) {
  const fields = await fieldsOf(file, controls.schedulers);
  if (fields === null) {
    notice(text("noSettings", { name }));
    return;
  }
  const { settings, left } = fromFields(fields, controls.schema);
  controls.settings = settings;
  notice(text(left.length > 0 ? "settingsLeft" : "settingsTaken", { name, left: left.join(", ") }));
}

/**
 * Say something above the result, until it is closed.
 * @param {string} line
 * @param {...HTMLElement} actions
 */
export function notice(line, ...actions) {
  const place = byId("notice", HTMLElement);
  const close = button(text("dismiss"), () => show(place, false), { class: "quiet" });
  place.replaceChildren(make("span", { text: line }), ...actions, close);
  show(place, true);
}
