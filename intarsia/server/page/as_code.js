/** The settings as code: Python, the command line, curl, and a row of a batch. */

/**
 * @typedef {Record<string, any>} Fields of a request, without its images
 * @typedef {{image: string, mask: string, origin: string}} Names of the files, and the server's address
 */

/** Fields that the command line has under other names. */
const OPTIONS = /** @type {Record<string, string>} */ ({ loras: "--lora" });

/**
 * @param {Fields} fields
 * @param {Names} names
 */
export function asPython(fields, { image, mask }) {
  const { prompt = "", ...options } = fields;
  const lines = [`    ${python(image)},`, `    ${python(mask)},`, `    ${python(prompt)},`];
  for (const [name, value] of Object.entries(options)) lines.push(`    ${name}=${python(value)},`);
  return [
    "import intarsia",
    "",
    "result = intarsia.inpaint(",
    ...lines,
    ")",
    "for number, image in enumerate(result.images, 1):",
    '    image.save(f"result-{number}.png")',
  ].join("\n");
}

/**
 * @param {Fields} fields
 * @param {Names} names
 */
export function asCommand(fields, { image, mask }) {
  const parts = ["intarsia", "inpaint", shell(image), shell(mask)];
  for (const [name, value] of Object.entries(fields)) {
    const option = OPTIONS[name] ?? `--${name.replaceAll("_", "-")}`;
    if (name === "loras") {
      for (const { id, strength } of value) parts.push(option, shell(`${id}:${strength}`));
    } else if (value === true) {
      parts.push(option);
    } else if (value === false) {
      parts.push(`--no-${option.slice(2)}`);
    } else if (typeof value === "object") {
      parts.push("--set", shell(`${name}=${JSON.stringify(value)}`));
    } else {
      parts.push(option, shell(String(value)));
    }
  }
  return parts.join(" ");
}

/**
 * @param {Fields} fields
 * @param {Names} names
 */
export function asCurl(fields, { image, mask, origin }) {
  return [
    `curl -F ${shell(`init_image=@${image}`)}`,
    `-F ${shell(`mask_image=@${mask}`)}`,
    `--form-string ${shell(`request=${JSON.stringify(fields)}`)}`,
    `${origin}/jobs`,
  ].join(" \\\n  ");
}

/**
 * @param {Fields} fields
 * @param {Names} names
 */
export function asRow(fields, { image, mask }) {
  return JSON.stringify({ init_image: image, mask_image: mask, ...fields });
}

/**
 * A value of JSON as Python has it.
 * @param {any} value
 * @returns {string}
 */
function python(value) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(python).join(", ")}]`;
  if (typeof value === "object") {
    return `{${Object.entries(value).map(([name, each]) => `${python(name)}: ${python(each)}`).join(", ")}}`;
  }
  return JSON.stringify(value); // a JSON string is one of Python too
}

/** @param {string} word */
function shell(word) {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}
