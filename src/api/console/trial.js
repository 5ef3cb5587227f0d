// A trial run: a rule on live or on pasted messages, that nobody keeps. Results appear as they come.

import { askForToken, dataServer, dataToken, events, get, send } from "./api.js";
import { h, note, put } from "./dom.js";
import { live } from "./live.js";

const SHOWN = 200;

/** A panel that tries what `what` gives: `{sql, options}`. */
export function trialPanel(what, signal) {
  const pasted = h("textarea", { rows: 5, class: "mono", "aria-label": "Messages, one a line; empty: live ones", spellcheck: "false",
    placeholder: '{"temperature": 20}\n{"temperature": 90}' });
  pasted.style.width = "100%";
  const said = h("div", {});
  const rows = h("div", { class: "rows mono", tabindex: 0, "aria-label": "Results", "data-trial": "" });
  const button = h("button", { "data-try": "", click: () => (running ? stop() : start()) }, "Try it");
  let running = null;

  async function stop() {
    const { id, ended } = running ?? {};
    running = null;
    button.textContent = "Try it";
    ended?.abort();
    if (id) await send("DELETE", `/ruletest/${id}`).catch(() => {});
  }

  async function start() {
    put(rows);
    put(said);
    button.textContent = "Stop";
    const mine = (running = { id: null, ended: new AbortController() });
    try {
      const { sql, options } = what();
      const body = { id: `console_${Math.random().toString(36).slice(2, 10)}`, sql, options, sinkProps: { sendSingle: true } };
      const lines = pasted.value.split("\n").filter((line) => line.trim());
      if (lines.length) {
        const stream = sql.match(/\bFROM\s+`?([A-Za-z_][\w-]*)/i)?.[1];
        if (!stream) throw new Error("There is no FROM in the statement.");
        const data = lines.map((line, index) => {
          try { return JSON.parse(line); } catch (error) { throw new Error(`Line ${index + 1} of the messages is not JSON: ${error.message}`); }
        });
        body.mockSource = { [stream]: { data: data.flat(), interval: 0, loop: false } };
      }
      const made = await send("POST", "/ruletest?details", body);
      mine.id = made.id;
      const { dataServerTls } = live.now ?? (await get("/overview", signal));
      const path = `${dataServer(`:${made.port}`, "http", dataServerTls)}/test/${made.id}`;
      const token = dataToken();
      const url = token ? `${path}?access_token=${encodeURIComponent(token)}` : path;
      put(said, h("p", { class: "faint" }, lines.length ? "Running on the messages above." : "Running on live messages."));
      await events(url, mine.ended.signal, ({ data }) => {
        rows.append(h("div", {}, data));
        while (rows.childElementCount > SHOWN) rows.firstElementChild.remove();
      }, () => send("POST", `/ruletest/${made.id}/start`).catch((error) => put(said, note("bad", error.message))));
      if (running === mine) await stop();
    } catch (error) {
      if (running !== mine) return;
      await stop();
      // A page is not told why another port refuses it.
      const hidden = error instanceof TypeError;
      const token = async () => { if (await askForToken("The data server requires a token.")) start(); };
      put(said, note("bad", hidden ? "The data server cannot be reached, or requires a token. " : error.message,
        hidden && h("button", { click: token }, "Give a token")));
    }
  }
  signal.addEventListener("abort", stop);
  return h("section", {}, h("h2", {}, "Trial run"),
    h("p", { class: "faint" }, "Messages for the first stream, one a line; if empty, live messages are used. Nothing is stored."),
    pasted, h("div", { class: "bar changes" }, button), said, rows);
}
