// A live view: its rows as they change, by the protocol that any page can speak.

import { askForToken, dataServer, dataToken, escape, get, send } from "./api.js";
import { confirmed, h, note, put, short, table } from "./dom.js";
import { PlutinoLive } from "./plutino-live.js";
import { live } from "./live.js";

const SHOWN = 500;
const EVERY = 250;

export async function view(here, { id, signal }) {
  const path = `/views/${escape(id)}`;
  const about = await get(path, signal);
  const [said, found, rows, clients] = [h("div", {}), h("div", {}), h("div", { "data-view": "" }), h("div", {})];
  async function drop() {
    if (!(await confirmed(`Drop view ${id}?`, "Drop it"))) return;
    try {
      await send("DELETE", path);
      location.hash = "#/catalog";
    } catch (error) {
      put(said, note("bad", error.message));
    }
  }
  const params = about.params ?? [];
  const inputs = new Map(params.map((name) => [name, h("input", { name, "aria-label": name, placeholder: name })]));
  put(here, h("h1", {}, `View ${id}`), h("div", { class: "bar" }, [...inputs.values()],
    params.length > 0 && h("button", { click: () => watch() }, "Watch"), h("button", { class: "danger changes", click: drop }, "Drop")),
  said, found, h("h2", {}, "Rows"), rows, h("h2", {}, "Clients"), clients,
  h("details", {}, h("summary", {}, "Definition"), h("pre", {}, about.sql)));

  const names = about.columns.map((column) => column.name);
  const shown = (value) => (value === undefined || value === null ? "" : typeof value === "object" ? JSON.stringify(value) : String(value));
  let socket = null;

  async function watch() {
    socket?.close();
    const now = live.now ?? (await get("/overview", signal));
    const url = dataServer(now.dataServer, "ws", now.dataServerTls);
    if (!url) { put(said, note("bad", "The data server does not listen.")); return; }
    const values = Object.fromEntries([...inputs].filter(([, input]) => input.value).map(([name, input]) => [name, input.value]));
    socket = new PlutinoLive(`${url}/live`, { token: dataToken, onState: (state, why) => {
      put(said, state === "open" ? "" : note("", `The view is not connected (${state}${why ? `: ${why}` : ""}).`,
        h("button", { click: async () => { if (await askForToken("The data server requires a token.")) watch(); } }, "Give a token")));
    } });
    socket.subscribe(id, {
      params: values, every: EVERY,
      onChange: ({ rows: all }) => {
        const list = [...all.values()];
        put(rows, table(names, list.slice(0, SHOWN).map((row) => names.map((name) => shown(row[name]))), "The view has no rows."),
          list.length > SHOWN && h("p", { class: "faint" }, `${list.length - SHOWN} further rows are not shown.`));
      },
      onError: (error) => put(said, note("bad", error.message)),
      onEnd: (why) => put(said, note("", `The view has ended: ${why}`)),
    });
  }

  const look = async () => {
    const [status, all] = await Promise.all([get(`${path}/status`, signal), get(`${path}/clients`, signal)]);
    const lost = status.errors > 0 && note("bad", `${short(status.errors)} messages and rows are lost to errors, the last one: ${status.lastError}`);
    put(found, status.diagnosis.map((one) => note("bad", h("b", {}, `${one.operator}: `), one.message)), lost);
    put(clients, table(["Client", "Parameters", "#Behind, ms", "#Waiting bytes"],
      all.map((one) => [one.peer, JSON.stringify(one.params), short(one.lagMs), short(one.waitingBytes)]), "Nobody watches it."));
  };
  signal.addEventListener("abort", () => socket?.close());
  await Promise.all([watch(), look()]);
  const timer = setInterval(() => { if (!document.hidden) look().catch(() => {}); }, 3000);
  signal.addEventListener("abort", () => clearInterval(timer));
}
