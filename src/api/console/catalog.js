// Streams, tables, views and connections.

import { escape, get, send } from "./api.js";
import { confirmed, h, note, put, short, table } from "./dom.js";

const link = (kind, name) => h("a", { href: `#/${kind}/${escape(name)}`, "data-key": `${kind} ${name}` }, name);

export async function catalog(here, { signal }) {
  const list = (path) => get(path, signal).catch(() => []);
  const [streams, tables, overview, connections] = await Promise.all(
    ["/streamdetails", "/tabledetails", "/overview", "/connections"].map(list));
  const details = (kind, all) => table(["Name", "Type", "Format"], (all ?? []).map((one) => [link(kind, one.name), one.type, one.format]), "None.");
  put(here, h("h1", {}, "Streams, tables, views, connections"),
    h("p", {}, h("a", { href: "#/edit?sql=CREATE%20STREAM%20demo%20()%20WITH%20(TYPE%3D%22websocket%22%2C%20DATASOURCE%3D%22%2Fin%22)" }, "New stream")),
    h("h2", {}, "Streams"), details("streams", streams),
    h("h2", {}, "Tables"), details("tables", tables),
    h("h2", {}, "Views"), table(["Name", "State", "#Rows", "#Changes", "#Clients", "#Errors"], (overview?.views ?? []).map((one) =>
      [link("views", one.name), one.status, short(one.rows), short(one.changes), short(one.clients), short(one.errors)]), "None."),
    h("h2", {}, "Connections"), table(["Id", "Type", "State"],
      (connections ?? []).map((one) => [link("connections", one.id), one.typ ?? one.type ?? "", one.status ?? ""]), "None."));
}

/** The page of a stream or table: what is declared, and what its messages look like. */
export function relation(kind) {
  return async (here, { id, signal }) => {
    const path = `/${kind}s/${escape(id)}`;
    const said = h("div", {});
    const seen = h("div", {});
    const [definition, schema] = await Promise.all([get(path, signal), get(`${path}/schema`, signal).catch(() => null)]);
    async function drop() {
      if (!(await confirmed(`Drop ${kind} ${id}?`, "Drop it"))) return;
      try {
        await send("DELETE", path);
        location.hash = "#/catalog";
      } catch (error) {
        put(said, note("bad", error.message));
      }
    }
    put(here, h("h1", {}, `${kind === "stream" ? "Stream" : "Table"} ${id}`),
      h("div", { class: "bar changes" }, h("button", { class: "danger", click: drop }, "Drop")), said,
      h("h2", {}, "As declared"),
      table(["Column", "Type"], Object.entries(schema ?? {}).map(([name, about]) => [name, about?.type ?? "–"]), "No columns are declared or read."),
      h("details", {}, h("summary", {}, "Definition"), h("pre", {}, JSON.stringify(definition, null, 2))),
      h("h2", {}, "As seen"), seen);
    const look = async () => {
      const found = await get(`${path}/seen`, signal);
      const share = (field) => `${Math.round((100 * field.present) / found.messages)} %`;
      put(seen, found.messages === 0
        ? h("p", { class: "faint" }, "No messages were seen. Messages are inspected while a rule reads the stream.")
        : [h("p", { class: "faint" }, `Of the last ${short(found.messages)} messages:`),
          table(["Field", "Types", "#Present", "Example"], found.fields.map((field) =>
            [field.name, field.types.join(", "), share(field), h("code", {}, field.example)]))]);
    };
    await look();
    const timer = setInterval(() => { if (!document.hidden) look().catch(() => {}); }, 3000);
    signal.addEventListener("abort", () => clearInterval(timer));
  };
}

export async function connection(here, { id, signal }) {
  const found = await get(`/connections/${escape(id)}`, signal);
  put(here, h("h1", {}, `Connection ${id}`), h("pre", {}, JSON.stringify(found, null, 2)));
}
