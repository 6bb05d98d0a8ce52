/** "As code": the settings in the form that is chosen, to be copied. */

import { asCommand, asCurl, asPython, asRow } from "./as_code.js";
import { byId } from "./dom.js";
import { text } from "./texts.js";

const FORMS = { python: asPython, command: asCommand, curl: asCurl, row: asRow };

/** @typedef {keyof typeof FORMS} Form */

/**
 * @param {() => Record<string, any> | null} settings fields of a request; null where they cannot be sent
 * @param {() => string} image name of the picture that is open; "" where none is
 * @returns {() => void} shows the settings as they are now
 */
export function codePanel(settings, image) {
  const panel = byId("code", HTMLDetailsElement);
  const shown = byId("code-text", HTMLTextAreaElement);
  const form = byId("code-form", HTMLSelectElement);
  const note = byId("code-note", HTMLElement);

  const update = () => {
    if (!panel.open) return;
    const fields = settings();
    if (fields === null) return;
    const origin = document.baseURI.replace(/\/[^/]*$/, "");
    const names = { image: image() || "photo.png", mask: "mask.png", origin };
    shown.value = FORMS[/** @type {Form} */ (form.value)](fields, names);
    note.textContent = "";
  };
  panel.addEventListener("toggle", update);
  form.addEventListener("change", update);
  byId("copy-code", HTMLButtonElement).addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(shown.value);
      note.textContent = text("copied");
    } catch {
      shown.select();
      note.textContent = text("copyFailed");
    }
  });
  return update;
}
