// The editor: rules, streams, tables and views, checked while they are typed, and tried before they are kept.

import { escape, get, send } from "./api.js";
import { h, note, put } from "./dom.js";
import { vocabulary } from "./complete.js";
import { offset, sqlField, wordAt } from "./editor.js";
import { refresh } from "./live.js";
import { trialPanel } from "./trial.js";

const PAUSE = 300;
const EXAMPLE = "SELECT * FROM demo";

export async function editor(here, { id, query, signal }) {
  const rule = id ? await get(`/rules/${escape(id)}`, signal) : null;
  const given = rule?.sql ?? (query.get("sql") || EXAMPLE);
  const said = h("div", {});
  const checks = h("div", { "aria-live": "polite", "data-checks": "" });
  const plan = h("div", {});
  let timer = 0;
  const field = sqlField(given, () => { clearTimeout(timer); timer = setTimeout(check, PAUSE); });
  const name = h("input", { value: id ?? "", placeholder: "rule1", disabled: Boolean(id), name: "id", "aria-label": "Id of the rule" });
  const actions = h("textarea", { rows: 5, class: "mono", name: "actions", "aria-label": "Actions, a list as JSON", spellcheck: "false" });
  actions.value = JSON.stringify(rule?.actions ?? [{ websocket: { path: "/out" } }], null, 2);
  const options = h("textarea", { rows: 3, class: "mono", name: "options", "aria-label": "Options, an object as JSON", spellcheck: "false" });
  options.value = JSON.stringify(rule?.options ?? {}, null, 2);
  const ofRule = h("div", {},
    h("h2", {}, "Id"), name,
    h("h2", {}, "Actions: where results go"), actions,
    h("h2", {}, "Options"), options);
  const trial = trialPanel(() => ({ sql: field.text(), options: parsed(options, {}) }), signal);
  [actions, options].forEach((area) => { area.style.width = "100%"; });
  put(here, h("h1", {}, id ? `Edit rule ${id}` : "Editor"),
    h("p", { class: "faint" }, "Write a SELECT for a rule, or CREATE STREAM, CREATE TABLE or CREATE VIEW. Ctrl+Space completes."),
    field, checks,
    h("div", { class: "bar changes" }, h("button", { class: "main", "data-save": "", click: save }, "Save")), said,
    h("div", { class: "split" }, h("div", {}, ofRule, plan), trial));

  function parsed(area, empty) {
    const text = area.value.trim();
    return text ? JSON.parse(text) : empty;
  }

  const isRule = () => !/^\s*(--[^\n]*\n\s*)*CREATE\b/i.test(field.text());

  async function check() {
    const text = field.text();
    ofRule.hidden = !isRule();
    trial.hidden = !isRule();
    if (!text.trim()) { put(checks); return; }
    try {
      const found = await send("POST", "/validate", { sql: text });
      if (text !== field.text() || signal.aborted) return;
      const placed = found.details.filter((one) => one.line && one.in === "sql");
      field.mark(placed.map((one) => wordAt(text, offset(text, one.line, one.column))));
      put(checks, found.valid && found.details.length === 0 ? h("p", { class: "faint" }, "Nothing is wrong.") : found.details.map((one) =>
        note(one.severity === "warning" ? "" : "bad", one.line ? `${one.line}:${one.column}: ` : "", one.message, one.hint ? ` (${one.hint})` : "")));
      put(plan, found.plan && [h("h2", {}, "Plan"), h("pre", {}, found.plan)]);
    } catch (error) {
      if (!signal.aborted) put(checks, note("bad", error.message));
    }
  }

  async function save() {
    try {
      const sql = field.text();
      let answer;
      if (isRule()) {
        const body = { ...rule, id: name.value.trim(), sql, actions: parsed(actions, []), options: parsed(options, {}) };
        if (!body.id) throw new Error("Give the rule an id.");
        answer = id ? await send("PUT", `/rules/${escape(id)}?details`, body) : await send("POST", "/rules?details", body);
        put(said, note("good", answer.message ?? String(answer), " ", h("a", { href: `#/rules/${escape(body.id)}` }, "See it run.")),
          (answer.warnings ?? []).map((one) => note("", one.message)));
      } else {
        const kind = sql.match(/CREATE\s+(STREAM|TABLE|VIEW)/i)?.[1].toLowerCase() ?? "stream";
        answer = await send("POST", `/${kind}s?details`, { sql });
        put(said, note("good", answer.message ?? String(answer)), (answer.warnings ?? []).map((one) => note("", one.message)));
        field.know(await vocabulary(signal));
      }
      await refresh();
    } catch (error) {
      const more = (error.details ?? []).filter((one) => !error.message.includes(one.message));
      put(said, note("bad", error.message), more.map((one) => note("bad", one.message, one.hint ? ` (${one.hint})` : "")));
    }
  }

  check();
  vocabulary(signal).then(field.know).catch(() => {});
}
