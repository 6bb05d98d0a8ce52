/**
 * What survives a reload, in the browser's own database: for each tab a session with its picture, mask, settings, the
 * job that runs, and the history.
 *
 * Two tabs never share one: a lock is held for as long as a tab is open. A tab that is opened anew takes up the last
 * session that no other tab has.
 * @typedef {object} Session
 * @property {{file: Blob, name: string, url: string} | null} picture
 * @property {{width: number, height: number, file: Blob} | null} mask
 * @property {import("./settings.js").Settings} settings
 * @property {number | null} job
 * @property {import("./history.js").HistoryEntry[]} history
 */

const DATABASE = "intarsia";
const TABLE = "parts";
const TAB = "intarsia-session";
const KEPT = 6;

export class Store {
  /** @type {Map<string, Promise<void>>} the last write of each part, so that writes stay in their order */
  #writing = new Map();
  #pending = 0;

  /**
   * @param {IDBDatabase} database
   * @param {string} session
   */
  constructor(database, session) {
    this.database = database;
    this.session = session;
  }

  /** @returns {Promise<Store>} the store, with the session that this tab goes on with */
  static async open() {
    const request = indexedDB.open(DATABASE, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(TABLE);
    const database = await result(request);
    const sessions = await sessionsOf(database);
    const session = await claimed(sessions);
    sessionStorage.setItem(TAB, session);
    const store = new Store(database, session);
    await store.#forget(sessions.filter((name) => name !== session).slice(KEPT));
    return store;
  }

  /** @returns {Promise<Partial<Session>>} what has been kept */
  async load() {
    const table = this.database.transaction(TABLE).objectStore(TABLE);
    /** @type {Record<string, any>} */
    const found = {};
    for (const name of ["picture", "mask", "settings", "job", "history"]) {
      found[name] = await result(table.get([this.session, name]));
    }
    return found;
  }

  /** Whether something is not written yet. */
  get isWriting() {
    return this.#pending > 0;
  }

  /**
   * Write a part of the session.
   * @template {keyof Session} Name
   * @param {Name} name
   * @param {Session[Name] | Promise<Session[Name]>} value
   */
  keep(name, value) {
    this.#pending += 1;
    const writing = Promise.all([value, this.#writing.get(name)]).then(async ([made]) => {
      const table = this.database.transaction(TABLE, "readwrite").objectStore(TABLE);
      table.put(Date.now(), [this.session, "used"]);
      await result(table.put(made, [this.session, name]));
    });
    const ended = writing.catch(() => {}).finally(() => {
      this.#pending -= 1;
    });
    this.#writing.set(name, ended);
    return writing;
  }

  /** @param {string[]} sessions */
  async #forget(sessions) {
    const table = this.database.transaction(TABLE, "readwrite").objectStore(TABLE);
    for (const name of sessions) await result(table.delete(IDBKeyRange.bound([name], [name, []])));
  }
}

/**
 * Names of the sessions in the database, the last used first.
 * @param {IDBDatabase} database
 * @returns {Promise<string[]>}
 */
async function sessionsOf(database) {
  const table = database.transaction(TABLE).objectStore(TABLE);
  const keys = /** @type {[string, string][]} */ (await result(table.getAllKeys()));
  const used = [];
  for (const [session, part] of keys) {
    if (part === "used") used.push({ session, time: await result(table.get([session, part])) });
  }
  return used.sort((a, b) => b.time - a.time).map(({ session }) => session);
}

/**
 * This tab's session: its own from before a reload, else the last one that is free, else a new one.
 * @param {string[]} sessions
 */
async function claimed(sessions) {
  const own = sessionStorage.getItem(TAB);
  const candidates = own === null ? sessions : [own, ...sessions];
  for (const session of candidates) {
    // The page before a reload may hold its lock for a moment yet.
    const attempts = session === own ? 5 : 1;
    for (let attempt = 0; attempt < attempts; attempt++) {
      if (await lock(session)) return session;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
  const session = `${Date.now()}-${Math.random()}`;
  await lock(session);
  return session;
}

/**
 * Hold a session until the tab is closed.
 * @param {string} session
 * @returns {Promise<boolean>} whether no other tab has it
 */
function lock(session) {
  if (navigator.locks === undefined) return Promise.resolve(true); // without https, and not on this machine
  return new Promise((resolve, reject) => {
    navigator.locks
      .request(`${DATABASE}-${session}`, { ifAvailable: true }, (held) => {
        resolve(held !== null);
        return held === null ? undefined : new Promise(() => {});
      })
      .catch(reject);
  });
}

/**
 * @template T
 * @param {IDBRequest<T>} request
 * @returns {Promise<T>}
 */
function result(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
