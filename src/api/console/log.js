// The last lines of the log, and those that come.

import { get, send } from "./api.js";
import { h, note, put } from "./dom.js";

const KEPT = 1000;
const LEVELS = ["error", "warn", "info", "debug"];

export async function log(here, { signal }) {
  let [lines, last] = [[], 0];
  const said = h("div", {});
  const list = h("pre", { class: "rows", tabindex: 0, "aria-label": "Lines", "data-log": "" });
  list.style.maxHeight = "70vh";
  const filter = h("input", { type: "search", placeholder: "Filter", "aria-label": "Filter lines", input: () => draw() });
  const level = h("select", { class: "changes", "aria-label": "Level of the log", change: async () => {
    try {
      await send("PATCH", "/configs", { logLevel: level.value });
      put(said, note("good", `The log has level ${level.value} until the service ends.`));
    } catch (error) {
      put(said, note("bad", error.message));
    }
  } }, h("option", { value: "", disabled: true, selected: true }, "Change the level"), LEVELS.map((name) => h("option", { value: name }, name)));
  put(here, h("h1", {}, "Log"), h("div", { class: "bar" }, filter, level), said, list);

  function draw() {
    const wanted = filter.value.toLowerCase();
    const down = list.scrollTop + list.clientHeight >= list.scrollHeight - 8;
    const shown = lines.filter((line) => line.text.toLowerCase().includes(wanted));
    put(list, shown.length === 0 ? h("span", { class: "faint" }, "No lines.") : shown.map((line) => line.text + "\n"));
    if (down) list.scrollTop = list.scrollHeight;
  }

  async function look() {
    const more = await get(`/log?after=${last}`, signal);
    if (more.last === last) return;
    last = more.last;
    lines = [...lines, ...more.lines].slice(-KEPT);
    draw();
  }

  draw();
  await look();
  const timer = setInterval(() => { if (!document.hidden) look().catch(() => {}); }, 1000);
  signal.addEventListener("abort", () => clearInterval(timer));
}
