/** Finding and making elements, without any HTML from text. */

/**
 * The element with that id.
 * @template {Element} T
 * @param {string} id
 * @param {new (...args: any[]) => T} type what it must be
 * @returns {T}
 */
export function byId(id, type) {
  const found = document.getElementById(id);
  if (!(found instanceof type)) throw new Error(`there is no ${type.name} with the id ${id}`);
  return found;
}

/**
 * A new element. Attributes that are false or undefined are left out; `text` is its text.
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Record<string, string | number | boolean | undefined>} [attributes]
 * @param {...(Node | string)} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === undefined) continue;
    if (name === "text") element.textContent = String(value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children);
  return element;
}

/**
 * A button that does something.
 * @param {string} label
 * @param {() => void} action
 * @param {Record<string, string | number | boolean | undefined>} [attributes]
 */
export function button(label, action, attributes = {}) {
  const made = make("button", { type: "button", text: label, ...attributes });
  made.addEventListener("click", action);
  return made;
}

/**
 * Show an element, or hide it.
 * @param {HTMLElement} element
 * @param {boolean} isShown
 */
export function show(element, isShown) {
  element.hidden = !isShown;
}

/**
 * Offer a file to be saved.
 * @param {Blob} blob
 * @param {string} name
 */
export function download(blob, name) {
  const url = URL.createObjectURL(blob);
  const link = make("a", { href: url, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
