/** Ways in for a picture: the dialog, a drop, the clipboard, an example. */

import { byId, show } from "./dom.js";

/**
 * @typedef {object} Openings
 * @property {(file: Blob, name: string) => void} picture
 * @property {(file: Blob, name: string) => void} settings a file was dropped on the settings
 * @property {(prompt: string) => void} prompt of an example
 */

/** @type {Record<string, string>} file of each example → a prompt that suits it */
const EXAMPLES = { sky: "a yellow star", stripes: "a red circle", dusk: "a blue square" };

/** @param {Openings} openings */
export function listenForPictures(openings) {
  const input = byId("file", HTMLInputElement);
  for (const opener of document.querySelectorAll("[data-open]")) {
    opener.addEventListener("click", () => input.click());
  }
  input.addEventListener("change", () => {
    const file = input.files?.[0];
    if (file !== undefined) openings.picture(file, file.name);
    input.value = "";
  });
  for (const example of document.querySelectorAll("[data-example]")) {
    example.addEventListener("click", () => openExample(String(example.getAttribute("data-example")), openings));
  }
  document.addEventListener("paste", (event) => {
    const file = [...(event.clipboardData?.files ?? [])].find(({ type }) => type.startsWith("image/"));
    if (file === undefined) return;
    event.preventDefault();
    openings.picture(file, file.name);
  });
  listenForDrops(openings);
}

/** @param {Openings} openings */
function listenForDrops(openings) {
  const sign = byId("drop-sign", HTMLElement);
  const panel = byId("panel", HTMLElement);
  document.addEventListener("dragover", (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    show(sign, true);
  });
  document.addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) show(sign, false);
  });
  document.addEventListener("drop", (event) => {
    show(sign, false);
    const file = event.dataTransfer?.files[0];
    if (file === undefined) return;
    event.preventDefault();
    const isForSettings = event.target instanceof Node && panel.contains(event.target);
    if (isForSettings) openings.settings(file, file.name);
    else openings.picture(file, file.name);
  });
}

/**
 * @param {string} name
 * @param {Openings} openings
 */
async function openExample(name, openings) {
  const response = await fetch(`page/examples/${name}.webp`);
  openings.picture(await response.blob(), `${name}.webp`);
  openings.prompt(EXAMPLES[name]);
}
