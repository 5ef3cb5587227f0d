// What can stand at the cursor: words of the language, streams, their columns, functions with their documentation.

import { escape, get } from "./api.js";
import { KEYWORDS, OPTIONS } from "./highlight.js";

let known = null;

/** All that can be completed, asked of the service once for each time that the editor is opened. */
export async function vocabulary(signal) {
  const list = (path) => get(path, signal).catch(() => []);
  const [streams, tables, functions] = await Promise.all([list("/streams"), list("/tables"), list("/metadata/functions")]);
  const of = (kind, names) => (Array.isArray(names) ? names : []).map((name) => ({ name, kind, doc: "" }));
  const columns = [];
  for (const [kind, names] of [["streams", streams], ["tables", tables]]) {
    for (const name of Array.isArray(names) ? names : []) {
      const [schema, seen] = await Promise.all([get(`/${kind}/${escape(name)}/schema`, signal).catch(() => ({})),
        get(`/${kind}/${escape(name)}/seen`, signal).catch(() => ({ fields: [] }))]);
      // Without a type it is only what some rule reads, and may be misspelt there.
      const declared = Object.entries(schema ?? {}).filter(([, about]) => about).map(([column, about]) => [column, about.type ?? ""]);
      const found = (seen.fields ?? []).map((field) => [field.name, `${field.types.join(" or ")}, such as ${field.example}`]);
      const all = new Map([...declared, ...found]);
      all.forEach((doc, column) => columns.push({ name: column, kind: `column of ${name}`, doc }));
    }
  }
  known = [
    ...columns, ...of("stream", streams), ...of("table", tables),
    ...(Array.isArray(functions) ? functions : []).flatMap((family) => family.functions.map((one) =>
      ({ name: one.name, kind: one.example, doc: one.hint.en_US, call: true }))),
    ...KEYWORDS.map((name) => ({ name, kind: "", doc: "" })),
    ...OPTIONS.map((name) => ({ name, kind: "option", doc: "", option: true })),
  ];
  return known;
}

/** The words that begin with what stands before `cursor`: `{from, words}`. */
export function completions(words, text, cursor) {
  const begun = text.slice(0, cursor).match(/[A-Za-z_][A-Za-z_0-9]*$/)?.[0] ?? "";
  if (begun.length === 0) return { from: cursor, words: [] };
  const lower = begun.toLowerCase();
  const inOptions = /WITH\s*\([^)]*$/i.test(text.slice(0, cursor));
  const fits = words.filter((word) => word.name.toLowerCase().startsWith(lower) && word.name !== begun && (inOptions || !word.option));
  return { from: cursor - begun.length, words: fits.slice(0, 12) };
}
