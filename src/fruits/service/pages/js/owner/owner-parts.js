// Parts of the owner's page of what to do better: shares with their intervals, tables, commands to copy, axes of plots.

import { element, svg } from "../elements.js";
import { language, say, text } from "../localisation.js";

/** A share in per cent with one digit where the digit says something. */
export const share = (value) => new Intl.NumberFormat(language(), { style: "percent", maximumFractionDigits: 1 }).format(value);

/** A share with its interval; a dash where there is none. */
export const withInterval = (one) => () => (one ? text("share_interval", { share: share(one.share), low: share(one.low), high: share(one.high) }) : "–");

/**
 * A table.
 *
 * @param {string[]} columns  Keys of their words.
 * @param {(Node|(() => string)|string)[][]} rows  The first cell heads the row.
 */
export function table(columns, rows) {
  const cell = (name, attributes, value) => {
    const made = element(name, attributes);
    if (value instanceof Node) made.append(value);
    else say(made, value);
    return made;
  };
  return element(
    "table", {},
    element("thead", {}, element("tr", {}, ...columns.map((name) => say(element("th", { scope: "col" }), name)))),
    element("tbody", {}, ...rows.map(([first, ...rest]) => element("tr", {}, cell("th", { scope: "row" }, first), ...rest.map((value) => cell("td", {}, value))))),
  );
}

/** A command with a button that copies it; `show` changes it. */
export function command(words) {
  const code = element("code", { translate: "no" }, words);
  const told = element("span.quiet.small", { role: "status" });
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(code.textContent);
      say(told, "copied");
    } catch {
      getSelection().selectAllChildren(code); // without the right to copy, it is ready to be copied by hand
      say(told, "selected");
    }
  };
  const node = element("p.command", {}, code, say(element("button.button.small", { type: "button", click: copy }), "copy"), told);
  return { node, show: (other) => { code.textContent = other; told.textContent = ""; } };
}

const LEFT = 44;
const TOP = 10;
const BOTTOM = 24;

/** Places within a plot of shares: `up` of a share from `lowest` to 1, and the grid with its labels. */
export function axes(width, height, lowest) {
  const up = (value) => TOP + ((1 - value) / (1 - lowest)) * (height - TOP - BOTTOM);
  const grid = [lowest, (1 + lowest) / 2, 1].flatMap((value) => {
    const label = svg("text", { x: LEFT - 8, y: up(value) + 4, "text-anchor": "end" });
    label.textContent = share(value);
    return [svg("line.grid", { x1: LEFT, x2: width, y1: up(value), y2: up(value) }), label];
  });
  const below = (x, words, anchor = "middle") => {
    const label = svg("text", { x, y: height - 4, "text-anchor": anchor });
    label.textContent = words;
    return label;
  };
  return { up, grid, below, left: LEFT };
}

/** Where the axis of shares begins: the next lower tenth. */
export const lowestOf = (values) => Math.max(0, Math.min(0.9, Math.floor(10 * Math.min(...values, 1)) / 10));

/** Draw into an SVG whenever its size changes. */
export function drawn(picture, draw, height) {
  const again = () => {
    const width = picture.clientWidth;
    if (!width) return;
    picture.setAttribute("viewBox", `0 0 ${width} ${height}`);
    picture.replaceChildren(...draw(width));
  };
  new ResizeObserver(again).observe(picture);
  return again;
}
