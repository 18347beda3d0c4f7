// Building blocks: elements made of names, attributes and children, never of HTML text.

import { at } from "./place.js";

const SVG = "http://www.w3.org/2000/svg";

/**
 * Make an element.
 *
 * @param {string} name  Tag, with classes: "p.quiet.small".
 * @param {object} attributes  Attributes; functions become listeners, true an empty attribute, false and null none.
 * @param {...(Node|string|null)} children  Strings become text.
 */
export function element(name, attributes = {}, ...children) {
  const [tag, ...classes] = name.split(".");
  return filled(document.createElement(tag), classes, attributes, children);
}

/** Make an SVG element. */
export function svg(name, attributes = {}, ...children) {
  const [tag, ...classes] = name.split(".");
  return filled(document.createElementNS(SVG, tag), classes, attributes, children);
}

/** A drawing of icons/sprites.svg; decoration, so not read out. */
export function icon(name, size = 20) {
  return svg("svg.icon", { viewBox: "0 0 24 24", width: size, height: size, "aria-hidden": "true" }, svg("use", { href: at(`/static/icons/sprites.svg#${name}`) }));
}

function filled(made, classes, attributes, children) {
  if (classes.length) made.setAttribute("class", classes.join(" "));
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(key, value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}
