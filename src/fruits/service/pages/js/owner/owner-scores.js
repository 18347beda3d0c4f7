// How good every recogniser is on the test set of visitors' photos: a plot with intervals, and the same as a table.

import { element, svg } from "../elements.js";
import { axes, drawn, lowestOf, table, withInterval } from "./owner-parts.js";
import { language, say, text } from "../localisation.js";

const HEIGHT = 190;
const MOST = 24; // recognisers in the plot, the newest
const day = (iso) => new Intl.DateTimeFormat(language(), { day: "numeric", month: "short", timeZone: "UTC" }).format(new Date(`${iso}T00:00:00Z`));

/** The nodes of the part. */
export function scoresPart({ one_in: oneIn, fewest, photos, open, bundles }) {
  const parts = [say(element("p"), "test_set_more", { n: oneIn })];
  parts.push(say(element("p"), photos < fewest ? "test_set_few" : "test_set_photos", { n: photos, fewest }));
  const scored = bundles.filter((one) => one.kind).slice(-MOST);
  if (scored.length) parts.push(plot(scored));
  if (bundles.length) {
    const rows = bundles.map((one) => {
      const name = element("span", {}, element("code", {}, one.identity), one.identity === open ? say(element("span.tag"), "in_use") : null);
      const told = (value) => (value ? withInterval(value) : "too_few");
      return [name, () => day(one.since), String(one.photos), told(one.kind), told(one.label)];
    });
    const columns = ["recogniser", "asked_since", "photos", "right_kind", "right_label"];
    parts.push(say(element("div.table", { tabindex: "0", role: "region" }, table(columns, rows)), "test_set_title", undefined, "label"));
  } else if (photos) parts.push(say(element("p.quiet"), "test_set_soon"));
  parts.push(say(element("p.quiet.small"), "test_set_bias"));
  return parts;
}

function plot(scored) {
  const picture = svg("svg", { role: "img", height: HEIGHT });
  say(picture, () => text("test_set_says", { first: day(scored[0].since), last: day(scored.at(-1).since), n: scored.length }), undefined, "label");
  drawn(picture, (width) => draw(width, scored), HEIGHT);
  return element("div.plot", {}, say(element("h3"), "test_set_axis"), picture);
}

function draw(width, scored) {
  const { up, grid, below, left } = axes(width, HEIGHT, lowestOf(scored.map((one) => one.kind.low)));
  const across = (k) => left + ((k + 0.5) * (width - left)) / scored.length;
  const every = Math.ceil(scored.length / Math.max(1, Math.floor((width - left) / 70)));
  const marks = scored.flatMap((one, k) => {
    const x = across(k);
    const told = svg("title");
    told.textContent = `${one.identity}, ${day(one.since)}: ${withInterval(one.kind)()}`;
    const whisker = svg("line.whisker", { x1: x, x2: x, y1: up(one.kind.high), y2: up(one.kind.low) });
    const ends = [one.kind.high, one.kind.low].map((value) => svg("line.whisker", { x1: x - 6, x2: x + 6, y1: up(value), y2: up(value) }));
    const dot = svg("circle.score-mark", { cx: x, cy: up(one.kind.share), r: 5 });
    return [svg("g.of-kind", {}, told, whisker, ...ends, dot), ...(k % every ? [] : [below(x, day(one.since))])];
  });
  return [...grid, ...marks];
}
