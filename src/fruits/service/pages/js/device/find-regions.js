// The regions of a photo, on the device: recogniser/regions.py once more, step by step, on the outputs of recognizer.onnx.
//
// Loaded only when somebody asks for regions.

import { decide } from "./decide.js";

export const LONGEST = 672;
const MOST = 6;
const CANDIDATES = 10;
const PLACES = 14;
const EDGE = 0.1;
const SMOOTHING = [1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16];
const PEAK = 0.4;
const REACH = 0.6;
const MARGIN = 0.1;
const SAME_PLACE = 0.6;
const TAKEN = 0.3;
const TOUCHING = 0.02;
const NAMING = ["variety", "kind", "probable"];

export class Finder {
  #picture;
  #size;
  #model;
  #look;

  /**
   * @param {{width: number, height: number}} picture  The photo, LONGEST pixels along its longer side.
   * @param {{width: number, height: number}} size  Of the photo itself.
   * @param {object} model  As GET /v1/model gives it.
   * @param {(cuts: number[][]) => Promise<(object|null)[]>} look  The numbers of parts of the picture: left, top, right, bottom.
   */
  constructor(picture, size, model, look) {
    this.#picture = picture;
    this.#size = size;
    this.#model = model;
    this.#look = look;
  }

  /** The regions, each an answer with its box, as POST /v1/recognise gives them; null if no place tells anything. */
  async regions() {
    const { width, height } = this.#picture;
    const cuts = windows(width, height);
    const seen = await this.#look(cuts);
    if (!seen.some((one) => one?.evidence)) return null;
    const kindOf = this.#model.taxonomy.kind_of;
    const maps = seen.map((numbers) => numbers && byKind(numbers.evidence, kindOf));
    const grid = smoothed(joined(cuts, maps, width, height));
    const boxes = peaks(grid);
    const found = await this.#look(boxes.map((box) => this.#cut(box)));
    return settled(boxes.map((box, at) => found[at] && this.#said(box, found[at])).filter(Boolean));
  }

  /** The answer for one part. */
  async part(box) {
    const [numbers] = await this.#look([this.#cut(box)]);
    if (!numbers) throw new Error("no embedding");
    return this.#said(box, numbers);
  }

  #cut([left, top, right, bottom]) {
    const { width, height } = this.#picture;
    return [Math.floor(left * width), Math.floor(top * height), Math.ceil(right * width), Math.ceil(bottom * height)];
  }

  #said(box, numbers) {
    const [left, top, right, bottom] = box;
    const side = Math.floor(Math.min((right - left) * this.#size.width, (bottom - top) * this.#size.height));
    return { ...decide({ ...numbers, evidence: null }, this.#model, side), box };
  }
}

/** Overlapping squares of half the longer side; of a shorter side that is no longer than that, all of it. */
function windows(width, height) {
  const side = Math.floor(Math.max(width, height) / 2);
  const spans = (length) => {
    if (length <= side) return [[0, length]];
    const n = Math.ceil((2 * (length - side)) / side) + 1;
    return Array.from({ length: n }, (_, number) => Math.floor((number * (length - side)) / (n - 1))).map((start) => [start, start + side]);
  };
  return spans(height).flatMap(([top, bottom]) => spans(width).map(([left, right]) => [left, top, right, bottom]));
}

/** Logits of kinds at each place, of those of labels: {side, kinds, values}. */
function byKind(evidence, kindOf) {
  const c = kindOf.length;
  const kinds = Math.max(...kindOf) + 1;
  const places = evidence.length / c;
  const values = new Float64Array(places * kinds);
  for (let place = 0; place < places; place++) {
    const own = evidence.subarray(place * c, (place + 1) * c);
    const highest = own.reduce((most, logit) => Math.max(most, logit), -Infinity);
    const sums = new Float64Array(kinds);
    own.forEach((logit, label) => (sums[kindOf[label]] += Math.exp(logit - highest)));
    sums.forEach((sum, kind) => (values[place * kinds + kind] = Math.log(sum + 1e-12) + highest));
  }
  return { side: Math.round(Math.sqrt(places)), kinds, values };
}

/** One grid over the photo: the mean of the windows, each weighted by the distance to its edge. */
function joined(cuts, maps, width, height) {
  const place = Math.max(width, height) / PLACES;
  const rows = Math.max(1, roundEven(height / place));
  const columns = Math.max(1, roundEven(width / place));
  const { kinds } = maps.find(Boolean);
  const total = new Float64Array(rows * columns * kinds);
  const weight = new Float64Array(rows * columns);
  cuts.forEach(([left, top, right, bottom], number) => {
    const map = maps[number];
    if (!map) return;
    const longer = Math.max(right - left, bottom - top);
    for (let row = 0; row < rows; row++) {
      const y = ((row + 0.5) * height) / rows;
      if (y <= top || y >= bottom) continue;
      const [y0, y1, yRest] = neighbours(y, top, bottom, longer, map.side);
      for (let column = 0; column < columns; column++) {
        const x = ((column + 0.5) * width) / columns;
        if (x <= left || x >= right) continue;
        const [x0, x1, xRest] = neighbours(x, left, right, longer, map.side);
        const counts = EDGE + Math.min(inside(y, top, bottom), inside(x, left, right));
        const at = row * columns + column;
        weight[at] += counts;
        const value = (r, c, kind) => map.values[(r * map.side + c) * kinds + kind];
        for (let kind = 0; kind < kinds; kind++) {
          const before = value(y0, x0, kind) * (1 - yRest) + value(y1, x0, kind) * yRest;
          const after = value(y0, x1, kind) * (1 - yRest) + value(y1, x1, kind) * yRest;
          total[at * kinds + kind] += (before * (1 - xRest) + after * xRest) * counts;
        }
      }
    }
  });
  return { rows, columns, kinds, values: total.map((sum, at) => sum / Math.max(weight[Math.floor(at / kinds)], 1e-12)) };
}

/** Python's round: halves to the even neighbour. */
function roundEven(value) {
  const below = Math.floor(value);
  if (value - below !== 0.5) return Math.round(value);
  return below % 2 ? below + 1 : below;
}

function neighbours(at, start, end, longer, places) {
  const padding = (longer - (end - start)) / 2;
  const position = Math.min(places - 1, Math.max(0, ((at - start + padding) / longer) * places - 0.5));
  const before = Math.floor(position);
  return [before, Math.min(before + 1, places - 1), position - before];
}

const inside = (at, start, end) => 1 - Math.abs(((at - start) / (end - start)) * 2 - 1);

function smoothed({ rows, columns, kinds, values }) {
  const along = (from, length, index) => {
    const out = new Float64Array(from.length);
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++) {
        const to = (row * columns + column) * kinds;
        SMOOTHING.forEach((share, number) => {
          const at = index(row, column, (own) => Math.min(length - 1, Math.max(0, own + number - 2))) * kinds;
          for (let kind = 0; kind < kinds; kind++) out[to + kind] += from[at + kind] * share;
        });
      }
    }
    return out;
  };
  const down = along(values, rows, (row, column, near) => near(row) * columns + column);
  return { rows, columns, kinds, values: along(down, columns, (row, column, near) => row * columns + near(column)) };
}

/** Boxes around the peaks of the contributions, the highest first. */
function peaks({ rows, columns, kinds, values }) {
  const contribution = Float64Array.from(values);
  const best = new Int32Array(rows * columns);
  const highest = new Float64Array(rows * columns).fill(-Infinity);
  for (let place = 0; place < rows * columns; place++) {
    const own = contribution.subarray(place * kinds, (place + 1) * kinds);
    const mean = own.reduce((sum, value) => sum + value, 0) / kinds;
    own.forEach((value, kind) => {
      own[kind] = value - mean;
      if (own[kind] > highest[place]) [highest[place], best[place]] = [own[kind], kind];
    });
  }
  const most = highest.reduce((one, other) => Math.max(one, other), -Infinity);
  const isPeak = (place) => {
    const [row, column] = [Math.floor(place / columns), place % columns];
    for (let y = Math.max(0, row - 1); y <= Math.min(rows - 1, row + 1); y++) {
      for (let x = Math.max(0, column - 1); x <= Math.min(columns - 1, column + 1); x++) if (highest[y * columns + x] > highest[place]) return false;
    }
    return highest[place] >= PEAK * most && highest[place] > 0;
  };
  const found = Array.from(highest, (_, place) => place).filter(isPeak);
  const order = found.sort((a, b) => highest[b] - highest[a] || a - b).slice(0, CANDIDATES);
  const boxes = order.map((place) => {
    const [top, left, bottom, right] = extent((at) => contribution[at * kinds + best[place]] >= REACH * highest[place], place, rows, columns);
    return withMargin(left / columns, top / rows, right / columns, bottom / rows);
  });
  return [...new Map(boxes.map((box) => [box.join(), box])).values()];
}

/** Top, left, bottom, right of what is connected with a place, along rows and columns, and large enough. */
function extent(isLarge, place, rows, columns) {
  const seen = new Set([place]);
  const waiting = [place];
  const edges = [rows, columns, 0, 0];
  while (waiting.length) {
    const at = waiting.pop();
    const [row, column] = [Math.floor(at / columns), at % columns];
    edges.splice(0, 4, Math.min(edges[0], row), Math.min(edges[1], column), Math.max(edges[2], row + 1), Math.max(edges[3], column + 1));
    for (const [y, x] of [[row - 1, column], [row + 1, column], [row, column - 1], [row, column + 1]]) {
      const near = y * columns + x;
      if (y < 0 || y >= rows || x < 0 || x >= columns || seen.has(near) || !isLarge(near)) continue;
      seen.add(near);
      waiting.push(near);
    }
  }
  return edges;
}

function withMargin(left, top, right, bottom) {
  const across = MARGIN * (right - left);
  const down = MARGIN * (bottom - top);
  return [Math.max(0, left - across), Math.max(0, top - down), Math.min(1, right + across), Math.min(1, bottom + down)];
}

/** The regions that stay: of one kind and touching, they are one; of several within one place, the most probable. */
function settled(regions) {
  const byProbability = (a, b) => b.probability - a.probability || fromTopLeft(a, b);
  const named = [];
  for (const region of regions.filter(({ outcome }) => NAMING.includes(outcome)).sort(byProbability)) {
    let stays = true;
    for (const [at, other] of named.entries()) {
      if (region.kind === other.kind) {
        if (shared(wider(region.box), other.box) <= 0) continue;
        named[at] = { ...other, box: around(region.box, other.box) };
      } else if (shared(region.box, other.box) <= SAME_PLACE) continue;
      stays = false;
      break;
    }
    if (stays) named.push(region);
  }
  const unsure = [];
  for (const region of regions.filter(({ outcome }) => outcome === "unsure").sort(byProbability)) {
    if ([...named, ...unsure].every((other) => shared(region.box, other.box) < TAKEN)) unsure.push(region);
  }
  return [...named.slice(0, MOST).sort(fromTopLeft), ...unsure.sort(fromTopLeft)].slice(0, MOST);
}

const sum = (box) => box[0] + box[1] + box[2] + box[3];
const fromTopLeft = (a, b) => sum(a.box) - sum(b.box) || a.box[0] + a.box[2] - b.box[0] - b.box[2];
const wider = ([left, top, right, bottom]) => [left - TOUCHING, top - TOUCHING, right + TOUCHING, bottom + TOUCHING];
const around = (a, b) => [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[2], b[2]), Math.max(a[3], b[3])];

/** The intersection of two boxes as a share of the smaller one. */
function shared(a, b) {
  const width = Math.min(a[2], b[2]) - Math.max(a[0], b[0]);
  const height = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
  if (width <= 0 || height <= 0) return 0;
  const area = (box) => (box[2] - box[0]) * (box[3] - box[1]);
  return (width * height) / Math.min(area(a), area(b));
}
