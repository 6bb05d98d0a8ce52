/** The page put together: what is opened, painted, run, shown and kept. */

import * as api from "./api.js";
import { Autosave } from "./autosave.js";
import { codePanel } from "./code_panel.js";
import { Compare } from "./compare.js";
import { Controls } from "./controls.js";
import { byId, show } from "./dom.js";
import { Editor } from "./editor.js";
import { Gestures } from "./gestures.js";
import { History } from "./history.js";
import { JobCourse } from "./job_course.js";
import { listen } from "./keyboard.js";
import { drawMarks } from "./marks.js";
import { Mask } from "./mask.js";
import { listenForPictures } from "./opening.js";
import { openPicture, readMask, UnreadablePicture } from "./picture.js";
import * as problems from "./problems.js";
import { ResultView } from "./result_view.js";
import { Runner } from "./runner.js";
import { fromFields } from "./settings.js";
import { offerSettings, takeSettings } from "./settings_files.js";
import { Stage } from "./stage.js";
import { Store } from "./store.js";
import { fillTexts, text } from "./texts.js";
import { Toolbar } from "./toolbar.js";

/** @typedef {import("./history.js").HistoryEntry} HistoryEntry */

// Above this a picture that the server has is named by its address instead of sent again.
const SENT = 24 * 1024 * 1024;
const PREVIEWS = 8;

export class App {
  /** @type {Controls | null} */
  controls = null;
  /** @type {import("./settings.js").Settings | null} settings that wait for the controls */
  #keptSettings = null;

  /** @param {Store} store */
  constructor(store) {
    this.store = store;
    const canvases = ["picture-canvas", "veil-canvas", "marks-canvas"].map((id) => byId(id, HTMLCanvasElement));
    this.stage = new Stage(byId("stage", HTMLElement), canvases, byId("veil-blur", SVGFEGaussianBlurElement));
    this.stage.marks = (context) => drawMarks(this, context);
    this.editor = new Editor(this.stage);
    this.toolbar = new Toolbar(this.editor);
    this.result = new ResultView(this.stage);
    this.history = new History({ restore: (entry) => this.restore(entry), show: (entry) => this.showAgain(entry) });
    this.autosave = new Autosave(store, this.editor);
    this.runner = new Runner(new JobCourse(this));
    this.showCode = codePanel(() => this.settings(), () => this.stage.picture?.name ?? "");
    this.compare = new Compare(() => this.subject(), () => this.controls);
    this.#wire();
  }

  #wire() {
    const { editor, result } = this;
    editor.canEdit = () => !this.runner.isRunning && !result.isOpen;
    editor.onTool = () => this.toolbar.update();
    editor.onChange = () => {
      this.toolbar.update();
      this.autosave.maskChanged();
    };
    result.onChange = () => this.toolbar.update();
    const gestures = new Gestures(this.stage, {
      canDraw: () => result.isOpen || editor.canDraw(),
      begin: (point, keys) => (result.isOpen ? result.drag(point) : editor.begin(point, keys)),
      move: (point, keys) => (result.isOpen ? result.drag(point) : editor.move(point, keys)),
      end: (point) => (result.isOpen ? result.drag(point) : editor.end(point)),
      cancel: () => editor.cancel(),
      hover: (point) => editor.isDrawing || editor.hover(point),
    });
    listen(editor, gestures, () => this.run());
    listenForPictures({
      picture: (file, name) => this.open(file, name),
      settings: (file, name) => this.controls && takeSettings(this.controls, file, name),
      prompt: (prompt) => this.controls?.setValue("prompt", prompt),
    });
    problems.listenForKey(() => this.loadCatalog());
    /** @type {Record<string, () => void>} */
    const actions = {
      run: () => this.run(),
      cancel: () => this.runner.cancel(),
      keep: () => this.keep(),
      discard: () => this.closeResult(),
      vary: () => this.run({ isVaried: true }),
      reset: () => this.controls?.reset(),
    };
    for (const [id, action] of Object.entries(actions)) byId(id, HTMLButtonElement).addEventListener("click", action);
    // The browser asks before a change or a job is lost.
    window.addEventListener("beforeunload", (event) => {
      if (this.runner.isSending || !this.autosave.isComplete) event.preventDefault();
    });
  }

  /** Take up what was open before, and load what the server has. */
  async start() {
    const kept = await this.store.load();
    this.#keptSettings = kept.settings ?? null;
    this.history.replace(kept.history ?? []);
    if (kept.picture) {
      const { file, name, url } = kept.picture;
      const picture = await openPicture(file, name, url);
      const mask = new Mask(picture.width, picture.height);
      const isOfPicture = kept.mask?.width === picture.width && kept.mask.height === picture.height;
      if (kept.mask && isOfPicture) mask.replace((await readMask(kept.mask.file, mask.width, mask.height)).levels);
      this.#show(picture, mask);
    }
    await this.loadCatalog();
    if (typeof kept.job !== "number") return;
    const resumed = this.runner.resume(kept.job);
    this.update();
    resumed.then(() => this.update());
  }

  /** Ask the server for models, schedulers and the fields of a request. */
  async loadCatalog() {
    try {
      const [schema, models, schedulers] = await Promise.all([api.requestSchema(), api.models(), api.schedulers()]);
      this.controls = new Controls(schema, models, schedulers);
    } catch (error) {
      problems.explain(error, null);
      return;
    }
    this.controls.onChange = () => this.#settingsChanged();
    byId("last-seed", HTMLButtonElement).addEventListener("click", () => {
      this.controls?.setValue("seed", String(this.history.entries[0].request.seed));
    });
    if (this.#keptSettings) this.controls.settings = this.#keptSettings;
    this.#settingsChanged();
    this.update();
  }

  /**
   * Open a file as the picture.
   * @param {Blob} file
   * @param {string} name
   */
  async open(file, name) {
    problems.clear();
    let picture;
    try {
      picture = await openPicture(file, name);
    } catch (error) {
      if (!(error instanceof UnreadablePicture)) throw error;
      problems.say("picture-error", text("unreadable", { name }));
      return;
    }
    if (this.runner.isRunning) await this.runner.cancel();
    this.#show(picture);
    this.history.replace([]);
    await Promise.all([this.autosave.keepPicture(), this.autosave.keep("history", this.history.entries)]);
    if (this.controls !== null) await offerSettings(this.controls, file, name);
  }

  /**
   * @param {import("./picture.js").Picture} picture
   * @param {Mask} [mask]
   */
  #show(picture, mask) {
    this.result.close();
    this.stage.picture?.bitmap.close();
    this.stage.picture?.small.close();
    show(byId("empty", HTMLElement), false);
    show(byId("notice", HTMLElement), false);
    this.editor.open(picture, mask);
    this.editor.resizeBrush(Math.max(picture.width, picture.height) / 14);
    this.update();
  }

  /**
   * Paint.
   * @param {{isVaried?: boolean}} [options] varied: with a new seed
   */
  async run({ isVaried = false } = {}) {
    if (this.runner.isRunning) return;
    const subject = await this.subject();
    if (subject === null || this.runner.isRunning) return;
    if (isVaried) delete subject.fields.seed;
    this.result.close();
    const steps = this.controls?.number("steps") ?? 20;
    const running = this.runner.start(subject.fields, {
      image: subject.image,
      mask: subject.mask,
      previewEvery: Math.min(150, Math.max(1, Math.floor(steps / PREVIEWS))),
    });
    this.update();
    await running;
    this.update();
  }

  /**
   * What is sent; null where something is missing, which is said.
   * @returns {Promise<import("./compare.js").Subject | null>}
   */
  async subject() {
    problems.clear();
    if (this.controls === null) await this.loadCatalog();
    const { picture, mask } = this.stage;
    if (this.controls === null) return null;
    this.controls.clearErrors();
    if (picture === null || mask === null) {
      problems.say("picture-error", text("noPicture"));
      return null;
    }
    if (mask.selected === 0) {
      problems.say("mask-error", text("emptyMask"));
      return null;
    }
    try {
      const fields = this.controls.request();
      const isNamed = picture.url !== "" && picture.file.size > SENT;
      if (isNamed) fields.init_image = picture.url;
      return { fields, image: isNamed ? null : picture.file, mask: await this.editor.file(), name: picture.name };
    } catch (error) {
      problems.explain(error, this.controls);
      return null;
    }
  }

  /** The fields of a request as the controls stand; null where they cannot be sent. */
  settings = () => {
    try {
      return this.controls?.request() ?? null;
    } catch {
      return null; // the control says what is wrong once it is sent
    }
  };

  /** The selected sample becomes the picture. */
  async keep() {
    const { file, url } = this.result;
    const name = this.stage.picture?.name ?? "picture";
    this.#show(await openPicture(file, `${name.replace(/\.\w+$/, "")}.png`, url));
    await this.autosave.keepPicture();
  }

  closeResult() {
    this.result.close();
    this.update();
  }

  /** @param {HistoryEntry} entry */
  async restore(entry) {
    if (this.controls === null || this.runner.isRunning) return;
    this.controls.settings = fromFields(entry.request, this.controls.schema).settings;
    this.closeResult();
    await this.editor.load(entry.mask);
  }

  /** @param {HistoryEntry} entry */
  async showAgain(entry) {
    if (this.runner.isRunning) return;
    problems.clear();
    try {
      await this.result.open(entry.result);
    } catch (error) {
      if (error instanceof api.ApiError && error.status === 404) problems.say("run-error", text("expired"));
      else problems.explain(error, this.controls);
    }
    this.update();
  }

  /** Show what can be done now. */
  update() {
    const { isRunning } = this.runner;
    show(byId("run", HTMLElement), !isRunning);
    show(byId("running", HTMLElement), isRunning);
    this.stage.root.classList.toggle("is-running", isRunning);
    if (this.controls !== null) byId("last-seed", HTMLButtonElement).disabled = this.history.entries.length === 0;
    this.toolbar.update();
  }

  #settingsChanged() {
    const { controls } = this;
    if (controls === null) return;
    this.stage.feather = controls.number("mask_blur") ?? 0;
    this.stage.refresh();
    this.showCode();
    this.#keptSettings = controls.settings;
    this.autosave.keep("settings", controls.settings);
  }
}

fillTexts();
const app = new App(await Store.open());
await app.start();
document.documentElement.dataset.ready = "true";
