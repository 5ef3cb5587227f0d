// The service as it is now: asked every two seconds while the page is shown, with what was seen in the last ten minutes.

import { get } from "./api.js";

const EVERY = 2000;
const KEPT = 10 * 60 * 1000;

/** Names of what is kept over time. */
export const SERIES = ["in", "out", "lost", "clients", "cpu", "memory", "rules"];

const watchers = new Set();
let before = null;

export const live = {
  /** The last answer of /overview. */
  now: null,
  /** Rates in a second, by rule: `{in, out, errors, lost}`. */
  rates: new Map(),
  /** Lists of `[time, value]` by the names of SERIES. */
  history: Object.fromEntries(SERIES.map((name) => [name, []])),
};

/** Calls `watch` with each new state, at once if there is one; gives what ends it. */
export function follow(watch) {
  watchers.add(watch);
  if (live.now) watch(live);
  return () => watchers.delete(watch);
}

/** Asks now, such as after a change. */
export async function refresh() {
  let error = null;
  try {
    take(await get("/overview"));
  } catch (cause) {
    error = cause;
  }
  document.getElementById("state").textContent = error ? `not connected: ${error.message}` : "";
}

function take(now) {
  // The rules of `plutino run` cannot be changed here.
  document.body.toggleAttribute("data-read-only", now.readOnly === true);
  const seconds = before ? Math.max(0.001, (now.time - before.time) / 1000) : 0;
  const rate = (is, was) => (seconds ? Math.max(0, is - was) / seconds : 0);
  live.rates = new Map();
  const sum = { in: 0, out: 0, lost: 0 };
  for (const rule of now.rules) {
    const was = before?.rules.find((one) => one.id === rule.id) ?? rule;
    const rates = {};
    for (const name of ["in", "out", "errors", "lost"]) rates[name] = rate(rule[name], was[name]);
    live.rates.set(rule.id, rates);
    for (const name of Object.keys(sum)) sum[name] += rates[name];
  }
  const cpu = rate(now.cpuSeconds ?? 0, before?.cpuSeconds ?? now.cpuSeconds ?? 0) * 100;
  const values = { ...sum, cpu, clients: now.clients, memory: now.memoryBytes ?? 0, rules: now.states.running ?? 0 };
  if (before) {
    for (const name of SERIES) {
      const series = live.history[name];
      series.push([now.time, values[name]]);
      while (series.length && series[0][0] < now.time - KEPT) series.shift();
    }
  }
  before = now;
  live.now = now;
  watchers.forEach((watch) => watch(live));
}

export async function run() {
  for (;;) {
    if (!document.hidden) await refresh();
    await new Promise((resolve) => setTimeout(resolve, EVERY));
  }
}
