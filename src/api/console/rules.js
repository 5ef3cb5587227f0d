// The list of rules.

import { h, micros, put, short, state } from "./dom.js";
import { follow, live } from "./live.js";

/** Heading, whether it is a number, and what is compared and shown. */
const COLUMNS = [
  ["Rule", false, (rule) => rule.id],
  ["State", false, (rule) => rule.status],
  ["In/s", true, (rule) => live.rates.get(rule.id)?.in ?? 0, short],
  ["Out/s", true, (rule) => live.rates.get(rule.id)?.out ?? 0, short],
  ["In", true, (rule) => rule.in, short],
  ["Out", true, (rule) => rule.out, short],
  ["Errors", true, (rule) => rule.errors, short],
  ["Lost", true, (rule) => rule.lost, short],
  ["Clients", true, (rule) => rule.clients, short],
  ["p99", true, (rule) => rule.p99Us, micros],
];

export function rules(here, { signal }) {
  let [sorted, down] = [0, false];
  const filter = h("input", { type: "search", placeholder: "Filter", "aria-label": "Filter rules", input: () => draw() });
  const list = h("div", {});
  put(here, h("h1", {}, "Rules"),
    h("div", { class: "bar" }, filter, h("a", { class: "changes", href: "#/edit" }, "New rule")), list);
  function draw() {
    if (!live.now) return;
    const wanted = filter.value.toLowerCase();
    const of = COLUMNS[sorted][2];
    const shown = live.now.rules
      .filter((rule) => `${rule.id} ${rule.name} ${rule.status}`.toLowerCase().includes(wanted))
      .sort((a, b) => (of(a) < of(b) ? -1 : of(a) > of(b) ? 1 : 0) * (down ? -1 : 1));
    const sort = (index) => () => {
      down = sorted === index ? !down : COLUMNS[index][1];
      sorted = index;
      draw();
    };
    const arrow = (index) => (index === sorted ? (down ? " ↓" : " ↑") : "");
    put(list, shown.length === 0 ? h("p", { class: "faint" }, "No rules.") : h("div", { class: "scroll" }, h("table", {},
      h("thead", {}, h("tr", {}, COLUMNS.map(([name, number], index) =>
        h("th", { class: number ? "number" : null, "aria-sort": index === sorted ? (down ? "descending" : "ascending") : null },
          h("button", { "data-key": name, click: sort(index) }, name + arrow(index)))))),
      h("tbody", {}, shown.map((rule) => h("tr", {},
        h("td", { class: "wrap" }, h("a", { href: `#/rules/${encodeURIComponent(rule.id)}`, "data-key": `rule ${rule.id}` }, rule.id),
          rule.name !== rule.id && h("div", { class: "faint" }, rule.name)),
        h("td", {}, state(rule.status)),
        COLUMNS.slice(2).map(([, , value, show]) => h("td", { class: "number" }, show(value(rule))))))))));
  }
  signal.addEventListener("abort", follow(draw));
}
