// A photo's JPEG to RGB pixels, exactly as the server's decoder (libjpeg, by Pillow) gives them, also at reduced scale.
//
// A browser has a decoder, but not always the same one: another rounding, a colour profile, noise against fingerprinting. A
// quantised network turns a difference of 1 in a pixel into one of the answer's second digit. What arrives here was made by
// this page itself, so baseline JPEG with 8 bits is enough; anything else is refused and the caller decides.
//
// Sums are those of the "slow integer" transform: each step is linear with constants of 13 bits, so a matrix of whole numbers and
// one rounding give the same bits as any clever order of the same additions. Reduced scales are means of neighbouring outputs.
// ITU-T T.81 for the format; Loeffler, Ligtenberg and Moschytz (1989) for the transform.

import { countsAsSrgb } from "./profile.js";

export class NotDecoded extends Error {}

const ZIGZAG = [];
for (let sum = 0; sum < 15; sum++) {
  for (let k = 0; k <= sum; k++) {
    const row = sum % 2 ? k : sum - k;
    const column = sum - row;
    if (row < 8 && column < 8) ZIGZAG.push(8 * row + column);
  }
}

/**
 * Decode at 1, 1/2, 1/4 or 1/8 of the size.
 *
 * @param {Uint8Array} bytes  A whole baseline JPEG file, grey or YCbCr.
 * @param {(width: number, height: number) => number} chooseScale  Given the size, says by what to divide: 1, 2, 4 or 8.
 * @returns {{width: number, height: number, fullWidth: number, fullHeight: number, rgb: Uint8Array}}
 */
export function decodeJpeg(bytes, chooseScale = () => 1) {
  const frame = readFile(bytes);
  if (!countsAsSrgb(bytes)) throw new NotDecoded("a colour profile");
  const divided = chooseScale(frame.width, frame.height);
  const own = 8 / divided; // pixels that remain of a block's eight
  const width = Math.ceil(frame.width / divided);
  const height = Math.ceil(frame.height / divided);
  const planes = frame.parts.map((part) => transformed(part, frame, own));
  const full = planes.map((plane) => enlarged(plane, frame, divided, width, height));
  return { width, height, fullWidth: frame.width, fullHeight: frame.height, rgb: toRgb(full, width, height) };
}

/** Read markers and coefficients: what the file holds before any arithmetic on it. */
function readFile(bytes) {
  if (bytes[0] !== 0xff || bytes[1] !== 0xd8) throw new NotDecoded("no JPEG");
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const quantisers = [];
  const codes = { 0: [], 1: [] };
  let frame = null;
  let restart = 0;
  let at = 2;
  while (at + 4 <= bytes.length) {
    if (bytes[at] !== 0xff) throw new NotDecoded("no marker");
    const marker = bytes[at + 1];
    if (marker === 0xff) {
      at += 1;
      continue;
    }
    const end = at + 2 + view.getUint16(at + 2);
    if (end > bytes.length) throw new NotDecoded("cut short");
    let p = at + 4;
    if (marker === 0xdb) {
      while (p < end) {
        const head = bytes[p++];
        const table = new Int32Array(64);
        for (let k = 0; k < 64; k++) {
          table[ZIGZAG[k]] = head >> 4 ? view.getUint16(p) : bytes[p];
          p += head >> 4 ? 2 : 1;
        }
        quantisers[head & 15] = table;
      }
    } else if (marker === 0xc4) {
      while (p < end) {
        const head = bytes[p++];
        const counts = bytes.subarray(p, p + 16);
        const n = counts.reduce((sum, count) => sum + count, 0);
        codes[(head >> 4) & 1][head & 15] = huffman(counts, bytes.subarray(p + 16, p + 16 + n));
        p += 16 + n;
      }
    } else if (marker === 0xc0 || marker === 0xc1) {
      frame = readFrame(bytes, view, p);
    } else if (marker >= 0xc2 && marker <= 0xcf && marker !== 0xc8 && marker !== 0xcc) {
      throw new NotDecoded("not baseline");
    } else if (marker === 0xdd) {
      restart = view.getUint16(p);
    } else if (marker === 0xda) {
      if (!frame || bytes[p] !== frame.parts.length) throw new NotDecoded("more than one scan");
      for (let k = 0; k < frame.parts.length; k++) {
        const part = frame.parts.find((one) => one.id === bytes[p + 1 + 2 * k]);
        if (!part) throw new NotDecoded("unknown component");
        part.dc = codes[0][bytes[p + 2 + 2 * k] >> 4];
        part.ac = codes[1][bytes[p + 2 + 2 * k] & 15];
        part.quantiser = quantisers[part.table];
        if (!part.dc || !part.ac || !part.quantiser) throw new NotDecoded("a table is missing");
      }
      readScan(bytes, end, frame, restart);
      return frame;
    }
    at = end;
  }
  throw new NotDecoded("no picture");
}

function readFrame(bytes, view, p) {
  const height = view.getUint16(p + 1);
  const width = view.getUint16(p + 3);
  const n = bytes[p + 5];
  if (bytes[p] !== 8 || !width || !height || (n !== 1 && n !== 3)) throw new NotDecoded("another kind of JPEG");
  const parts = [];
  for (let k = 0; k < n; k++) {
    const [id, sampling, table] = bytes.subarray(p + 6 + 3 * k);
    parts.push({ id, h: n === 1 ? 1 : sampling >> 4, v: n === 1 ? 1 : sampling & 15, table });
  }
  const h = Math.max(...parts.map((part) => part.h));
  const v = Math.max(...parts.map((part) => part.v));
  for (const part of parts) {
    if (![1, 2].includes(part.h) || ![1, 2].includes(part.v)) throw new NotDecoded("unusual sampling");
  }
  const across = Math.ceil(width / (8 * h));
  const down = Math.ceil(height / (8 * v));
  for (const part of parts) {
    part.blocksAcross = across * part.h;
    part.coefficients = new Int16Array(64 * part.blocksAcross * down * part.v);
    part.width = Math.ceil((width * part.h) / h);
    part.height = Math.ceil((height * part.v) / v);
  }
  return { width, height, h, v, across, down, parts };
}

/** Return a table from the next 16 bits to (length of the code, symbol), as length * 256 + symbol; 0 where no code begins so. */
function huffman(counts, symbols) {
  const table = new Uint16Array(1 << 16);
  let at = 0;
  let k = 0;
  for (let length = 1; length <= 16; length++) {
    for (let n = counts[length - 1]; n > 0; n--) {
      const next = at + (1 << (16 - length));
      table.fill((length << 8) | symbols[k++], at, next);
      at = next;
    }
  }
  return table;
}

function readScan(bytes, start, frame, restart) {
  let at = start;
  let held = 0; // bits not yet used, the lowest `count` of it
  let count = 0;
  const fill = () => {
    while (count <= 16) {
      let byte = at < bytes.length ? bytes[at] : 0;
      if (byte === 0xff) {
        if (bytes[at + 1] === 0) at += 2;
        else byte = 0; // a marker: the picture is over, zeros are as good as anything
      } else at += 1;
      held = ((held << 8) | byte) & 0xffffff;
      count += 8;
    }
  };
  const symbol = (table) => {
    fill();
    const found = table[(held >> (count - 16)) & 0xffff];
    if (!found) throw new NotDecoded("no such code");
    count -= found >> 8;
    return found & 0xff;
  };
  const value = (size) => {
    if (!size) return 0;
    fill();
    count -= size;
    const bits = (held >> count) & ((1 << size) - 1);
    return bits < 1 << (size - 1) ? bits - (1 << size) + 1 : bits;
  };
  const last = frame.parts.map(() => 0);
  const block = (part, k, offset) => {
    const into = part.coefficients;
    last[k] += value(symbol(part.dc));
    into[offset] = last[k];
    for (let i = 1; i < 64; i++) {
      const code = symbol(part.ac);
      if (!(code & 15)) {
        if (code >> 4 !== 15) break;
        i += 15;
        continue;
      }
      i += code >> 4;
      if (i > 63) throw new NotDecoded("too many coefficients");
      into[offset + ZIGZAG[i]] = value(code & 15);
    }
  };
  const single = frame.parts.length === 1;
  const across = single ? Math.ceil(frame.parts[0].width / 8) : frame.across;
  const down = single ? Math.ceil(frame.parts[0].height / 8) : frame.down;
  for (let unit = 0; unit < across * down; unit++) {
    if (restart && unit && unit % restart === 0) {
      held = count = 0;
      while (at + 1 < bytes.length && !(bytes[at] === 0xff && bytes[at + 1] >= 0xd0 && bytes[at + 1] <= 0xd7)) at += 1;
      at += 2;
      last.fill(0);
    }
    const x = unit % across;
    const y = (unit - x) / across;
    frame.parts.forEach((part, k) => {
      for (let v = 0; v < part.v; v++) {
        for (let h = 0; h < part.h; h++) {
          block(part, k, 64 * ((y * part.v + v) * part.blocksAcross + x * part.h + h));
        }
      }
    });
  }
}

// The constants of the transform, times 2^13, rounded.
const fixed = (value) => Math.round(value * 8192);
const MATRICES = { 8: wholeMatrix(), 4: halfMatrix(), 2: quarterMatrix(), 1: null };

/** Coefficient j -> what it adds to output k, 8 x 8. */
function wholeMatrix() {
  const even = [0, 2, 4, 6].map((j) => {
    const [c0, c2, c4, c6] = [0, 2, 4, 6].map((one) => Number(one === j));
    const shared = (c2 + c6) * fixed(0.541196100);
    const low = shared - c6 * fixed(1.847759065);
    const high = shared + c2 * fixed(0.765366865);
    const sum = (c0 + c4) * 8192;
    const difference = (c0 - c4) * 8192;
    return [sum + high, difference + low, difference - low, sum - high];
  });
  const odd = [1, 3, 5, 7].map((j) => {
    const [c1, c3, c5, c7] = [1, 3, 5, 7].map((one) => Number(one === j));
    const all = (c7 + c3 + c5 + c1) * fixed(1.175875602);
    const z1 = -(c7 + c1) * fixed(0.899976223);
    const z2 = -(c5 + c3) * fixed(2.562915447);
    const z3 = all - (c7 + c3) * fixed(1.961570560);
    const z4 = all - (c5 + c1) * fixed(0.390180644);
    return [
      c1 * fixed(1.501321110) + z1 + z4,
      c3 * fixed(3.072711026) + z2 + z3,
      c5 * fixed(2.053119869) + z2 + z4,
      c7 * fixed(0.298631336) + z1 + z3,
    ];
  });
  return Array.from({ length: 8 }, (_, j) => {
    const half = (j % 2 ? odd : even)[j >> 1];
    return [...half, ...half.map((value) => (j % 2 ? -value : value)).reverse()];
  });
}

/** The same for means of two neighbours, 8 x 4; coefficient 4 cancels out. */
function halfMatrix() {
  const odd = {
    7: [fixed(-0.211164243), fixed(-0.509795579)],
    5: [fixed(1.451774981), fixed(-0.601344887)],
    3: [fixed(-2.172734803), fixed(0.899976223)],
    1: [fixed(1.061594337), fixed(2.562915447)],
  };
  const even = { 0: [16384, 16384], 2: [fixed(1.847759065), -fixed(1.847759065)], 4: [0, 0], 6: [-fixed(0.765366865), fixed(0.765366865)] };
  return Array.from({ length: 8 }, (_, j) => {
    if (j % 2 === 0) return j === 0 ? [16384, 16384, 16384, 16384] : [even[j][0], even[j][1], even[j][1], even[j][0]];
    const [inner, outer] = odd[j];
    return [outer, inner, -inner, -outer];
  });
}

/** The same for means of four neighbours, 8 x 2: only the first coefficient and the odd ones count. */
function quarterMatrix() {
  const odd = { 7: fixed(-0.720959822), 5: fixed(0.850430095), 3: fixed(-1.272758580), 1: fixed(3.624509785) };
  return Array.from({ length: 8 }, (_, j) => (j === 0 ? [32768, 32768] : j in odd ? [odd[j], -odd[j]] : [0, 0]));
}

/** Pixels of a block's eight that a component keeps: one with fewer samples is reduced less, or not at all. */
function keeps(part, frame, own) {
  let kept = own;
  while (kept < 8 && (frame.h * own) % (part.h * kept * 2) === 0 && (frame.v * own) % (part.v * kept * 2) === 0) kept *= 2;
  return kept;
}

/** Return a component's samples, at the size that is left of it. */
function transformed(part, frame, own) {
  const size = keeps(part, frame, own);
  const stride = part.blocksAcross * size;
  const blocks = part.coefficients.length / 64;
  const samples = new Uint8Array(blocks * size * size);
  const matrix = MATRICES[size];
  const flat = matrix && new Int32Array(matrix.flat());
  const more = { 8: 0, 4: 1, 2: 2, 1: 0 }[size];
  const columns = new Int32Array(8 * size);
  const { quantiser, coefficients } = part;
  const used = size === 2 ? [0, 1, 3, 5, 7] : size === 4 ? [0, 1, 2, 3, 5, 6, 7] : [0, 1, 2, 3, 4, 5, 6, 7];
  const roundColumn = 1 << (10 + more);
  const shiftColumn = 11 + more;
  const roundRow = 1 << (17 + more);
  const shiftRow = 18 + more;
  for (let b = 0; b < blocks; b++) {
    const from = 64 * b;
    const left = (b % part.blocksAcross) * size;
    let to = Math.floor(b / part.blocksAcross) * size * stride + left;
    if (size === 1) {
      samples[to] = clamped((((coefficients[from] * quantiser[0] + 4) >> 3)) + 128);
      continue;
    }
    for (const x of used) {
      for (let y = 0; y < size; y++) {
        let sum = roundColumn;
        for (const j of used) sum += coefficients[from + 8 * j + x] * quantiser[8 * j + x] * flat[j * size + y];
        columns[8 * y + x] = sum >> shiftColumn;
      }
    }
    for (let y = 0; y < size; y++, to += stride) {
      for (let x = 0; x < size; x++) {
        let sum = roundRow;
        for (const j of used) sum += columns[8 * y + j] * flat[j * size + x];
        samples[to + x] = clamped((sum >> shiftRow) + 128);
      }
    }
  }
  return { samples, stride, size, h: part.h, v: part.v, width: part.width, height: part.height };
}

const clamped = (value) => (value < 0 ? 0 : value > 255 ? 255 : value);

/** Return a component at the size of the picture: repeated where it is coarser, smoothed where libjpeg smooths. */
function enlarged(plane, frame, divided, width, height) {
  const own = 8 / divided;
  const across = (frame.h * own) / (plane.h * plane.size);
  const down = (frame.v * own) / (plane.v * plane.size);
  if (across === 1 && down === 1) return plane;
  const columns = Math.ceil((frame.width * plane.h * plane.size) / (frame.h * 8));
  const rows = Math.ceil((frame.height * plane.v * plane.size) / (frame.v * 8));
  const out = new Uint8Array(width * height);
  const smooth = own > 1;
  const line = new Int32Array(columns);
  for (let y = 0; y < height; y++) {
    const row = down === 1 ? y : y >> 1;
    const mixed = down === 2 && smooth && (across === 1 || columns > 2);
    const other = Math.min(rows - 1, Math.max(0, row + (y % 2 ? 1 : -1)));
    for (let x = 0; x < columns; x++) {
      const here = plane.samples[row * plane.stride + x];
      line[x] = mixed ? 3 * here + plane.samples[other * plane.stride + x] : here;
    }
    const to = y * width;
    if (across === 1) {
      for (let x = 0; x < width; x++) out[to + x] = mixed ? (line[x] + (y % 2 ? 2 : 1)) >> 2 : line[x];
    } else if (!smooth || columns <= 2) {
      for (let x = 0; x < width; x++) out[to + x] = line[x >> 1];
    } else {
      // A quarter of the neighbour on that side; rounded up on one side and down on the other, so that nothing drifts.
      for (let x = 0; x < width; x++) {
        const at = x >> 1;
        const next = x % 2 ? at + 1 : at - 1;
        const edge = next < 0 || next >= columns;
        const sum = 3 * line[at] + (edge ? line[at] : line[next]);
        out[to + x] = mixed ? (sum + (x % 2 ? 7 : 8)) >> 4 : edge ? line[at] : (sum + (x % 2 ? 2 : 1)) >> 2;
      }
    }
  }
  return { samples: out, stride: width };
}

function toRgb(planes, width, height) {
  const rgb = new Uint8Array(3 * width * height);
  const [luma, blue, red] = planes;
  for (let y = 0, to = 0; y < height; y++) {
    for (let x = 0; x < width; x++, to += 3) {
      const grey = luma.samples[y * luma.stride + x];
      if (!blue) {
        rgb[to] = rgb[to + 1] = rgb[to + 2] = grey;
        continue;
      }
      const cb = blue.samples[y * blue.stride + x] - 128;
      const cr = red.samples[y * red.stride + x] - 128;
      // 1.402, 0.34414, 0.71414 and 1.772, times 2^16.
      rgb[to] = clamped(grey + ((91881 * cr + 32768) >> 16));
      rgb[to + 1] = clamped(grey + ((-22554 * cb - 46802 * cr + 32768) >> 16));
      rgb[to + 2] = clamped(grey + ((116130 * cb + 32768) >> 16));
    }
  }
  return rgb;
}
