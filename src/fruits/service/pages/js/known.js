// "What I know": every kind that the recogniser of this service can name, with its names, a line and its varieties.
//
// Made of GET /v1/model, which the service worker keeps for the on-device mode: there the page opens without a connection, too.

import { modelInfo } from "./api.js";
import { element } from "./elements.js";
import { language, namesOf, say, speak, text } from "./localisation.js";

const $ = (id) => document.getElementById(id);
const LANGUAGES = document.documentElement.dataset.languages.split(" ");
let rows = [];

speak(sort);
start();

async function start() {
  let model;
  try {
    model = await modelInfo();
  } catch (error) {
    $("problem").hidden = false;
    say($("problem"), error.code === "offline" ? "known_offline" : "went_wrong");
    return;
  }
  rows = kindsOf(model).map((kind) => ({ kind, node: entry(kind) }));
  sort();
  $("search").addEventListener("input", filter);
}

/** Kinds with their varieties, and the kinds that they are taken for, where the bundle says so. */
function kindsOf({ taxonomy, look_alikes: alikes = {} }) {
  const named = Object.fromEntries(taxonomy.kind_ids.map((kind, number) => [kind, taxonomy.kinds[number]]));
  return taxonomy.kinds.map((told, number) => {
    const varieties = new Set(taxonomy.variety_of.filter((variety, label) => variety >= 0 && taxonomy.kind_of[label] === number));
    return {
      names: namesOf(told),
      line: Object.fromEntries(LANGUAGES.filter((one) => told[`line_${one}`]).map((one) => [one, told[`line_${one}`]])),
      varieties: [...varieties].map((variety) => namesOf(taxonomy.varieties[variety])),
      alikes: (alikes[taxonomy.kind_ids[number]] ?? []).map((kind) => named[kind]).filter(Boolean).map(namesOf),
    };
  });
}

function entry({ names, line, varieties, alikes }) {
  const listed = (key, many) => (many.length ? say(element("p.small"), () => text(key, { names: spoken(many).join(", ") })) : null);
  return element(
    "li",
    {},
    say(element("h2"), names),
    say(element("p.quiet.small"), () => [...new Set(LANGUAGES.map((one) => names[one]))].filter((name) => name && name !== text(names)).join(" · ")),
    Object.keys(line).length ? say(element("p.line"), line) : null,
    listed("known_varieties", varieties),
    listed("known_alikes", alikes),
  );
}

/** Names in the reader's language, each once, in its order. */
const spoken = (many) => [...new Set(many.map((one) => text(one)))].sort(new Intl.Collator(language()).compare);

/** Put the kinds in the order of the reader's language. */
function sort() {
  const { compare } = new Intl.Collator(language());
  rows.sort((a, b) => compare(text(a.kind.names), text(b.kind.names)));
  $("kinds").replaceChildren(...rows.map((row) => row.node));
  filter();
}

function filter() {
  const wanted = plain($("search").value);
  let shown = 0;
  for (const { kind, node } of rows) {
    node.hidden = ![kind.names, ...kind.varieties].some((names) => Object.values(names).some((name) => plain(name).includes(wanted)));
    shown += !node.hidden;
  }
  if (rows.length) say($("known-lede"), "known_count", { n: rows.length, shown });
}

/** Without accents and in small letters. */
const plain = (name) => name.normalize("NFD").replace(/\p{M}/gu, "").toLowerCase().trim();
