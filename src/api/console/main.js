// The console: which page is shown, by the part of the address behind #.

import { h, note, put } from "./dom.js";
import { run } from "./live.js";
import { overview } from "./overview.js";
import { rules } from "./rules.js";
import { rule } from "./rule.js";
import { editor } from "./edit.js";
import { catalog, connection, relation } from "./catalog.js";
import { view } from "./view.js";
import { log } from "./log.js";

/** Path, name in the menu, and the page: a function that fills an element and gives what ends it. */
const PAGES = [
  ["", "Overview", overview],
  ["rules", "Rules", rules],
  ["edit", "Editor", editor],
  ["catalog", "Streams", catalog],
  ["log", "Log", log],
];

/** Pages of one thing, by the first word of the path. */
const OF_ONE = { rules: rule, streams: relation("stream"), tables: relation("table"), views: view, connections: connection, edit: editor };

const main = document.getElementById("main");
let leave = () => {};

async function show() {
  leave();
  leave = () => {};
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [word = "", ...rest] = path.split("/").map(decodeURIComponent);
  const id = rest.join("/");
  const menu = ["streams", "tables", "views", "connections"].includes(word) ? "catalog" : word;
  put(document.querySelector("nav"), PAGES.map(([to, name]) =>
    h("a", { href: `#/${to}`, "aria-current": to === menu ? "page" : null, "data-key": to }, name)));
  const page = id ? OF_ONE[word] : PAGES.find(([to]) => to === word)?.[2];
  put(main);
  if (!page) {
    put(main, note("bad", "There is no such page."));
    return;
  }
  const here = h("div", {});
  put(main, here);
  const ended = new AbortController();
  leave = () => ended.abort();
  try {
    await page(here, { id, query: new URLSearchParams(query), signal: ended.signal });
  } catch (error) {
    if (!ended.signal.aborted) put(here, note("bad", error.message));
  }
}

window.addEventListener("hashchange", () => { show(); main.focus(); });
show();
run();
