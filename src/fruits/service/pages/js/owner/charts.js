// Small charts of numbers by day, drawn as SVG, each with a table of the same numbers for those who do not see it.

import { element, svg } from "../elements.js";
import { language, say, text } from "../localisation.js";

const HEIGHT = 150;
const LEFT = 52; // room for "300 ms"
const BOTTOM = 20;

/**
 * A chart.
 *
 * @param {object} about
 * @param {string} about.title  Key of its words.
 * @param {string[]} about.days  ISO dates, oldest first.
 * @param {{name: string, values: (number|null)[]}[]} about.series  `name` is a key of words.
 * @param {"bars"|"lines"} about.form  Stacked bars, or a line per series.
 * @param {(value: number) => string} about.written  How a value is written.
 * @param {number} [about.least]  The axis goes up at least to this.
 * @param {number[]} [about.limits]  Values to mark.
 * @param {string} [about.remark]  Key of words below.
 */
export function chart(about) {
  const { title, days, series, written, remark } = about;
  const node = element("section.chart", {}, say(element("h2"), title));
  if (!series.some((one) => one.values.some((value) => value !== null && (value > 0 || about.form === "lines")))) {
    node.append(say(element("p.quiet"), "no_data"));
    return node;
  }
  const picture = svg("svg", { role: "img", height: HEIGHT + BOTTOM });
  say(picture, () => text("chart_says", { title: text(title), first: dated(days[0]), last: dated(days.at(-1)) }), undefined, "label");
  node.append(picture);
  if (series.length > 1) {
    node.append(element("ul.legend", {}, ...series.map((one) => element(`li.series-${one.name}`, {}, element("i"), say(element("span"), one.name)))));
  }
  if (remark) node.append(say(element("p.quiet.small"), remark));
  const table = element(
    "table",
    {},
    element("thead", {}, element("tr", {}, say(element("th", { scope: "col" }), "day"), ...series.map((one) => say(element("th", { scope: "col" }), one.name)))),
    element(
      "tbody",
      {},
      ...days.map((day, k) =>
        element("tr", {}, say(element("th", { scope: "row" }), () => dated(day)), ...series.map((one) => say(element("td"), () => (one.values[k] === null ? "–" : written(one.values[k]))))),
      ),
    ),
  );
  node.append(element("details", {}, say(element("summary"), "as_table"), say(element("div.scroll", { tabindex: "0", role: "region" }, table), title, undefined, "label")));
  new ResizeObserver(() => draw(picture, about)).observe(picture);
  return node;
}

const dated = (day) => new Intl.DateTimeFormat(language(), { day: "numeric", month: "short", timeZone: "UTC" }).format(new Date(`${day}T00:00:00Z`));

function draw(picture, { days, series, form, written, least = 0, limits = [] }) {
  const width = picture.clientWidth;
  if (!width) return;
  const heights = days.map((_, k) => {
    const values = series.map((one) => one.values[k] ?? 0);
    return form === "bars" ? values.reduce((sum, value) => sum + value, 0) : Math.max(...values);
  });
  const top = niceTop(Math.max(least, ...heights));
  const across = (k) => LEFT + ((k + 0.5) * (width - LEFT)) / days.length;
  const up = (value) => HEIGHT - (value / top) * (HEIGHT - 12);
  const parts = [];
  for (const value of [0, top / 2, top]) {
    parts.push(svg("line.grid", { x1: LEFT, x2: width, y1: up(value), y2: up(value) }));
    const label = svg("text", { x: LEFT - 8, y: up(value) + 4, "text-anchor": "end" });
    label.textContent = written(value);
    parts.push(label);
  }
  for (const value of limits.filter((limit) => limit <= top)) parts.push(svg("line.limit", { x1: LEFT, x2: width, y1: up(value), y2: up(value) }));
  const marks = [...new Set([0, Math.floor((days.length - 1) / 2), days.length - 1])];
  marks.forEach((k, place) => {
    const end = place === marks.length - 1 && place > 0;
    const label = svg("text", { x: end ? width : across(k), y: HEIGHT + 16, "text-anchor": end ? "end" : place ? "middle" : "start" });
    label.textContent = dated(days[k]);
    parts.push(label);
  });
  parts.push(...(form === "bars" ? bars : lines)({ days, series, across, up, wide: ((width - LEFT) / days.length) * 0.72 }));
  picture.setAttribute("viewBox", `0 0 ${width} ${HEIGHT + BOTTOM}`);
  picture.replaceChildren(...parts);
}

function bars({ days, series, across, up, wide }) {
  return days.map((_, k) => {
    let below = 0;
    const told = svg("title");
    told.textContent = `${dated(days[k])}: ${series.map((one) => `${text(one.name)} ${one.values[k] ?? 0}`).join(", ")}`;
    const group = svg("g", {}, told);
    for (const one of series) {
      const value = one.values[k] ?? 0;
      if (!value) continue;
      group.append(svg(`rect.area.series-${one.name}`, { x: across(k) - wide / 2, width: Math.max(1, wide), y: up(below + value), height: up(below) - up(below + value) }));
      below += value;
    }
    return group;
  });
}

function lines({ series, across, up }) {
  return series.flatMap((one) => {
    const runs = [[]];
    one.values.forEach((value, k) => {
      if (value === null) runs.push([]);
      else runs.at(-1).push([across(k), up(value)]);
    });
    const some = runs.filter((run) => run.length);
    return [
      ...some.filter((run) => run.length > 1).map((run) => svg(`polyline.stroke.series-${one.name}`, { points: run.map((point) => point.map((at) => at.toFixed(1)).join(",")).join(" ") })),
      // A single day between days without photos is no line.
      ...some.filter((run) => run.length === 1).map(([[x, y]]) => svg(`circle.point.series-${one.name}`, { cx: x, cy: y, r: 3.5 })),
    ];
  });
}

function niceTop(value) {
  const size = 10 ** Math.floor(Math.log10(value || 1));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].map((step) => step * size).find((step) => step >= value * 0.999) ?? 10 * size;
}
