// Precision against coverage: a slider of the limit, what it means for answers, and the command that applies it.

import { element, svg } from "../elements.js";
import { axes, command, drawn, lowestOf, share, table, withInterval } from "./owner-parts.js";
import { say, text } from "../localisation.js";

const HEIGHT = 210;
const SOURCES = ["validation", "reviewed"];

let chosen = null; // where the owner left the slider

/** The nodes of the part. */
export function precisionPart(told) {
  const curves = SOURCES.filter((name) => told[name]);
  if (!curves.length) return [say(element("p.quiet"), "precision_none")];
  const { points } = told[curves[0]];
  const nearest = (limit) => points.reduce((best, point, k) => (Math.abs(point.limit - limit) < Math.abs(points[best].limit - limit) ? k : best), 0);
  let k = chosen ?? nearest(told.limit);

  const value = element("output", { for: "limit" });
  const slider = element("input", { type: "range", id: "limit", min: 0, max: points.length - 1, step: 1, value: k, input: () => move(Number(slider.value)) });
  const field = element("div.limit-field", {}, element("label", { for: "limit" }, say(element("span"), "limit"), value), slider, say(element("p.quiet.small"), "limit_in_use", { get share() { return share(told.limit); } }));
  const rows = element("div.table", { tabindex: "0", role: "region" });
  say(rows, "precision_title", undefined, "label");
  const applies = say(element("p"), "limit_applies");
  const applied = command("");
  const not = say(element("p.quiet"), "limit_applies_not", {});
  const picture = svg("svg", { role: "img", height: HEIGHT });
  say(picture, "precision_says", undefined, "label");
  const again = drawn(picture, (width) => draw(width, told, curves, k), HEIGHT);

  function move(to) {
    k = to;
    chosen = to === nearest(told.limit) ? null : to;
    const of = (name) => told[name].points[k];
    const point = of(curves[0]);
    say(value, () => share(point.limit));
    slider.setAttribute("aria-valuetext", text("limit_says", { limit: share(point.limit), precision: point.precision ? share(point.precision.share) : "–", coverage: point.coverage ? share(point.coverage.share) : "–" }));
    rows.replaceChildren(table(
      ["answers_on", "photos", "coverage", "precision"],
      curves.map((name) => [name, String(told[name].photos), withInterval(of(name).coverage), withInterval(of(name).precision)]),
    ));
    const reached = point.min_precision !== null;
    applies.hidden = applied.node.hidden = !reached;
    not.hidden = reached;
    if (reached) applied.show(`${told.command} --min-precision ${point.min_precision}`);
    again();
  }
  move(k);
  const legend = element("ul.legend", {}, ...curves.map((name) => element(`li.of-${name}`, {}, element("i"), say(element("span"), name))));
  const all = element("details", {}, say(element("summary"), "as_table"), say(element("div.scroll.table", { tabindex: "0", role: "region" }, everything(told, curves)), "precision_says", undefined, "label"));
  const plot = element("div.plot", {}, say(element("h3"), "precision_axis"), picture, legend, all);
  return [say(element("p"), "precision_more"), field, rows, plot, applies, applied.node, not];
}

function everything(told, curves) {
  const rows = told[curves[0]].points
    .map((point, k) => [() => share(point.limit), ...curves.flatMap((name) => [withInterval(told[name].points[k].coverage), withInterval(told[name].points[k].precision)])])
    .filter((_, k) => k % 3 === 0);
  return table(["limit_short", ...curves.flatMap((name) => (curves.length > 1 ? [`coverage_${name}`, `precision_${name}`] : ["coverage", "precision"]))], rows);
}

function draw(width, told, curves, k) {
  const known = (name) => told[name].points.filter((point) => point.precision);
  const { up, grid, below, left } = axes(width, HEIGHT, lowestOf(curves.flatMap((name) => known(name).map((point) => point.precision.low))));
  const across = (value) => left + value * (width - left - 12);
  const parts = [...grid, below(across(0), share(0), "start"), below(across(0.5), share(0.5)), below(across(1), share(1), "end")];
  for (const name of curves) {
    const line = known(name).map((point) => `${across(point.coverage.share).toFixed(1)},${up(point.precision.share).toFixed(1)}`);
    parts.push(svg("g." + `of-${name}`, {}, svg("polyline.stroke", { points: line.join(" ") })));
  }
  for (const name of curves) {
    const { coverage, precision } = told[name].points[k];
    if (!precision) continue;
    const [x, y] = [across(coverage.share), up(precision.share)];
    parts.push(svg("g." + `of-${name}`, {}, svg("line.whisker", { x1: x, x2: x, y1: up(precision.high), y2: up(precision.low) }), svg("circle.score-mark.in-use", { cx: x, cy: y, r: 6 })));
  }
  return parts;
}
