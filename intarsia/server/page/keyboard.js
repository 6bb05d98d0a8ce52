/** The keyboard: short cuts of the tools, and drawing on the stage without a pointer. */

/**
 * @typedef {import("./editor.js").Editor} Editor
 * @typedef {import("./gestures.js").Gestures} Gestures
 */

const TOOLS = /** @type {Record<string, import("./editor.js").ToolName>} */ ({
  b: "brush",
  e: "eraser",
  r: "rectangle",
  l: "lasso",
});
const ARROWS = /** @type {Record<string, [number, number]>} */ ({
  ArrowLeft: [-1, 0],
  ArrowRight: [1, 0],
  ArrowUp: [0, -1],
  ArrowDown: [0, 1],
});
const ZOOM = 1.25;
const NO_KEYS = { shift: false, erases: false };

/**
 * @param {Editor} editor
 * @param {Gestures} gestures
 * @param {() => void} run starts a job
 */
export function listen(editor, gestures, run) {
  document.addEventListener("keydown", (event) => {
    if ((event.ctrlKey || event.metaKey) && event.key === "Enter") {
      event.preventDefault();
      run();
      return;
    }
    if (isTyping(event.target) || editor.stage.picture === null) return;
    const isTaken = (event.ctrlKey || event.metaKey ? withControl : plain)(event, editor, gestures);
    if (isTaken) event.preventDefault();
  });
  document.addEventListener("keyup", (event) => {
    if (event.key === " ") setPanning(editor, gestures, false);
  });
  window.addEventListener("blur", () => setPanning(editor, gestures, false));
}

/**
 * @param {EventTarget | null} target
 */
function isTyping(target) {
  if (target instanceof HTMLTextAreaElement || target instanceof HTMLSelectElement) return true;
  return target instanceof HTMLInputElement && !["checkbox", "radio", "button"].includes(target.type);
}

/**
 * @param {KeyboardEvent} event
 * @param {Editor} editor
 */
function withControl(event, editor) {
  const key = event.key.toLowerCase();
  if (key === "y" || (key === "z" && event.shiftKey)) editor.redo();
  else if (key === "z") editor.undo();
  else return false;
  return true;
}

/**
 * @param {KeyboardEvent} event
 * @param {Editor} editor
 * @param {Gestures} gestures
 */
function plain(event, editor, gestures) {
  if (event.altKey) return false;
  if (event.target === editor.stage.root && draws(event, editor)) return true;

  const { stage } = editor;
  const key = event.key.toLowerCase();
  if (key in TOOLS) editor.choose(TOOLS[key]);
  else if (key === "[") editor.resizeBrush(editor.brush.size - sizeStep(editor));
  else if (key === "]") editor.resizeBrush(editor.brush.size + sizeStep(editor));
  else if (key === "i") editor.invert();
  else if (key === "escape") editor.cancel();
  else if (key === "0") stage.fit();
  else if (key === "1") zoom(editor, stage.ratio / stage.view.scale);
  else if (key === "+" || key === "=") zoom(editor, ZOOM);
  else if (key === "-") zoom(editor, 1 / ZOOM);
  else if (key === " " && !isButton(event.target)) setPanning(editor, gestures, true);
  else return false;
  return true;
}

/** @param {Editor} editor */
function sizeStep(editor) {
  return Math.max(1, Math.round(editor.brush.size / 8));
}

/** @param {EventTarget | null} target */
function isButton(target) {
  return target instanceof HTMLElement && ["BUTTON", "INPUT", "SUMMARY", "A"].includes(target.tagName);
}

/**
 * @param {Editor} editor
 * @param {number} factor
 */
export function zoom(editor, factor) {
  editor.stage.view.zoom(factor, editor.stage.middle);
  editor.stage.refresh();
}

/**
 * Arrows move the cursor (with Shift further), Enter puts the tool down and lifts it, Delete clears the mask.
 * @param {KeyboardEvent} event
 * @param {Editor} editor
 */
function draws(event, editor) {
  if (event.key === "Delete") {
    editor.clear();
    return true;
  }
  if (event.key in ARROWS) {
    const step = Math.max(1, editor.brush.size / (event.shiftKey ? 1 : 8));
    const [dx, dy] = ARROWS[event.key];
    const from = cursorOf(editor);
    editor.move({ x: from.x + dx * step, y: from.y + dy * step }, NO_KEYS);
    return true;
  }
  if (event.key !== "Enter") return false;
  const at = cursorOf(editor);
  if (editor.isDrawing) editor.end(at);
  else if (editor.canDraw()) editor.begin(at, NO_KEYS);
  return true;
}

/** @param {Editor} editor */
function cursorOf(editor) {
  return editor.cursor ?? editor.stage.view.toPicture(editor.stage.middle);
}

/**
 * @param {Editor} editor
 * @param {Gestures} gestures
 * @param {boolean} isPanning
 */
function setPanning(editor, gestures, isPanning) {
  gestures.isPanning = isPanning;
  editor.stage.root.classList.toggle("is-panning", isPanning);
}
