// "What I know": every kind that the recogniser of this service can name, with its names, a line, its varieties, its season, and
// what it is easily taken for with what tells them apart.
//
// Made of GET /v1/model, which the service worker keeps for the on-device mode: there the page opens without a connection, too.

import { modelInfo } from "../api.js";
import { element } from "../elements.js";
import { language, namesOf, percent, say, localise, text } from "../localisation.js";

const $ = (id) => document.getElementById(id);
const LANGUAGES = document.documentElement.dataset.languages.split(" ");
let rows = [];

localise(sort);
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
  document.getElementById(location.hash.slice(1))?.scrollIntoView();
  $("search").addEventListener("input", filter);
}

/** Kinds with their varieties, their season, and the kinds that they are taken for. */
function kindsOf({ taxonomy, seasons = {}, look_alikes: alikes = {} }) {
  const named = Object.fromEntries(taxonomy.kind_ids.map((kind, number) => [kind, namesOf(taxonomy.kinds[number])]));
  return taxonomy.kinds.map((told, number) => {
    const id = taxonomy.kind_ids[number];
    const varieties = new Set(taxonomy.variety_of.filter((variety, label) => variety >= 0 && taxonomy.kind_of[label] === number));
    return {
      id: `kind-${number}`,
      names: named[id],
      line: Object.fromEntries(LANGUAGES.filter((one) => told[`line_${one}`]).map((one) => [one, told[`line_${one}`]])),
      varieties: [...varieties].map((variety) => namesOf(taxonomy.varieties[variety])),
      months: seasons[id] ?? [],
      alikes: (alikes[id] ?? []).filter(({ kind }) => named[kind]).map((one) => ({ ...one, names: named[one.kind], id: `kind-${taxonomy.kind_ids.indexOf(one.kind)}` })),
    };
  });
}

function entry({ id, names, line, varieties, months, alikes }) {
  return element(
    "li",
    { id },
    say(element("h2"), names),
    say(element("p.quiet.small"), () => [...new Set(LANGUAGES.map((one) => names[one]))].filter((name) => name && name !== text(names)).join(" · ")),
    Object.keys(line).length ? say(element("p.line"), line) : null,
    months.length ? say(element("p.small"), () => text("known_season", { months: ranges(months) })) : null,
    varieties.length ? say(element("p.small"), () => text("known_varieties", { names: sortedNames(varieties).join(", ") })) : null,
    alikes.length ? lookAlikes(alikes) : null,
  );
}

/** What a kind is taken for: counted on photos that were held out, or else what its features are near to. */
function lookAlikes(alikes) {
  const counted = alikes.some(({ share }) => share !== null);
  return element(
    "div.alikes.small",
    {},
    say(element("h3"), counted ? "known_alikes" : "known_near"),
    element(
      "ul",
      {},
      ...alikes.map(({ names, share, apart, id }) =>
        element(
          "li",
          {},
          say(element("a", { href: `#${id}` }), names),
          share === null ? null : say(element("span.quiet"), () => ` ${text("known_checked", { share: percent(share) })}`),
          apart ? say(element("span.apart"), apart) : null,
        ),
      ),
    ),
  );
}

/** Months that follow each other as one: "May to August". */
function ranges(months) {
  const parts = [];
  for (const month of months) {
    const last = parts.at(-1);
    if (last && month === (last[1] % 12) + 1) last[1] = month;
    else parts.push([month, month]);
  }
  return parts.map(([first, last]) => (first === last ? monthName(first) : text("known_months", { first: monthName(first), last: monthName(last) }))).join(", ");
}

const monthName = (month) => new Intl.DateTimeFormat(language(), { month: "long", timeZone: "UTC" }).format(new Date(Date.UTC(2026, month - 1, 15)));

/** What is in season this month, as links to its entries. */
function sayNow() {
  const month = new Date().getMonth() + 1;
  const now = rows.filter((row) => row.kind.months.includes(month));
  $("now-list").replaceChildren(...now.map(({ kind }) => element("li", {}, say(element("a", { href: `#${kind.id}` }), kind.names))));
  say($("now-title"), () => text("known_now", { month: monthName(month) }));
}

/** Names in the reader's language, each once, in its order. */
const sortedNames = (many) => [...new Set(many.map((one) => text(one)))].sort(new Intl.Collator(language()).compare);

/** Put the kinds in the order of the reader's language. */
function sort() {
  const { compare } = new Intl.Collator(language());
  rows.sort((a, b) => compare(text(a.kind.names), text(b.kind.names)));
  $("kinds").replaceChildren(...rows.map((row) => row.node));
  sayNow();
  filter();
}

function filter() {
  const wanted = plain($("search").value);
  let shown = 0;
  $("now").hidden = Boolean(wanted) || !$("now-list").children.length; // a search shows what it finds
  for (const { kind, node } of rows) {
    node.hidden = ![kind.names, ...kind.varieties].some((names) => Object.values(names).some((name) => plain(name).includes(wanted)));
    shown += !node.hidden;
  }
  if (rows.length) say($("known-lede"), wanted ? "known_count" : "known_all", { n: rows.length, shown });
}

/** Without accents and in small letters. */
const plain = (name) => name.normalize("NFD").replace(/\p{M}/gu, "").toLowerCase().trim();
