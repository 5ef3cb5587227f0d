// SQL in colours: a text as spans, and the words of the language.

import { h } from "./dom.js";

export const KEYWORDS = ("SELECT FROM WHERE GROUP BY HAVING ORDER LIMIT AS AND OR NOT IN LIKE BETWEEN IS NULL CASE WHEN THEN ELSE END "
  + "INNER LEFT RIGHT FULL CROSS JOIN ON OVER PARTITION FILTER EXCEPT REPLACE ASC DESC DISTINCT CAST TRUE FALSE INVISIBLE "
  + "CREATE STREAM TABLE VIEW WITH TUMBLINGWINDOW HOPPINGWINDOW SLIDINGWINDOW SESSIONWINDOW COUNTWINDOW STATEWINDOW "
  + "BIGINT FLOAT STRING DATETIME BOOLEAN BYTEA ARRAY STRUCT SS MI HH DD MS").split(" ");

export const OPTIONS = ("DATASOURCE FORMAT KEY CONF_KEY SHARED STRICT_VALIDATION TYPE TIMESTAMP TIMESTAMP_FORMAT RETAIN_SIZE "
  + "KIND DELIMITER JSON_ARRAY ON_MISMATCH FRAMING EVENT_CLOCK").split(" ");

const KNOWN = new Set([...KEYWORDS, ...OPTIONS]);
const TOKEN = /(--[^\n]*)|("(?:[^"\\]|\\.)*"?|'(?:[^'\\]|\\.)*'?)|(`[^`]*`?)|(\b\d+(?:\.\d+)?(?:[eE][+-]?\d+)?\b)|([A-Za-z_][A-Za-z_0-9]*)/g;

/** The parts of a text: `[from, to, class]`. */
function parts(text) {
  const found = [];
  for (const match of text.matchAll(TOKEN)) {
    const [word, comment, quoted, , number, name] = match;
    const isCall = name && /^\s*\(/.test(text.slice(match.index + word.length));
    const kind = comment ? "c" : quoted ? "s" : number ? "n" : name && KNOWN.has(name.toUpperCase()) ? "k" : isCall ? "f" : null;
    if (kind) found.push([match.index, match.index + word.length, kind]);
  }
  return found;
}

/** A text as nodes; what lies in one of `wrong`, which are `[from, to]`, is underlined. */
export function highlighted(text, wrong = []) {
  const cuts = new Set([0, text.length]);
  const coloured = parts(text);
  [...coloured, ...wrong].forEach(([from, to]) => { cuts.add(from); cuts.add(to); });
  const places = [...cuts].filter((place) => place <= text.length).sort((a, b) => a - b);
  const nodes = [];
  for (let index = 0; index + 1 < places.length; index++) {
    const [from, to] = [places[index], places[index + 1]];
    const kind = coloured.find(([start, end]) => start <= from && to <= end)?.[2] ?? "";
    const isWrong = wrong.some(([start, end]) => start <= from && to <= end);
    const classes = [kind, isWrong && "wrong"].filter(Boolean).join(" ");
    nodes.push(classes ? h("span", { class: classes }, text.slice(from, to)) : text.slice(from, to));
  }
  return nodes;
}
