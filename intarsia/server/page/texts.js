/** Every text of the page: a translation is another file like this one. */

/** @type {Record<string, string>} */
export const TEXTS = {
  title: "intarsia: paint a mask, get a picture",
  open: "Open picture",
  openHint: "A JPEG, PNG or WebP; or drop a file anywhere, or paste one",
  exampleSky: "Example: a circle in the sky",
  exampleStripes: "Example: stripes",
  exampleDusk: "Example: dusk",
  api: "API",
  apiHint: "The server's endpoints",
  emptyHead: "Drop a photograph here",
  emptyBody: "or paste one, open a file, or take an example",
  work: "Picture and mask",
  panel: "Prompt and settings",
  stage:
    "Picture. Paint over what is to change. With the keyboard: arrows move the brush, Enter puts it down and lifts it, " +
    "Delete clears the mask.",
  tools: "Mask tools",
  brush: "Brush (B). With Shift: straight lines. With Alt: erases",
  eraser: "Eraser (E)",
  rectangle: "Rectangle (R)",
  lasso: "Lasso (L)",
  size: "Size",
  sizeHint: "Diameter of the brush in pixels of the picture: [ and ]",
  hardness: "Hardness",
  hardnessHint: "How sharp the brush's edge is. Strokes of a soft brush build up; what is half covered is repainted",
  undo: "Undo (Ctrl+Z)",
  redo: "Redo (Ctrl+Shift+Z)",
  invert: "Invert",
  fill: "Fill",
  clear: "Clear",
  grow: "Grow",
  shrink: "Shrink",
  growBy: "by",
  pixels: "px",
  growHint: "Pixels of the picture by which the mask is grown or shrunk",
  loadMask: "Load mask …",
  saveMask: "Save mask",
  zoomIn: "Zoom in (+)",
  zoomOut: "Zoom out (−)",
  zoomFit: "Whole picture (0)",
  coverage: "{percent} % masked",
  pictureSize: "{width} × {height}",
  prompt: "What to paint",
  promptPlaceholder: "a red circle; empty continues the background",
  run: "Paint",
  runHint: "Ctrl+Enter",
  cancel: "Cancel",
  settings: "Settings",
  reset: "Defaults",
  history: "History",
  historyEmpty: "Results of this picture are kept here with their settings.",
  compare: "Compare",
  code: "As code",
  key: "API key",
  keyHint: "This server asks for a key. It is kept until the tab is closed.",
  useKey: "Use",
  result: "Result",
  before: "Before",
  after: "After",
  split: "Before and after",
  keep: "Keep",
  keepHint: "Go on from this picture",
  discard: "Discard",
  discardHint: "Back to the mask (the result stays in the history)",
  vary: "Vary",
  varyHint: "The same with a new seed",
  download: "Download PNG",
  copy: "Copy",
  copied: "Copied",
  copyFailed: "The browser does not allow it: mark the text and copy it yourself.",
  copyImageFailed: "The browser does not let this page copy pictures; download it instead.",
  sideBySide: "Side by side",
  sample: "Sample {number}, seed {seed}",
  queued: "Position {position} in the queue, about {eta}",
  sending: "Sending",
  starting: "Starting",
  step: "Step {step} of {steps}",
  stepLeft: "Step {step} of {steps}, about {left} left",
  seconds: "{n} s",
  minutes: "{n} min",
  done: "Done in {seconds} s, seed {seed}",
  cancelled: "Cancelled",
  failed: "Failed: {message}",
  lost: "The connection to the server is lost; trying again. Your mask is safe.",
  unreachable: "The server cannot be reached; your mask is safe. Try again once it runs.",
  stillSending: "The server cannot be reached; trying again.",
  jobGone: "The job that ran before is not known to the server any more.",
  expired: "The server keeps the images of this result no longer.",
  noPicture: "Open a picture first.",
  emptyMask: "Paint over what is to change first: the mask is empty.",
  unreadable: "{name} is no picture that can be read here: JPEG, PNG and WebP can.",
  wrongMask: "{name} is {maskWidth} × {maskHeight}: a mask has the picture's shape, {width} × {height}.",
  notStored: "This page cannot be kept ({reason}): a reload loses what is open.",
  settingsFound: "This file was made with settings.",
  useSettings: "Use them",
  settingsTaken: "Settings taken from {name}",
  settingsLeft: "Settings taken from {name}, but for what is not here: {left}",
  noSettings: "{name} holds no settings.",
  dismiss: "Close",
  model: "Model",
  modelHint: "What paints. The model decides steps, scheduler and the like where these are left to it.",
  modelDefault: "{id} (default)",
  notInstalled: "{id} (not installed)",
  loras: "LoRAs",
  lorasHint: "Small additions to the model, each with a strength from −2 to 2",
  lorasSearch: "Search LoRAs",
  lorasNone: "There are none for this model.",
  loraStrength: "Strength of {id}",
  negative_prompt: "Keep out",
  negative_promptHint: "Negative prompt: what should not appear",
  scheduler: "Scheduler",
  schedulerHint: "The sampler: how the picture is led from noise to the result, step by step",
  steps: "Steps",
  stepsHint: "More steps take longer and show finer detail; strength × steps of them are run",
  guidance_scale: "Guidance",
  guidance_scaleHint: "How closely the prompt is followed. 1 and less is without",
  strength: "Strength",
  strengthHint: "How much of what is under the mask is replaced: 0 keeps it, 1 keeps nothing of it",
  seed: "Seed",
  seedHint: "The same seed with the same settings gives the same picture. Empty draws a new one each time",
  seedLast: "Last",
  seedLastHint: "Take the seed of the last result",
  samples: "Samples",
  samplesHint: "Pictures made at once, with seeds one after the other",
  token_merging: "Token merging",
  token_mergingHint: "Faster and coarser: the share of tokens that are merged in attention. Empty is off",
  mask_padding: "Only the mask's surroundings",
  mask_paddingHint:
    "Pixels around the mask that are generated with it, at full resolution; whole: all of the picture; auto: the " +
    "surroundings where the picture is much larger than what the model is made for. A frame shows which part",
  masked_content: "Under the mask at first",
  masked_contentHint: "What denoising begins with: the original, a fill from the surroundings, noise, or gray",
  mask_blur: "Feather",
  mask_blurHint: "How softly the result is blended in, in pixels",
  color_match: "Match colors",
  color_matchHint: "Matches the colors of the result to those around the mask",
  other: "Other fields",
  otherHint: 'Any other field of a request, as JSON: {"clip_skip": 1}',
  otherWrong: "This is not a JSON object.",
  modelsOwn: "the model's",
  off: "off",
  drawn: "random",
  limits: "{low} to {high}",
  defaultIs: "Default: {value}",
  restore: "Restore",
  restoreHint: "Settings, seed and mask of this result",
  showResult: "Show",
  historyLine: "{prompt}, seed {seed}",
  background: "background",
  compareHelp: "Two parameters, with values separated by commas. All pictures have the same seed.",
  across: "Across",
  down: "Down",
  values: "Values",
  compareRun: "Make grid of {count}",
  compareMost: "A grid has at most {most} pictures.",
  compareNone: "Give each parameter at least one value.",
  compareSame: "Choose two different parameters.",
  compareProgress: "{done} of {count} done",
  compareGrid: "Comparison of {across} and {down}",
  cell: "{across} {x}, {down} {y}",
  saveGrid: "Download picture",
  saveManifest: "Download manifest",
  asPython: "Python",
  asCli: "Command line",
  asCurl: "curl",
  asRow: "Batch row",
  codeLabel: "These settings as code",
  codeHelp: "The picture and the mask as files beside it: Save mask gives you the second.",
};

/**
 * A text with its values.
 * @param {string} name
 * @param {Record<string, string | number>} [values]
 */
export function text(name, values = {}) {
  const template = TEXTS[name];
  if (template === undefined) throw new Error(`there is no text ${name}`);
  return template.replace(/\{(\w+)\}/g, (_, value) => (value in values ? String(values[value]) : `{${value}}`));
}

/** Put the texts into the document: `data-text` is an element's text, `data-label` its name and tooltip. */
export function fillTexts() {
  document.title = text("title");
  for (const element of document.querySelectorAll("[data-text]")) {
    element.textContent = text(element.getAttribute("data-text") ?? "");
  }
  for (const element of document.querySelectorAll("[data-label]")) {
    element.setAttribute("aria-label", text(element.getAttribute("data-label") ?? ""));
    if (element.tagName === "BUTTON") element.setAttribute("title", text(element.getAttribute("data-label") ?? ""));
  }
  for (const element of document.querySelectorAll("[data-hint]")) {
    element.setAttribute("title", text(element.getAttribute("data-hint") ?? ""));
  }
  for (const element of document.querySelectorAll("[data-placeholder]")) {
    element.setAttribute("placeholder", text(element.getAttribute("data-placeholder") ?? ""));
  }
}

/**
 * Seconds as a person says them.
 * @param {number} seconds
 */
export function duration(seconds) {
  if (seconds < 90) return text("seconds", { n: Math.max(1, Math.round(seconds)) });
  return text("minutes", { n: Math.round(seconds / 60) });
}
