// Is the colour profile that a JPEG brings sRGB? Then its pixels are what they seem, and jpeg.js may decode it.
//
// The server converts any other profile to sRGB (photos/decoding/colour.py), as a browser's canvas does; two arithmetics for that would be
// one too many. So such a photo takes the browser's own way, which differs from the server's by a few levels of 255.

const MARK = "ICC_PROFILE\0";
// Columns of sRGB under D50, and how far a writer's rounding may be from them and from the curve.
const COLUMNS = { rXYZ: [0.43607, 0.22249, 0.01392], gXYZ: [0.38515, 0.71688, 0.09708], bXYZ: [0.14307, 0.06061, 0.7141] };
const NEAR = 0.003;

/**
 * @param {Uint8Array} bytes  A whole JPEG file.
 * @returns {boolean}  Whether it has no profile, or one that says sRGB.
 */
export function countsAsSrgb(bytes) {
  const pieces = profilePieces(bytes);
  if (!pieces.length) return true;
  try {
    return isSrgb(joined(pieces));
  } catch (error) {
    if (error instanceof RangeError) return false; // it points beyond its end
    throw error;
  }
}

function profilePieces(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const pieces = [];
  for (let at = 2; at + 4 <= bytes.length && bytes[at] === 0xff && bytes[at + 1] !== 0xda; ) {
    if (bytes[at + 1] === 0xff) {
      at += 1;
      continue;
    }
    const end = at + 2 + view.getUint16(at + 2);
    const marked = bytes[at + 1] === 0xe2 && [...MARK].every((letter, k) => bytes[at + 4 + k] === letter.charCodeAt(0));
    if (marked) pieces.push({ number: bytes[at + 16], content: bytes.subarray(at + 18, end) });
    at = end;
  }
  return pieces.sort((one, other) => one.number - other.number).map((piece) => piece.content);
}

function joined(pieces) {
  const whole = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.length;
  }
  return new DataView(whole.buffer);
}

function isSrgb(view) {
  const text = (at) => String.fromCharCode(...[0, 1, 2, 3].map((k) => view.getUint8(at + k)));
  const fraction = (at) => view.getInt32(at) / 65536;
  const tags = {};
  const count = view.getUint32(128);
  for (let k = 0; k < Math.min(count, 100); k++) tags[text(132 + 12 * k)] = view.getUint32(136 + 12 * k);
  const space = text(16);
  if ("A2B0" in tags || !["RGB ", "GRAY"].includes(space)) return false;
  if (space === "GRAY") return "kTRC" in tags && isCurve(view, tags.kTRC, text, fraction);
  for (const [tag, column] of Object.entries(COLUMNS)) {
    const curve = tags[`${tag[0]}TRC`];
    if (!(tag in tags) || curve === undefined) return false;
    if (!column.every((value, k) => Math.abs(fraction(tags[tag] + 8 + 4 * k) - value) < NEAR)) return false;
    if (!isCurve(view, curve, text, fraction)) return false;
  }
  return true;
}

/** Whether a curve is that of sRGB, looked at in 33 places. */
function isCurve(view, at, text, fraction) {
  const given = curveAt(view, at, text, fraction);
  if (!given) return false;
  for (let k = 0; k <= 32; k++) {
    const x = k / 32;
    const wanted = x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4;
    if (!(Math.abs(given(x) - wanted) < NEAR)) return false;
  }
  return true;
}

/** Return a curve as a function, null where it is of a kind that sRGB is not written in. */
function curveAt(view, at, text, fraction) {
  if (text(at) === "para" && view.getUint16(at + 8) >= 3) {
    const [g, a, b, c, d] = [0, 1, 2, 3, 4].map((k) => fraction(at + 12 + 4 * k));
    return (x) => (x >= d ? (a * x + b) ** g : c * x);
  }
  const n = text(at) === "curv" ? view.getUint32(at + 8) : 0;
  if (n < 2) return null; // a bare gamma
  return (x) => {
    const place = x * (n - 1);
    const below = Math.min(n - 2, Math.floor(place));
    const [one, other] = [below, below + 1].map((k) => view.getUint16(at + 12 + 2 * k) / 65535);
    return one + (other - one) * (place - below);
  };
}
