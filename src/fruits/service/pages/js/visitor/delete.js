// The page behind a delete link: /delete#id.secret. What stands after # is never sent with an address, so no log holds it.

import { Refused, deleteSubmission, knownLabels, storedOf } from "../api.js";
import { element } from "../elements.js";
import { Names } from "../names.js";
import { has, language, percent, say, localise, text } from "../localisation.js";
import { at } from "../place.js";

const NAMED = new Set(["kind", "variety", "label", "said_label", "reviewed_label"]);

localise();
const button = document.getElementById("delete");
const status = document.getElementById("status");
const [, id, secret] = /^#([\w-]{22})\.([\w-]{20,100})$/.exec(location.hash) ?? [];

let kept = false;
let names = null;

if (!id) {
  button.hidden = true;
  say(status, "delete_broken");
} else {
  show().catch((error) => {
    if (error instanceof Refused && error.status === 404) button.hidden = true;
    say(status, error.status === 404 ? "delete_unknown" : (error.said ?? (error.code === "offline" ? "offline_notice" : "went_wrong")));
  });
}

/** Show all that is stored under the link. */
async function show() {
  const { found, photo } = await storedOf(id, secret);
  kept = found.has_photo;
  const known = kept ? await knownLabels().catch(() => null) : null; // without it, labels are said as they are stored
  names = new Names(known ?? { labels: [], kinds: [] });
  if (found.decision === "refused") found.split = null; // then it is used for nothing
  const list = element("dl.told");
  for (const [name, value] of Object.entries(found)) {
    if (value === null || value.length === 0 || !has(`stored_${name}`)) continue;
    list.append(say(element("dt"), `stored_${name}`), say(element("dd"), () => written(name, value)));
  }
  const picture = photo ? element("img.kept", { src: URL.createObjectURL(photo) }) : null;
  if (picture) say(picture, "your_photo", undefined, "alt");
  document.getElementById("stored").replaceChildren(...[picture, list].filter(Boolean));
}

function written(name, value) {
  if (name === "created" || name === "deleted_by") return new Intl.DateTimeFormat(language(), { dateStyle: "long", timeStyle: "short" }).format(new Date(value));
  if (typeof value === "boolean") return text(value ? "yes" : "no");
  if (name === "probability") return percent(value);
  if (name === "features") return text("stored_features_value");
  if (name === "language") return new Intl.DisplayNames(language(), { type: "language" }).of(value);
  if (NAMED.has(name)) return names.plain(value);
  if (name === "evaluations") return value.map(later).join("; ");
  if (typeof value === "number") return new Intl.NumberFormat(language(), { maximumFractionDigits: 2 }).format(value);
  const words = `stored_${name}_${value}`; // of outcome, decision and split
  return has(words) ? text(words) : String(value);
}

/** What a later recogniser says of the photo. */
function later({ outcome, kind, label, probability }) {
  if (outcome === null || outcome === "unknown") return text("stored_outcome_unknown");
  return `${names.plain(kind ?? label ?? "–")} (${percent(probability)})`;
}

button.addEventListener("click", async () => {
  button.disabled = true;
  try {
    await deleteSubmission(id, secret);
  } catch (error) {
    if (error instanceof Refused && error.status === 404) {
      say(status, "delete_unknown");
      button.hidden = true;
      return;
    }
    button.disabled = false;
    say(status, error.said ?? (error.code === "offline" ? "offline_notice" : "went_wrong"));
    return;
  }
  button.hidden = true;
  document.getElementById("stored").replaceChildren();
  say(status, kept ? "deleted_kept" : "deleted");
  history.replaceState(null, "", at("/delete"));
});
addEventListener("hashchange", () => location.reload());
