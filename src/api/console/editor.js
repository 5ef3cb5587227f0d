// A field for SQL: colours, completion, and mistakes underlined at their places. The text lies in a plain textarea; its
// coloured copy lies behind it.

import { h, put } from "./dom.js";
import { highlighted } from "./highlight.js";
import { completions } from "./complete.js";

/** Where a line and column (both from 1) are in a text. */
export function offset(text, line, column) {
  const lines = text.split("\n");
  const before = lines.slice(0, line - 1).reduce((sum, one) => sum + one.length + 1, 0);
  return Math.min(text.length, before + [...(lines[line - 1] ?? "")].slice(0, column - 1).join("").length);
}

/** From a place to the end of the word there. */
export function wordAt(text, from) {
  const word = text.slice(from).match(/^([A-Za-z_0-9]+|"[^"]*"?|'[^']*'?|\S)/)?.[0] ?? "";
  // At the end of the text the last letter is marked.
  return word ? [from, from + word.length] : [Math.max(0, text.trimEnd().length - 1), Math.max(1, text.trimEnd().length)];
}

/** A field that calls `changed` when its text changes. `field.mark(places)` underlines `[from, to]`. */
export function sqlField(text, changed) {
  let words = [];
  let wrong = [];
  let offered = { from: 0, words: [] };
  let chosen = 0;
  const copy = h("pre", { "aria-hidden": "true" });
  const area = h("textarea", { spellcheck: "false", autocapitalize: "off", autocomplete: "off", "aria-label": "SQL", rows: 8 });
  const menu = h("ul", { class: "menu", role: "listbox", hidden: true });
  const field = h("div", { class: "editor" }, copy, area, menu);
  area.value = text;

  const draw = () => put(copy, highlighted(area.value, wrong), "\n");

  function close() {
    menu.hidden = true;
    offered = { from: 0, words: [] };
  }

  function offer() {
    offered = completions(words, area.value, area.selectionStart);
    chosen = 0;
    if (offered.words.length === 0) return close();
    list();
  }

  function list() {
    put(menu, offered.words.map((word, index) => h("li", {
      role: "option", "aria-selected": index === chosen ? "true" : "false",
      mousedown: (event) => { event.preventDefault(); chosen = index; take(); },
    }, h("b", {}, word.name), " ", h("span", { class: "faint" }, word.kind), word.doc && h("small", {}, word.doc))));
    const before = area.value.slice(0, offered.from).split("\n");
    const place = { top: before.length * 21 + 14 - area.scrollTop, left: 14 + before.at(-1).length * 8.4 };
    menu.style.setProperty("top", `${place.top}px`);
    menu.style.setProperty("left", `${Math.min(place.left, Math.max(0, field.clientWidth - 270))}px`);
    menu.hidden = false;
    menu.children[chosen]?.scrollIntoView({ block: "nearest" });
  }

  function take() {
    const word = offered.words[chosen];
    if (!word) return;
    const end = area.selectionStart;
    area.setRangeText(word.call ? `${word.name}(` : word.name, offered.from, end, "end");
    close();
    input();
  }

  function input() {
    // What was wrong may have moved: it is marked anew by whoever checks.
    wrong = [];
    draw();
    changed(area.value);
  }

  area.addEventListener("input", () => { input(); offer(); });
  area.addEventListener("blur", close);
  area.addEventListener("scroll", () => { copy.scrollTop = area.scrollTop; });
  area.addEventListener("keydown", (event) => {
    if (event.key === " " && event.ctrlKey) { event.preventDefault(); offer(); return; }
    if (menu.hidden) return;
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) {
      chosen = (chosen + step + offered.words.length) % offered.words.length;
      list();
    } else if (event.key === "Enter" || event.key === "Tab") take();
    else if (event.key === "Escape") close();
    else return;
    event.preventDefault();
  });
  field.mark = (places) => { wrong = places; draw(); };
  field.know = (all) => { words = all; };
  field.text = () => area.value;
  field.set = (value) => { area.value = value; input(); };
  field.focusText = () => area.focus();
  draw();
  return field;
}
