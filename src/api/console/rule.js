// One rule: what it does, how it stands, why it is silent, and what can be done with it.

import { escape, get, send } from "./api.js";
import { ago, bytes, confirmed, h, micros, note, put, short, state, table } from "./dom.js";
import { graph } from "./graph.js";
import { highlighted } from "./highlight.js";
import { refresh } from "./live.js";
import { tapPanel } from "./tap.js";

const EVERY = 2000;

export async function rule(here, { id, signal }) {
  const path = `/rules/${escape(id)}`;
  const [said, head, why, picture, facts, chosen] = Array.from({ length: 6 }, () => h("div", {}));
  const tap = tapPanel(id, signal);
  let definition = null;
  let [before, rates, selected] = [null, new Map(), null];
  let controls = "";

  async function act(method, route, question, yes) {
    if (question && !(await confirmed(question, yes))) return;
    try {
      const answer = await send(method, path + route);
      if (method === "DELETE") { location.hash = "#/rules"; return; }
      put(said, note("good", String(answer)));
    } catch (error) {
      put(said, note("bad", error.message));
    }
    await Promise.all([lookAgain(), refresh()]);
  }

  const sql = h("div", {});
  put(here, head, said, why, sql, h("h2", {}, "Operators"), h("p", { class: "faint" }, "Choose one to see its errors and tap its rows."),
    picture, chosen, facts, tap);

  async function show() {
    try {
      definition = await get(path, signal);
      put(sql, h("h2", {}, "SQL"), h("pre", {}, highlighted(definition.sql ?? "")),
        h("details", {}, h("summary", {}, "Definition and plan"),
          h("pre", {}, JSON.stringify(definition, null, 2)), h("pre", {}, String(await get(`${path}/explain`, signal)))));
    } catch (error) {
      put(sql, signal.aborted ? "" : note("", error.message));
    }
  }

  async function look() {
    const now = await get(`${path}/status?details`, signal);
    const runs = now.status === "running";
    const operators = now.operators ?? [];
    if (before) {
      const seconds = Math.max(0.1, (Date.now() - before.at) / 1000);
      const was = new Map((before.now.operators ?? []).map((one) => [one.name, one]));
      const rate = (one, name) => Math.max(0, one[name] - (was.get(one.name)?.[name] ?? one[name])) / seconds;
      rates = new Map(operators.map((one) => [one.name, { in: rate(one, "in"), out: rate(one, "out") }]));
    }
    before = { now, at: Date.now() };
    if (controls !== now.status) {
      controls = now.status;
      put(head, h("h1", {}, `Rule ${id} `, state(word(now.status))),
        h("div", { class: "bar changes" },
          runs ? h("button", { "data-key": "stop", click: () => act("POST", "/stop") }, "Stop")
            : h("button", { class: "main", "data-key": "start", click: () => act("POST", "/start") }, "Start"),
          h("button", { "data-key": "restart", click: () => act("POST", "/restart") }, "Restart"),
          h("button", { "data-key": "edit", click: () => { location.hash = `#/edit/${escape(id)}`; } }, "Edit"),
          h("button", { class: "danger", "data-key": "delete", click: () => act("DELETE", "", `Delete rule ${id}?`, "Delete it") }, "Delete")));
    }
    const silent = now.diagnosis ?? [];
    put(why, silent.map((one) => note(now.status.includes("error") ? "bad" : "", h("b", {}, `${one.operator}: `), one.message)));
    put(picture, operators.length
      ? h("div", { class: "graph" }, graph(operators, rates, (one) => { selected = one.name; draw(operators); if (one.tap && runs) tap.choose(one.tap); }))
      : h("p", { class: "faint" }, "The rule has not run yet."));
    draw(operators);
    put(facts, figures(now), links(now));
  }

  function draw(operators) {
    const shown = operators.filter((one) => one.name === selected || (selected === null && one.lastErrors.length > 0));
    put(chosen, shown.map((one) => h("section", {},
      h("h2", {}, `Errors of ${one.name}`),
      table(["Ago", "Error", "Message"], one.lastErrors.toReversed().map((error) =>
        [ago(error.time), error.error, h("code", {}, error.message ?? "–")]), `${one.name} has had no errors.`))));
  }

  function lookAgain() {
    return look().catch((error) => { if (!signal.aborted) put(said, note("bad", error.message)); });
  }

  await Promise.all([show(), look()]);
  const timer = setInterval(() => { if (!document.hidden) lookAgain(); }, EVERY);
  signal.addEventListener("abort", () => clearInterval(timer));
}

/** A state as one word: the status says `stopped by error` and `stopped: waiting for next schedule.` */
function word(status) {
  if (!status.startsWith("stopped")) return status;
  return status.includes("error") ? "failed" : status.includes("schedule") ? "scheduled" : "stopped";
}

function figures(now) {
  const rows = [
    ["Started", ago(now.lastStartTimestamp) + " ago"],
    ["Message", now.message || "–"],
    ["Latency", now.latency ? `p50 ${micros(now.latency.p50Us)}, p99 ${micros(now.latency.p99Us)}` : "–"],
    ["Watermark", now.watermarkLagMs == null ? "–" : `${short(now.watermarkLagMs)} ms behind the clock`],
    ["State", now.state ? `${bytes(now.state.bytes)}${now.state.openWindows == null ? "" : `, ${now.state.openWindows} open windows`}` : "none"],
    ["Late rows", now.lateRows ?? 0],
    ["Rows ahead of the clock", now.futureRows ?? 0],
    ["Lost", Object.entries(now.lost ?? {}).map(([cause, count]) => `${count} ${cause}`).join(", ") || "nothing"],
  ];
  return [h("h2", {}, "Figures"), table(["What", "Value"], rows)];
}

function links(now) {
  const row = (kind, link, name) => [kind, name, h("code", {}, link.address), state(link.state), link.peers, short(link.messages),
    short(link.queued), link.lastError ?? "–"];
  const rows = [
    ...(now.sources ?? []).map((link) => row("source", link, link.stream)),
    ...(now.sinks ?? []).map((link, number) => row("sink", link, String(number))),
  ];
  const clients = (now.sinks ?? []).flatMap((link, number) => link.clients.map((client) =>
    [String(number), client.address, ago(client.since), short(client.queued), short(client.dropped)]));
  return [
    h("h2", {}, "Sources and sinks"),
    table(["Kind", "Name", "Address", "State", "#Peers", "#Messages", "#Waiting", "Last error"], rows),
    h("h2", {}, "Clients of the sinks"),
    table(["Sink", "Client", "Connected for", "#Waiting", "#Lost"], clients, "None is connected."),
  ];
}
