/**
 * Live views of Plutino in a browser or in Node (22 or newer; older ones pass a WebSocket class, such as that of `ws`).
 *
 *     import { PlutinoLive } from "./plutino-live.js";
 *
 *     const live = new PlutinoLive("ws://localhost:10081/live");
 *     const fleet = live.subscribe("fleet", {
 *       params: { site: "n1" },
 *       onChange: (change) => draw(change.rows),
 *     });
 *
 * `fleet.rows` is a Map from a row's key to the row. It always holds one consistent cut of the view: a delta is applied
 * as a whole, and after a cut connection the old rows stay until the new ones are complete. The client reconnects with
 * backoff and resumes where it stopped.
 *
 * The protocol is `plutino.live.v1`, described in docs/live-views.md.
 */

const SUBPROTOCOL = "plutino.live.v1";
/** Waits between dials, in ms. Each is shortened at random by up to a half, so that many clients do not dial at once. */
const BACKOFF = { first: 250, most: 10_000 };
/** Assumed until the server's hello names its heartbeat, in ms. */
const DEFAULT_HEARTBEAT = 15_000;

/** One connection to a server, with any number of subscriptions. */
export class PlutinoLive {
  #url;
  #options;
  #WebSocket;
  #socket = null;
  /** Subscriptions by the id under which the current socket knows them. */
  #byId = new Map();
  /** Subscriptions by the server's number. */
  #byNumber = new Map();
  #nextId = 1;
  #greeted = false;
  #closed = false;
  #wait = BACKOFF.first;
  #redial = null;
  #watchdog = null;
  #heartbeat = DEFAULT_HEARTBEAT;

  /**
   * @param {string} url the endpoint for subscriptions by message, such as ws://localhost:10081/live
   * @param {object} [options]
   * @param {string | (() => string | Promise<string>)} [options.token] access token; a function is called at each dial
   * @param {(state: "connecting" | "open" | "closed", reason?: string) => void} [options.onState]
   * @param {typeof WebSocket} [options.WebSocket] the class to use, where there is no global one
   */
  constructor(url, options = {}) {
    this.#url = url;
    this.#options = options;
    this.#WebSocket = options.WebSocket ?? globalThis.WebSocket;
    if (!this.#WebSocket) {
      throw new Error("There is no WebSocket class here: pass one as options.WebSocket.");
    }
    this.#dial();
  }

  /**
   * Subscribes to a view, or to the part of it that `params` selects.
   *
   * @param {string} view
   * @param {object} [options]
   * @param {Record<string, unknown>} [options.params] a value, or a list of values, for each parameter
   * @param {number} [options.every] at most one delta in so many ms
   * @param {(change: Change) => void} [options.onChange] called after each snapshot and each delta
   * @param {(error: {code: string, message: string, retry: boolean}) => void} [options.onError]
   * @param {(why: string) => void} [options.onEnd] the server ended the subscription for good
   * @returns {Subscription}
   */
  subscribe(view, options = {}) {
    if (this.#closed) throw new Error("The connection was closed.");
    const subscription = new Subscription(this, view, options);
    const id = String(this.#nextId++);
    subscription._id = id;
    this.#byId.set(id, subscription);
    if (this.#greeted) this.#ask(subscription);
    return subscription;
  }

  /** Ends all subscriptions and the connection. */
  close() {
    this.#closed = true;
    clearTimeout(this.#redial);
    clearTimeout(this.#watchdog);
    this.#byId.clear();
    this.#byNumber.clear();
    this.#socket?.close(1000);
    this.#socket = null;
    this.#state("closed", "closed by the client");
  }

  /** @internal */
  _end(subscription) {
    this.#byId.delete(subscription._id);
    if (subscription._number !== null) {
      this.#byNumber.delete(subscription._number);
      this.#send({ t: "unsubscribe", s: subscription._number });
    }
  }

  async #dial() {
    this.#state("connecting");
    let address = this.#url;
    try {
      const token = typeof this.#options.token === "function" ? await this.#options.token() : this.#options.token;
      if (token) {
        const url = new URL(address);
        url.searchParams.set("_token", token);
        address = url.href;
      }
    } catch (error) {
      this.#lost(null, `no token: ${error}`);
      return;
    }
    if (this.#closed) return;
    let socket;
    try {
      socket = new this.#WebSocket(address, SUBPROTOCOL);
    } catch (error) {
      this.#lost(null, String(error));
      return;
    }
    this.#socket = socket;
    socket.onopen = () => this.#watch(socket);
    socket.onmessage = (event) => {
      if (socket !== this.#socket) return;
      this.#watch(socket);
      let message;
      try {
        message = JSON.parse(event.data);
      } catch {
        this.#drop(socket, "the server sent something that is not JSON");
        return;
      }
      this.#receive(message);
    };
    socket.onclose = (event) => this.#lost(socket, event.reason || `code ${event.code}`);
    // A close event follows each error.
    socket.onerror = () => {};
  }

  /** A server that is silent for two heartbeats has gone, whatever TCP says. */
  #watch(socket) {
    clearTimeout(this.#watchdog);
    this.#watchdog = setTimeout(() => this.#drop(socket, "the server is silent"), 2 * this.#heartbeat + 1_000);
    this.#watchdog.unref?.();
  }

  #drop(socket, reason) {
    socket.onclose = null;
    socket.close();
    this.#lost(socket, reason);
  }

  #lost(socket, reason) {
    if (this.#closed || (socket !== null && socket !== this.#socket)) return;
    clearTimeout(this.#watchdog);
    this.#socket = null;
    this.#greeted = false;
    this.#byNumber.clear();
    for (const subscription of this.#byId.values()) subscription._cut();
    this.#state("closed", reason);
    const wait = this.#wait * (0.5 + Math.random() / 2);
    this.#wait = Math.min(this.#wait * 2, BACKOFF.most);
    this.#redial = setTimeout(() => this.#dial(), wait);
  }

  #state(state, reason) {
    this.#options.onState?.(state, reason);
  }

  #send(message) {
    if (this.#socket?.readyState === 1) this.#socket.send(JSON.stringify(message));
  }

  #ask(subscription) {
    const { view, params, every } = subscription;
    const message = { t: "subscribe", id: subscription._id, view };
    if (Object.keys(params).length > 0) message.params = params;
    if (every > 0) message.every = every;
    if (subscription._cursor !== null) message.cursor = subscription._cursor;
    this.#send(message);
  }

  /** Asks for a whole snapshot. */
  #askAgain(subscription) {
    if (subscription._number !== null) {
      this.#byNumber.delete(subscription._number);
      this.#send({ t: "unsubscribe", s: subscription._number });
    }
    subscription._cut();
    subscription._cursor = null;
    this.#ask(subscription);
  }

  #receive(message) {
    const subscription = this.#byNumber.get(message.s);
    switch (message.t) {
      case "hello":
        this.#heartbeat = message.heartbeat ?? DEFAULT_HEARTBEAT;
        this.#wait = BACKOFF.first;
        this.#greeted = true;
        this.#state("open");
        for (const each of this.#byId.values()) this.#ask(each);
        break;
      case "subscribed": {
        const asked = message.id === undefined ? subscription : this.#byId.get(message.id);
        if (!asked) {
          // It was closed while the answer was on its way.
          this.#send({ t: "unsubscribe", s: message.s });
          break;
        }
        this.#byNumber.set(message.s, asked);
        asked._subscribed(message);
        break;
      }
      case "snapshot":
        subscription?._snapshot();
        break;
      case "rows":
        subscription?._rows(message.rows);
        break;
      case "ready":
        subscription?._ready(message);
        break;
      case "delta":
        if (subscription && !subscription._delta(message)) this.#askAgain(subscription);
        break;
      case "progress":
        for (const [number, at] of Object.entries(message.at ?? {})) {
          this.#byNumber.get(Number(number))?._progress(at);
        }
        break;
      case "unsubscribed":
        if (!subscription) break;
        this.#byNumber.delete(message.s);
        subscription._number = null;
        if (message.why === "expired") {
          // The token: a new socket asks for a new one.
          const socket = this.#socket;
          if (socket) this.#drop(socket, "the token has expired");
        } else {
          this.#byId.delete(subscription._id);
          subscription._ended(message.why);
        }
        break;
      case "error": {
        const failed = this.#byId.get(message.id);
        if (!failed) break;
        failed._failed(message);
        if (message.retry) {
          setTimeout(() => this.#byId.has(failed._id) && this.#greeted && this.#ask(failed), 1_000);
        } else {
          this.#byId.delete(failed._id);
          failed._ended(message.code);
        }
        break;
      }
      default:
      // "gap" needs no action: a snapshot follows. Messages that this version does not know are ignored.
    }
  }
}

/**
 * What happened to the rows.
 * @typedef {object} Change
 * @property {Map<string, object>} rows all rows after the change
 * @property {boolean} snapshot whether all rows were replaced
 * @property {object[]} insert
 * @property {object[]} update
 * @property {object[]} delete objects of the key columns
 * @property {number} ts the view's time, ms since the epoch
 */

/** A view, or a part of one, kept up to date. */
export class Subscription {
  /** The rows by key, in the view's order if it has one. @type {Map<string, object>} */
  rows = new Map();
  /** Names of the key columns. @type {string[]} */
  key = [];
  /** @type {{name: string, type: string}[]} */
  columns = [];
  /** Columns and directions of an ordered view. @type {[string, "asc" | "desc"][]} */
  order = [];
  /** Whether `rows` holds a complete cut. */
  ready = false;
  /** The view's time at the last change, ms since the epoch. */
  ts = 0;

  /** @internal */
  _id = "";
  /** @internal the server's number, while subscribed */
  _number = null;
  /** @internal resume from here */
  _cursor = null;

  #live;
  #options;
  /** The rows of a cut that is not complete: a snapshot, or a delta in several frames. */
  #next = null;
  /** Whether `#next` is a snapshot. */
  #replacing = false;
  /** Whether frames of one large cut are still to come: until then there is no cursor. */
  #partial = false;
  /** What the frames of a large cut have changed so far. */
  #pending = null;

  constructor(live, view, options) {
    this.view = view;
    this.params = options.params ?? {};
    this.every = options.every ?? 0;
    this.#live = live;
    this.#options = options;
  }

  /** The text under which a row stands in `rows`. */
  keyOf(row) {
    return JSON.stringify(this.key.map((column) => row[column] ?? null));
  }

  /** Ends the subscription. */
  close() {
    this.#live._end(this);
  }

  /** @internal The connection is gone. The rows stay until the next cut is complete. */
  _cut() {
    this._number = null;
    this.#next = null;
    if (this.#partial) {
      this.#partial = false;
      this._cursor = null;
    }
    this.#pending = null;
  }

  /** @internal */
  _subscribed(message) {
    this._number = message.s;
    this.key = message.key;
    this.columns = message.columns ?? [];
    this.order = message.order ?? [];
    if (!message.resumed) this._cursor = null;
  }

  /** @internal */
  _snapshot() {
    this.#next = new Map();
    this.#replacing = true;
    this.#partial = false;
    this.#pending = null;
  }

  /** @internal */
  _rows(rows) {
    for (const row of rows) this.#next?.set(this.keyOf(row), row);
  }

  /** @internal */
  _ready(message) {
    this.ts = message.ts ?? this.ts;
    if (message.more) {
      // The rows so far are of several cuts. They are shown when the deltas that follow have completed one.
      this.#partial = true;
      return;
    }
    this._cursor = message.at;
    this.#swap();
  }

  #swap() {
    this.rows = this.#next ?? new Map();
    this.#next = null;
    this.#partial = false;
    this.#pending = null;
    this.ready = true;
    this.#sort();
    this.#changed({ snapshot: true, insert: [...this.rows.values()], update: [], delete: [] });
  }

  /** @internal Applies a delta. False if it does not fit, so that a snapshot is needed. */
  _delta(message) {
    const fits = message.more || this.#partial || this.#follows(message);
    if (!fits) return false;
    if (message.more && this.#next === null) {
      this.#next = new Map(this.rows);
      this.#replacing = false;
    }
    const target = this.#next ?? this.rows;
    for (const row of message.insert ?? []) target.set(this.keyOf(row), row);
    for (const row of message.update ?? []) target.set(this.keyOf(row), row);
    for (const row of message.delete ?? []) target.delete(this.keyOf(row));
    this.ts = message.ts ?? this.ts;
    this.#pending ??= { insert: [], update: [], delete: [] };
    for (const list of ["insert", "update", "delete"]) {
      for (const row of message[list] ?? []) this.#pending[list].push(row);
    }
    if (message.more) {
      this.#partial = true;
      return true;
    }
    this._cursor = message.at;
    if (this.#next && this.#replacing) {
      this.#swap();
      return true;
    }
    this.rows = target;
    this.#next = null;
    this.#partial = false;
    const pending = this.#pending;
    this.#pending = null;
    this.#sort();
    this.#changed({ snapshot: false, ...pending });
    return true;
  }

  /** Whether a delta continues the cut that this client holds. */
  #follows(message) {
    if (this._cursor === null) return false;
    const [own, at] = [parseCursor(this._cursor), parseCursor(message.at)];
    const previous = parseCursor(message.prev);
    return (
      own.epoch === at.epoch && own.epoch === previous.epoch && previous.sequence <= own.sequence && own.sequence < at.sequence
    );
  }

  /** @internal */
  _progress(at) {
    if (!this.#partial && this.#next === null && this._cursor !== null) this._cursor = at;
  }

  /** @internal */
  _failed(error) {
    this.#options.onError?.({ code: error.code, message: error.message, retry: Boolean(error.retry) });
  }

  /** @internal */
  _ended(why) {
    this.ready = false;
    this.#options.onEnd?.(why);
  }

  #changed(change) {
    this.#options.onChange?.({ rows: this.rows, ts: this.ts, ...change });
  }

  /** A Map keeps the order in which keys were added. */
  #sort() {
    if (this.order.length === 0) return;
    this.rows = new Map([...this.rows].sort(([, a], [, b]) => this.#compare(a, b)));
  }

  #compare(a, b) {
    for (const [column, direction] of this.order) {
      const [left, right] = [a[column] ?? null, b[column] ?? null];
      // Nulls are last in both directions.
      if (left === null || right === null) {
        if (left === right) continue;
        return left === null ? 1 : -1;
      }
      const order = compareValues(left, right);
      if (order !== 0) return direction === "desc" ? -order : order;
    }
    for (const column of this.key) {
      const order = compareValues(a[column] ?? null, b[column] ?? null);
      if (order !== 0) return order;
    }
    return 0;
  }
}

function parseCursor(cursor) {
  const text = String(cursor);
  const dot = text.lastIndexOf(".");
  return { epoch: text.slice(0, dot), sequence: BigInt(text.slice(dot + 1)) };
}

const RANKS = { boolean: 0, number: 1, string: 2, object: 3 };

/** The order of views: booleans, numbers, text by code point, nulls last. */
export function compareValues(a, b) {
  if (a === null || b === null) return a === b ? 0 : a === null ? 1 : -1;
  const [rankA, rankB] = [RANKS[typeof a] ?? 3, RANKS[typeof b] ?? 3];
  if (rankA !== rankB) return rankA - rankB;
  if (rankA === 2) return compareText(a, b);
  if (rankA === 3) return compareText(JSON.stringify(a), JSON.stringify(b));
  return a < b ? -1 : a > b ? 1 : 0;
}

/** By code point: `<` compares UTF-16 units, which puts U+FFFF behind U+10000. */
function compareText(a, b) {
  const [left, right] = [a[Symbol.iterator](), b[Symbol.iterator]()];
  for (;;) {
    const [x, y] = [left.next(), right.next()];
    if (x.done || y.done) return Number(y.done ?? false) - Number(x.done ?? false) || 0;
    const order = x.value.codePointAt(0) - y.value.codePointAt(0);
    if (order !== 0) return order;
  }
}
