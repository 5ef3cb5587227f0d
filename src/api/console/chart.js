// Small charts: a line over ten minutes, over less while the page has not been there for so long.

import { svg } from "./dom.js";

const [SHORTEST, LONGEST] = [60 * 1000, 10 * 60 * 1000];

/** A chart of `[time, value]`. */
export function chart(points, label) {
  const box = svg("svg", { class: "chart", viewBox: "0 0 100 30", preserveAspectRatio: "none", role: "img", "aria-label": label });
  if (points.length < 2) return box;
  const end = points.at(-1)[0];
  const span = Math.min(LONGEST, Math.max(SHORTEST, end - points[0][0]));
  const most = Math.max(...points.map(([, value]) => value), 1e-9);
  const place = ([time, value]) => `${(100 - ((end - time) / span) * 100).toFixed(2)},${(29 - (value / most) * 27).toFixed(2)}`;
  const line = points.map(place).join("L");
  const first = place(points[0]).split(",")[0];
  box.append(svg("path", { class: "area", d: `M${first},30L${line}L100,30Z` }), svg("path", { class: "line", d: `M${line}` }));
  return box;
}
