// The activation map over a photo: bright where something speaks for the answer. As recogniser/explain.py draws it.

import { modelInfo } from "../api.js";
import { element, svg } from "../elements.js";
import { say, text } from "../localisation.js";

const LONGEST = 192; // pixels of the drawing; style.css stretches it over the photo
const STRONGEST = 0.6; // opacity, as in explain.py
const COLOURS = [[20, 11, 52], [101, 21, 110], [187, 55, 84], [249, 142, 8], [252, 255, 164]];

export class MapToggle {
  #map;
  #size;
  #canvas = element("canvas.map", { "aria-hidden": "true", hidden: true });
  #said = element("p.map-said", { hidden: true });
  #button;

  /**
   * @param {{map: {rows: number, columns: number, values: number[]}, kinds: object[]}} answer  The values from 0 to 1, row by row.
   * @param {{width: number, height: number}} size  Of the photo.
   */
  constructor({ map, kinds }, size) {
    this.#map = map;
    this.#size = size;
    say(this.#said, () => text("map_more", { name: text(kinds[0]) }));
    this.#button = element("button.map-toggle", { type: "button", "aria-pressed": "false", click: () => this.#turn() }, eye(), say(element("span"), "map"));
  }

  /** What goes over the photo, in this order. */
  get nodes() {
    return [this.#canvas, this.#button, this.#said];
  }

  async #turn() {
    const on = this.#canvas.hidden;
    if (on && !this.#canvas.dataset.drawn) {
      const fit = this.#map.fit ?? (await modelInfo().catch(() => null))?.fit ?? "pad";
      draw(this.#canvas, this.#map, this.#size, fit);
      this.#canvas.dataset.drawn = "yes";
    }
    this.#canvas.hidden = this.#said.hidden = !on;
    this.#button.setAttribute("aria-pressed", String(on));
  }
}

/** Drawn here and not fetched: on the device, an answer asks the service for nothing. */
function eye() {
  const lines = svg("path", { d: "M2.5 12C5 7.5 8.300 5.500 12 5.500s7 2 9.500 6.500c-2.500 4.500-5.800 6.500-9.500 6.500S5 16.500 2.500 12zM15 12a3 3 0 1 1-6 0 3 3 0 0 1 6 0z" });
  return svg("svg.icon.eye", { viewBox: "0 0 24 24", width: 18, height: 18, "aria-hidden": "true" }, lines);
}

/** The network looks at a square: the photo on white, its middle, or all of it squashed. */
function draw(canvas, { rows, columns, values }, { width, height }, fit) {
  const scale = LONGEST / Math.max(width, height);
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const side = fit === "crop" ? Math.min(width, height) : Math.max(width, height);
  const across = fit === "squash" ? width : side;
  const down = fit === "squash" ? height : side;
  const flat = values.flat();
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  for (let y = 0, to = 0; y < canvas.height; y++) {
    const v = (((y + 0.5) / canvas.height) * height - (height - down) / 2) / down;
    for (let x = 0; x < canvas.width; x++, to += 4) {
      const u = (((x + 0.5) / canvas.width) * width - (width - across) / 2) / across;
      if (u < 0 || u > 1 || v < 0 || v > 1) continue; // was not looked at
      const strength = Math.min(1, Math.max(0, between(flat, rows, columns, v * rows - 0.5, u * columns - 0.5)));
      const at = strength * (COLOURS.length - 1);
      const below = Math.min(Math.floor(at), COLOURS.length - 2);
      for (let colour = 0; colour < 3; colour++) {
        image.data[to + colour] = COLOURS[below][colour] * (1 - (at - below)) + COLOURS[below + 1][colour] * (at - below);
      }
      image.data[to + 3] = 255 * STRONGEST * (0.35 + 0.65 * strength);
    }
  }
  context.putImageData(image, 0, 0);
}

/** The value between those of the grid: cubic along rows and columns (Catmull-Rom), the edge continued. */
function between(values, rows, columns, row, column) {
  const top = Math.floor(row);
  const left = Math.floor(column);
  const along = cubic(column - left);
  const down = cubic(row - top);
  let sum = 0;
  for (let i = 0; i < 4; i++) {
    const line = columns * Math.min(rows - 1, Math.max(0, top - 1 + i));
    for (let j = 0; j < 4; j++) sum += down[i] * along[j] * values[line + Math.min(columns - 1, Math.max(0, left - 1 + j))];
  }
  return sum;
}

const cubic = (t) => [((2 - t) * t - 1) * t / 2, ((3 * t - 5) * t * t + 2) / 2, ((4 - 3 * t) * t + 1) * t / 2, ((t - 1) * t * t) / 2];
