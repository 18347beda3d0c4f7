// RGB pixels of a photo to the square that the network takes in, bit for bit as photos/decoding/images.py scales them.
//
// The resampling is Pillow's: antialiased, along rows and then along columns, each rounded to 8 bits, weights of 22 bits. A browser's
// own scaling (drawImage) has another kernel: one answer in twenty changes with it. Pillow 13 takes the columns first where that
// leaves it less to do; the service looks which way its own goes, and says so.

const BITS = 22;
const DRAFT_MARGIN = 2; // images.py, _DRAFT_MARGIN

const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));
const KERNELS = {
  bilinear: { reach: 1, at: (x) => Math.max(0, 1 - Math.abs(x)) },
  bicubic: {
    reach: 2,
    at: (value) => {
      const x = Math.abs(value);
      const a = -0.5;
      if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
      return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
    },
  },
  lanczos: { reach: 3, at: (x) => (Math.abs(x) < 3 ? sinc(x) * sinc(x / 3) : 0) },
};

/** Python's round: halves to the even neighbour. */
export function roundEven(value) {
  const below = Math.floor(value);
  const rest = value - below;
  if (rest !== 0.5) return rest < 0.5 ? below : below + 1;
  return below % 2 ? below + 1 : below;
}

/** The size at which the photo stands in the square. */
function scaledSize(width, height, { size, fit }) {
  if (fit === "squash") return [size, size];
  const side = fit === "pad" ? Math.max(width, height) : Math.min(width, height);
  return [Math.max(1, roundEven((width * size) / side)), Math.max(1, roundEven((height * size) / side))];
}

/**
 * Scale a large photo down by means of 2, 4 or 8 pixels each way: what the server's decoder gives, but for rounding.
 *
 * @param {{width: number, height: number, rgb: Uint8Array}} photo
 * @param {{size: number, fit: string}} preprocessing
 */
export function reduced(photo, preprocessing) {
  const { width, height, rgb } = photo;
  const needed = scaledSize(width, height, preprocessing).map((side) => DRAFT_MARGIN * side);
  const most = Math.min(Math.floor(width / needed[0]), Math.floor(height / needed[1]));
  const by = [8, 4, 2].find((scale) => most >= scale);
  if (!by) return photo;
  const small = { width: Math.ceil(width / by), height: Math.ceil(height / by) };
  const sums = new Uint16Array(3 * small.width * small.height);
  const counts = new Uint8Array(small.width * small.height);
  for (let y = 0, from = 0; y < height; y++) {
    for (let x = 0; x < width; x++, from += 3) {
      const place = Math.floor(y / by) * small.width + Math.floor(x / by);
      counts[place] += 1;
      for (let colour = 0; colour < 3; colour++) sums[3 * place + colour] += rgb[from + colour];
    }
  }
  return { ...small, rgb: Uint8Array.from(sums, (sum, at) => Math.round(sum / counts[Math.floor(at / 3)])) };
}

/**
 * Fit a decoded photo into the network's square.
 *
 * @param {{width: number, height: number, rgb: Uint8Array}} photo  Upright.
 * @param {{size: number, fit: "pad"|"crop"|"squash", kernel: "bilinear"|"bicubic"|"lanczos"}} preprocessing
 * @param {boolean} columnsFirst  Whether the server's Pillow takes the columns of tall photos first.
 * @returns {Uint8Array}  RGB, size x size.
 */
export function intoSquare({ width, height, rgb }, preprocessing, columnsFirst) {
  const { size, fit } = preprocessing;
  const kernel = { ...KERNELS[preprocessing.kernel], columnsFirst };
  if (width === size && height === size) return rgb;
  if (fit === "squash") return resized(rgb, width, height, size, size, kernel);
  if (fit === "crop") {
    const side = Math.min(width, height);
    const box = [(width - side) / 2, (height - side) / 2, side, side];
    return resized(rgb, width, height, size, size, kernel, box);
  }
  const [across, down] = scaledSize(width, height, preprocessing);
  const scaled = width === across && height === down ? rgb : resized(rgb, width, height, across, down, kernel);
  if (across === size && down === size) return scaled;
  const square = new Uint8Array(3 * size * size).fill(255);
  const left = Math.floor((size - across) / 2);
  const top = Math.floor((size - down) / 2);
  for (let y = 0; y < down; y++) {
    square.set(scaled.subarray(3 * y * across, 3 * (y + 1) * across), 3 * ((top + y) * size + left));
  }
  return square;
}

/**
 * The whole photo at the size at which parts are cut out of it: recogniser/regions.py, without_padding.
 *
 * @param {{width: number, height: number, rgb: Uint8Array}} photo
 * @param {number} longest  Of its sides, then.
 */
export function working(photo, longest, { kernel }, columnsFirst) {
  const preprocessing = { size: longest, fit: "pad", kernel };
  const square = intoSquare(reduced(photo, preprocessing), preprocessing, columnsFirst);
  const [width, height] = scaledSize(photo.width, photo.height, preprocessing);
  const left = Math.floor((longest - width) / 2);
  const top = Math.floor((longest - height) / 2);
  return part({ width: longest, height: longest, rgb: square }, [left, top, left + width, top + height]);
}

/** A part of a picture, as the network takes it in: whole, padded with white. `cut`: left, top, right, bottom in pixels. */
export const cutOut = (picture, cut, { size, kernel }, columnsFirst) => intoSquare(part(picture, cut), { size, fit: "pad", kernel }, columnsFirst);

function part({ width, rgb }, [left, top, right, bottom]) {
  const out = new Uint8Array(3 * (right - left) * (bottom - top));
  for (let y = top, to = 0; y < bottom; y++, to += 3 * (right - left)) out.set(rgb.subarray(3 * (y * width + left), 3 * (y * width + right)), to);
  return { width: right - left, height: bottom - top, rgb: out };
}

function resized(rgb, width, height, newWidth, newHeight, kernel, box = [0, 0, width, height]) {
  const [left, top, boxWidth, boxHeight] = box;
  const rows = (from, lines) =>
    newWidth === width && !left && boxWidth === width
      ? from
      : alongRows(from, width, lines, newWidth, weights(width, left, boxWidth, newWidth, kernel));
  const columns = (from, across) =>
    newHeight === height && !top && boxHeight === height
      ? from
      : alongColumns(from, across, newHeight, weights(height, top, boxHeight, newHeight, kernel));
  const tall = height - newHeight > 2 * Math.max(0, width - newWidth);
  return kernel.columnsFirst && tall ? rows(columns(rgb, width), newHeight) : columns(rows(rgb, height), newWidth);
}

/** Return for each new pixel where its sources begin, and their whole-number weights. */
function weights(length, start, span, newLength, { reach, at }) {
  const scale = span / newLength;
  const stretch = Math.max(scale, 1);
  const support = reach * stretch;
  return Array.from({ length: newLength }, (_, x) => {
    const centre = start + (x + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const end = Math.min(length, Math.trunc(centre + support + 0.5));
    const given = new Float64Array(end - first);
    let sum = 0;
    for (let k = 0; k < given.length; k++) sum += given[k] = at((k + first - centre + 0.5) * (1 / stretch));
    const whole = Int32Array.from(given, (value) => {
      const share = (sum ? value / sum : value) * (1 << BITS);
      return Math.trunc(share < 0 ? share - 0.5 : share + 0.5);
    });
    return { first, whole };
  });
}

const HALF = 1 << (BITS - 1);
const clipped = (sum) => Math.min(255, Math.max(0, sum >> BITS));

function alongRows(rgb, width, height, newWidth, perPixel) {
  const out = new Uint8Array(3 * newWidth * height);
  for (let y = 0, to = 0; y < height; y++) {
    for (let x = 0; x < newWidth; x++, to += 3) {
      const { first, whole } = perPixel[x];
      let [red, green, blue] = [HALF, HALF, HALF];
      for (let k = 0, at = 3 * (y * width + first); k < whole.length; k++, at += 3) {
        red += rgb[at] * whole[k];
        green += rgb[at + 1] * whole[k];
        blue += rgb[at + 2] * whole[k];
      }
      out[to] = clipped(red);
      out[to + 1] = clipped(green);
      out[to + 2] = clipped(blue);
    }
  }
  return out;
}

function alongColumns(rgb, width, newHeight, perPixel) {
  const line = 3 * width;
  const out = new Uint8Array(line * newHeight);
  for (let y = 0, to = 0; y < newHeight; y++) {
    const { first, whole } = perPixel[y];
    for (let x = 0; x < line; x++, to++) {
      let sum = HALF;
      for (let k = 0, at = first * line + x; k < whole.length; k++, at += line) sum += rgb[at] * whole[k];
      out[to] = clipped(sum);
    }
  }
  return out;
}
