// Elements without a framework. Whatever comes from the service is put in as text, never as markup.

/**
 * Makes an element. Attributes that are functions listen to the event of their name; `true` sets an attribute without
 * a value, `false` and `null` leave it out. Children are nodes, texts, numbers, lists of these, or nothing.
 */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...nodes(children));
  return element;
}

function nodes(children) {
  return children.flat(Infinity).filter((child) => child != null && child !== false)
    .map((child) => (child instanceof Node ? child : document.createTextNode(String(child))));
}

/** Puts other children into an element. What had the focus keeps it, if its `data-key` is there again. */
export function put(element, ...children) {
  const active = document.activeElement;
  const key = element.contains(active) ? active.dataset?.key : undefined;
  element.replaceChildren(...nodes(children));
  if (key) [...element.querySelectorAll("[data-key]")].find((one) => one.dataset.key === key)?.focus();
}

/** A table of headings and rows of cells. A heading that begins with # is that of numbers. */
export function table(headings, rows, empty = "Nothing here.") {
  if (rows.length === 0) return h("p", { class: "faint" }, empty);
  const isNumber = headings.map((heading) => typeof heading === "string" && heading.startsWith("#"));
  const of = (index) => (isNumber[index] ? "number" : null);
  const heading = (text, index) => h("th", { scope: "col", class: of(index) }, isNumber[index] ? text.slice(1) : text);
  const cell = (content, index) => h("td", { class: of(index) ?? "wrap" }, content);
  return h("div", { class: "scroll" }, h("table", {},
    h("thead", {}, h("tr", {}, headings.map(heading))),
    h("tbody", {}, rows.map((row) => h("tr", {}, row.map(cell))))));
}

/** A number with few digits. */
export function short(number) {
  if (number == null || Number.isNaN(number)) return "–";
  for (const [limit, unit] of [[1e9, "G"], [1e6, "M"], [1e4, "k"]]) {
    if (Math.abs(number) >= limit) return (number / (unit === "k" ? 1e3 : limit)).toFixed(1) + unit;
  }
  return Number.isInteger(number) || Math.abs(number) >= 10 ? String(Math.round(number)) : number.toFixed(1);
}

export function bytes(count) {
  if (count == null) return "–";
  return count >= 1e6 ? (count / 1e6).toFixed(1) + " MB" : count >= 1e3 ? (count / 1e3).toFixed(1) + " kB" : count + " B";
}

export function micros(us) {
  if (us == null) return "–";
  return us < 1e4 ? us + " µs" : us < 1e7 ? Math.round(us / 1e3) + " ms" : Math.round(us / 1e6) + " s";
}

export function duration(seconds) {
  const [d, hours, m] = [Math.floor(seconds / 86400), Math.floor(seconds / 3600) % 24, Math.floor(seconds / 60) % 60];
  if (d) return `${d} d ${hours} h`;
  if (hours) return `${hours} h ${m} min`;
  return m ? `${m} min ${Math.floor(seconds) % 60} s` : `${Math.floor(seconds)} s`;
}

/** How long ago a time in ms is. */
export function ago(time) {
  return time > 0 ? duration(Math.max(0, (Date.now() - time) / 1000)) : "–";
}

export function state(word) {
  return h("span", { class: `state ${word}` }, word);
}

export function note(kind, ...content) {
  return h("div", { class: `note ${kind}`, role: kind === "bad" ? "alert" : "status" }, content);
}

/** Asks for a yes. */
export async function confirmed(question, yes) {
  const dialog = document.getElementById("dialog");
  return new Promise((resolve) => {
    const close = (answer) => { dialog.close(); resolve(answer); };
    put(dialog, h("p", {}, question), h("div", { class: "bar" },
      h("button", { class: "danger", click: () => close(true) }, yes),
      h("button", { autofocus: true, click: () => close(false) }, "Cancel")));
    dialog.oncancel = () => resolve(false);
    dialog.showModal();
  });
}
