// From the numbers of recognizer.onnx to what a person is told: recogniser/answers.py, recogniser/gallery.py and photos/decoding/quality.py, once more for the browser.
//
// Gives an answer of the same shape as POST /v1/recognise, so that the page shows both in the same way.

const BEST = 3;
const SIMILAR_PHOTOS = 6;
const LINE = "line_";

/**
 * Decide what is said of one photo.
 *
 * @param {{probabilities: Float32Array, evidence: Float32Array|null, ood_score: number, brightness: number, sharpness: number}} numbers
 * @param {{taxonomy: object, certainty: object}} model  As GET /v1/model gives them.
 * @param {number} shortSide  Of the photo, in pixels.
 */
export function decide(numbers, { taxonomy, certainty }, shortSide) {
  const { probabilities, ood_score } = numbers;
  const byKind = sums(probabilities, taxonomy.kind_of, taxonomy.kinds.length);
  const byVariety = sums(probabilities, taxonomy.variety_of, taxonomy.varieties.length);
  const kinds = best(byKind, BEST);
  const [variety] = best(byVariety, 1);
  let outcome = "unsure";
  if (byKind[kinds[0]] >= (certainty.probable ?? certainty.kind)) outcome = "probable";
  if (byKind[kinds[0]] >= certainty.kind) outcome = "kind";
  if (variety !== undefined && byVariety[variety] >= certainty.variety) outcome = "variety";
  // Also where it is no number. Bundles before format 6 call the limit `strange`.
  if (!(ood_score <= (certainty.ood_limit ?? certainty.strange ?? Infinity))) outcome = "unknown";

  let named = null;
  let kind = null;
  let probability = byKind[kinds[0]];
  if (outcome === "variety") {
    named = taxonomy.varieties[variety];
    kind = taxonomy.kind_of[taxonomy.variety_of.indexOf(variety)];
    probability = byVariety[variety];
  } else if (outcome === "kind" || outcome === "probable") {
    kind = kinds[0];
    named = taxonomy.kinds[kind];
  }
  const certain = outcome === "variety" || outcome === "kind";
  return {
    outcome,
    kind: kind === null ? null : taxonomy.kind_ids[kind],
    variety: outcome === "variety" ? taxonomy.variety_ids[variety] : null,
    name: named && namesOf(named),
    line: named?.line_en ? linesOf(named) : null,
    probability,
    kinds: kinds.map((number) => ({
      kind: taxonomy.kind_ids[number],
      ...namesOf(taxonomy.kinds[number]),
      probability: byKind[number],
    })),
    labels: best(probabilities, BEST).map((number) => ({
      label: taxonomy.labels[number],
      ...nameOfLabel(taxonomy, number),
      probability: probabilities[number],
    })),
    ood_score,
    advice: certain ? [] : adviceOn(numbers, certainty.limits, shortSide).map((code) => ({ code })),
    similar: [],
    map: numbers.evidence ? mapOf(numbers, taxonomy.kind_of, kinds[0]) : null,
  };
}

/**
 * Where on the photo the evidence for a kind is: recogniser/explain.py's contribution, its positive part from 0 to 1.
 *
 * @param {{evidence: Float32Array, probabilities: Float32Array}} numbers  The evidence: logits of each place, row by row.
 */
function mapOf({ evidence, probabilities }, kindOf, kind) {
  const c = probabilities.length;
  const places = evidence.length / c;
  const side = Math.round(Math.sqrt(places));
  if (side * side !== places) return null; // the network's input is a square, and so is its map
  const of = kindOf.map((one) => one === kind);
  const total = probabilities.reduce((sum, p, label) => sum + (of[label] ? p : 0), 0);
  const values = Array.from({ length: places }, (_, place) => {
    const own = evidence.subarray(place * c, (place + 1) * c);
    const mean = own.reduce((sum, logit) => sum + logit, 0) / c;
    return Math.max(0, own.reduce((sum, logit, label) => (of[label] ? sum + ((logit - mean) * probabilities[label]) / total : sum), 0));
  });
  const most = Math.max(...values, 1e-6);
  return { rows: side, columns: side, values: values.map((value) => value / most) };
}

function nameOfLabel(taxonomy, label) {
  const variety = taxonomy.variety_of[label];
  return namesOf(variety >= 0 ? taxonomy.varieties[variety] : taxonomy.kinds[taxonomy.kind_of[label]]);
}

/** What the taxonomy says of a kind or a variety: names under the language, lines under line_ and the language. */
const namesOf = (told) => Object.fromEntries(Object.entries(told).filter(([key]) => !key.startsWith(LINE)));
const linesOf = (told) =>
  Object.fromEntries(Object.entries(told).filter(([key, line]) => key.startsWith(LINE) && line).map(([key, line]) => [key.slice(LINE.length), line]));

/**
 * The training photos that look most like this one: recogniser/gallery.py's nearest, by the cosine of features.
 *
 * @param {Float32Array} features  Of the photo, k numbers.
 * @param {{labels: Int32Array, features: Float32Array, identity: string}} gallery
 */
export function nearest(features, gallery, { taxonomy }) {
  const k = features.length;
  const own = Math.max(Math.hypot(...features), 1e-12);
  const cosines = Array.from(gallery.labels, (label, row) => {
    if (label < 0) return -Infinity; // a visitor's photo, which the service alone may show
    let product = 0;
    let square = 0;
    for (let at = row * k, j = 0; j < k; j++, at++) {
      product += gallery.features[at] * features[j];
      square += gallery.features[at] ** 2;
    }
    return product / own / Math.max(Math.sqrt(square), 1e-12);
  });
  const shown = best(cosines, SIMILAR_PHOTOS).filter((row) => gallery.labels[row] >= 0);
  return shown.map((row) => ({
    label: taxonomy.labels[gallery.labels[row]],
    ...nameOfLabel(taxonomy, gallery.labels[row]),
    thumbnail: `/v1/gallery/${gallery.identity}/${row}.jpg`,
    similarity: cosines[row],
  }));
}

/** What is wrong with the photo, the plainest first. */
function adviceOn({ brightness, sharpness }, limits, shortSide) {
  const found = [];
  if (shortSide < limits.small) found.push("small");
  if (brightness < limits.dark) found.push("dark");
  // A black or a white page has no edges at all; that is not the lens.
  if (sharpness > 0 && sharpness < limits.blurred && !found.includes("dark")) found.push("blurred");
  return found;
}

function sums(probabilities, memberOf, count) {
  const out = new Array(count).fill(0);
  memberOf.forEach((group, label) => {
    if (group >= 0) out[group] += probabilities[label];
  });
  // The server adds in float32, and a probability of 0.9000000000001 is not beyond a limit of 0.9000001.
  return out.map(Math.fround);
}

/** Positions of the largest values, best first; of equals the lower one first. */
function best(values, count) {
  return Array.from(values, (_, number) => number)
    .sort((a, b) => values[b] - values[a] || a - b)
    .slice(0, count);
}
