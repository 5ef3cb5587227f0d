// The operators of a rule as a graph, with rates on the edges.

import { short, svg } from "./dom.js";

const [WIDTH, HEIGHT, GAP_X, GAP_Y, EDGE] = [168, 46, 70, 18, 12];

/** What an operator is called here: `op_2_filter` is a filter. */
function title(operator) {
  const name = operator.name.replace(/^(op|source|sink)_/, "");
  return operator.op === "source" || operator.op === "sink" ? `${operator.op} ${name}` : operator.op;
}

function cut(text, most) {
  return text.length > most ? text.slice(0, most - 1) + "…" : text;
}

/** Steps from the results to one sink. They are drawn as part of it. */
const SENDING = new Set(["batch", "transform", "batchWriter", "encode", "compress", "encrypt", "cache"]);

/** The operators without the steps to a sink, whose errors are then those of the sink. */
function compact(operators) {
  const byName = new Map(operators.map((one) => [one.name, one]));
  const errors = new Map();
  const end = (name) => {
    const one = byName.get(name);
    if (!one || !SENDING.has(one.op)) return name;
    const sink = end(one.to[0]);
    errors.set(sink, Math.max(errors.get(sink) ?? 0, one.errors));
    return sink;
  };
  const kept = operators.filter((one) => !SENDING.has(one.op)).map((one) => ({ ...one, to: one.to.map(end) }));
  return kept.map((one) => ({ ...one, errors: one.errors + (errors.get(one.name) ?? 0) }));
}

/**
 * Draws operators `{name, op, in, out, errors, to}`; `rates` has `{in, out}` in a second by name, `selected` is called
 * with the operator that is chosen.
 */
export function graph(all, rates, selected) {
  const operators = compact(all);
  const byName = new Map(operators.map((one) => [one.name, one]));
  const depth = new Map();
  const deepen = (name, level) => {
    if ((depth.get(name) ?? -1) >= level) return;
    depth.set(name, level);
    byName.get(name)?.to.forEach((next) => deepen(next, level + 1));
  };
  operators.forEach((one) => { if (!operators.some((other) => other.to.includes(one.name))) deepen(one.name, 0); });
  const columns = [];
  operators.forEach((one) => (columns[depth.get(one.name) ?? 0] ??= []).push(one));
  const tallest = Math.max(...columns.map((column) => column?.length ?? 0), 1);
  const place = new Map();
  columns.forEach((column, x) => column.forEach((one, y) => {
    const top = ((tallest - column.length) * (HEIGHT + GAP_Y)) / 2;
    place.set(one.name, [EDGE + x * (WIDTH + GAP_X), EDGE + 8 + top + y * (HEIGHT + GAP_Y)]);
  }));
  const width = 2 * EDGE + columns.length * (WIDTH + GAP_X) - GAP_X;
  const height = 2 * EDGE + 8 + tallest * (HEIGHT + GAP_Y);
  const picture = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": "Operators" });
  for (const one of operators) {
    const [x, y] = place.get(one.name);
    for (const to of one.to.filter((name) => place.has(name))) {
      const [endX, endY] = place.get(to);
      const [fromX, fromY, toY] = [x + WIDTH, y + HEIGHT / 2, endY + HEIGHT / 2];
      picture.append(
        svg("path", { d: `M${fromX},${fromY}C${fromX + GAP_X / 2},${fromY} ${endX - GAP_X / 2},${toY} ${endX},${toY}` }),
        svg("text", { class: "small", x: (fromX + endX) / 2, y: (fromY + toY) / 2 - 5, "text-anchor": "middle" },
          `${short(rates.get(one.name)?.out ?? 0)}/s`));
    }
  }
  for (const one of operators) {
    const [x, y] = place.get(one.name);
    const kind = one.errors > 0 ? "faulty" : one.in > 0 && one.out === 0 ? "dead" : "";
    const counts = `${short(one.in)} → ${short(one.out)}${one.errors ? `, ${short(one.errors)} errors` : ""}`;
    picture.append(svg("a", {
      class: kind, href: "#", "data-key": one.name, "data-operator": one.name, "aria-label": `${title(one)}: ${counts}`,
      click: (event) => { event.preventDefault(); selected(one); },
    },
    svg("rect", { x, y, width: WIDTH, height: HEIGHT, rx: 8 }),
    svg("text", { x: x + 12, y: y + 19 }, cut(title(one), 22)),
    svg("text", { class: "small", x: x + 12, y: y + 36 }, counts)));
  }
  return picture;
}
