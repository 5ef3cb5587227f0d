// How the service is doing.

import { ago, bytes, duration, h, note, put, short, table } from "./dom.js";
import { chart } from "./chart.js";
import { follow } from "./live.js";

const TILES = [
  ["in", "Messages in per second", short],
  ["out", "Messages out per second", short],
  ["lost", "Messages lost per second", short],
  ["clients", "Clients", short],
  ["cpu", "CPU, % of one processor", short],
  ["memory", "Memory", bytes],
  ["rules", "Rules that run", short],
];

/** What a tile shows before there are two looks to compare. */
function first(name, now) {
  return { rules: now.states.running ?? 0, clients: now.clients, memory: now.memoryBytes }[name] ?? 0;
}

export function overview(here, { signal }) {
  const tiles = h("div", { class: "tiles" });
  const rest = h("div", {});
  put(here, h("h1", {}, "Overview"), tiles, rest);
  signal.addEventListener("abort", follow(({ now, history }) => {
    put(tiles, TILES.map(([name, title, shown]) => h("section", { class: "card", "data-series": name },
      h("h2", {}, title),
      h("div", { class: "value" }, shown(history[name].at(-1)?.[1] ?? first(name, now))),
      chart(history[name], `${title}, the last ten minutes`))));
    const failed = now.rules.filter((rule) => rule.status === "failed");
    const stopped = (now.views ?? []).filter((view) => view.status === "stopped");
    put(rest,
      stopped.map((view) => note("bad", "View ", h("a", { href: `#/views/${encodeURIComponent(view.name)}`, "data-key": `view ${view.name}` }, view.name), ` has stopped: ${view.message}`)),
      failed.map((rule) => note("bad", "Rule ", h("a", { href: `#/rules/${encodeURIComponent(rule.id)}`, "data-key": rule.id }, rule.id), ` has failed: ${rule.message}`)),
      now.rules.length === 0 && note("", "There are no rules yet. ", h("a", { href: "#/edit", "data-key": "new" }, "Write the first one.")),
      h("h2", {}, "Rules by state"),
      table(["State", "#Rules"], Object.entries(now.states), "There are no rules."),
      h("h2", {}, "Messages lost, by cause"),
      table(["Cause", "#Messages"], Object.entries(now.lost), "None."),
      h("h2", {}, "Clients that were refused"),
      table(["Path", "Why", "#Times", "Last from", "Ago"],
        now.turnedAway.map((one) => [h("code", {}, one.path), one.cause, one.count, one.peer, ago(one.time)]), "None."),
      h("p", { class: "faint" }, `Plutino ${now.version}, up for ${duration(now.upTimeSeconds)}. `,
        now.dataServer ? `The data server listens on ${now.dataServer}.` : "The data server does not listen: no rule needs it."));
  }));
}
