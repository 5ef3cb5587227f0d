// The REST API. If it requires a token, the console asks for it; the token stays in this tab.

import { h, put } from "./dom.js";

const TOKEN = "plutino-token";
const DATA_TOKEN = "plutino-data-token";

/** An answer that is a refusal. `details` are mistakes with their places, where the service told them. */
export class Refused extends Error {
  constructor(status, message, details) {
    super(message);
    this.status = status;
    this.details = details ?? [];
  }
}

let asking = null;

function headers(more = {}) {
  const token = sessionStorage.getItem(TOKEN);
  return token ? { ...more, Authorization: `Bearer ${token}` } : more;
}

/** The response to a request, once it succeeds; asks for a token if one is required. */
async function request(method, path, body, signal) {
  for (;;) {
    const options = { method, signal, headers: headers(body === undefined ? {} : { "Content-Type": "application/json" }) };
    if (body !== undefined) options.body = JSON.stringify(body);
    const answer = await fetch(path, options);
    if (answer.status !== 401) return answer;
    asking ??= askForToken("The service requires a token.", TOKEN).finally(() => { asking = null; });
    if (!(await asking)) throw new Refused(401, "A token is needed.");
  }
}

async function read(answer) {
  const text = await answer.text();
  let json;
  try { json = JSON.parse(text); } catch { json = undefined; }
  if (!answer.ok) {
    const message = typeof json?.message === "string" ? json.message : text.trim() || `${answer.status} ${answer.statusText}`;
    throw new Refused(answer.status, message, json?.details);
  }
  return json ?? text;
}

export async function get(path, signal) {
  return read(await request("GET", path, undefined, signal));
}

export async function send(method, path, body = {}) {
  return read(await request(method, path, body));
}

/** A name for a path. */
export const escape = encodeURIComponent;

/**
 * Reads server-sent events until they end or `signal` ends them.
 * @param {(event: {name: string, data: string}) => void} each
 */
export async function events(path, signal, each, begun = () => {}) {
  const answer = path.startsWith("/") ? await request("GET", path, undefined, signal) : await fetch(path, { signal });
  if (!answer.ok) await read(answer);
  begun();
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      let name = "message";
      const data = [];
      for (const line of part.split("\n")) {
        if (line.startsWith("event: ")) name = line.slice(7);
        if (line.startsWith("data: ")) data.push(line.slice(6));
      }
      if (data.length) each({ name, data: data.join("\n") });
    }
  }
}

/** The address of the data server for this page: scheme, host and port. */
export function dataServer(listening, scheme, tls) {
  const port = listening?.match(/:(\d+)$/)?.[1];
  if (!port) return null;
  return `${scheme}${tls ? "s" : ""}://${location.hostname}:${port}`;
}

export function dataToken() {
  return sessionStorage.getItem(DATA_TOKEN) ?? "";
}

/** Asks for a token and keeps it for the tab; false: none was given. */
export function askForToken(why, where = DATA_TOKEN) {
  const dialog = document.getElementById("dialog");
  return new Promise((resolve) => {
    const input = h("input", { type: "password", autocomplete: "off", autofocus: true, name: "token" });
    const form = h("form", { method: "dialog" },
      h("p", {}, why, " It is kept for this tab only."),
      h("label", {}, "Token", input),
      h("div", { class: "bar" }, h("button", { class: "main" }, "Use it")));
    form.addEventListener("submit", () => {
      const token = input.value.trim();
      if (token) sessionStorage.setItem(where, token);
      resolve(token !== "");
    });
    dialog.oncancel = () => resolve(false);
    put(dialog, form);
    dialog.showModal();
  });
}
