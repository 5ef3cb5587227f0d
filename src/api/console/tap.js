// A look at the rows between operators.

import { escape, events } from "./api.js";
import { h, put } from "./dom.js";

/** Rows that stay on the page. */
const SHOWN = 200;
const POINTS = ["source", "decode", "filter", "window", "project", "sink"];

/** A panel that taps a rule when asked; `panel.choose(point)` taps one operator. */
export function tapPanel(id, signal) {
  const choice = h("select", { "aria-label": "Operator", change: () => running && start() },
    h("option", { value: "" }, "all operators"), POINTS.map((point) => h("option", { value: point }, point)));
  const button = h("button", { click: () => (running ? stop() : start()) }, "Tap");
  const said = h("span", { class: "faint", role: "status" });
  const rows = h("div", { class: "rows mono", tabindex: 0, "aria-label": "Rows", "data-tap": "" });
  let running = null;

  function stop() {
    running?.abort();
    running = null;
    button.textContent = "Tap";
    said.textContent = "";
  }

  async function start() {
    stop();
    const mine = (running = new AbortController());
    button.textContent = "Stop";
    put(rows);
    said.textContent = "…";
    const op = choice.value;
    try {
      await events(`/rules/${escape(id)}/tap${op ? `?op=${op}` : ""}`, mine.signal, ({ name, data }) => {
        if (name === "skipped") {
          said.textContent = `${data} further rows were not shown`;
          return;
        }
        rows.prepend(h("div", {}, h("b", {}, op || name), data));
        while (rows.childElementCount > SHOWN) rows.lastElementChild.remove();
      }, () => { said.textContent = "waiting for rows"; });
      if (running === mine) { stop(); said.textContent = "The rule has ended."; }
    } catch (error) {
      if (running === mine) { stop(); said.textContent = error.message; }
    }
  }
  signal.addEventListener("abort", stop);
  const panel = h("section", {}, h("h2", {}, "Rows as they pass"), h("div", { class: "bar" }, choice, button, said), rows);
  panel.choose = (point) => { choice.value = point; start(); panel.scrollIntoView({ block: "nearest" }); };
  return panel;
}
