// The owner's page of what to do better: score on visitors' photos, what is not known, the limit of answers, the next run.

import { knownLabels } from "../api.js";
import { element } from "../elements.js";
import { Names } from "../names.js";
import { precisionPart } from "./owner-precision.js";
import { scoresPart } from "./owner-scores.js";
import { command } from "./owner-parts.js";
import { at } from "../place.js";
import { askOwner, explain, photoAddress, session } from "./session.js";
import { say, localise, text } from "../localisation.js";

const $ = (id) => document.getElementById(id);
const place = (id) => $(id).querySelector(".improve-part");
let names = null;

let data = null;

localise(() => data && show()); // plots are drawn with their words
const { refused } = session(load);
$("refresh").addEventListener("click", async () => {
  $("notice").hidden = true;
  try {
    await load();
  } catch (error) {
    if (error.status === 401 || error.status === 403) refused(error);
    else explain(error, $("notice"));
  }
});

const told = async (path) => (await askOwner(path)).json();

async function load() {
  const [known, ...parts] = await Promise.all([knownLabels(), ...["test-set", "unknown", "precision", "next-run"].map(told)]);
  names ??= new Names(known);
  data = parts;
  show();
}

function show() {
  const [testSet, unknown, precision, nextRun] = data;
  say($("about"), "asked_model", { identity: testSet.open });
  place("test-set").replaceChildren(...scoresPart(testSet));
  place("unknown").replaceChildren(...unknownPart(unknown));
  place("precision").replaceChildren(...precisionPart(precision));
  place("next-run").replaceChildren(...nextRunPart(nextRun));
}

// --- Asked about, but not known ---

function unknownPart({ photos, groups, names: said }) {
  return [
    say(element("p"), "unknown_more", { n: photos }),
    groups.length ? element("ol.groups", {}, ...groups.map(groupOf)) : say(element("p.quiet"), "unknown_none"),
    say(element("h3"), "names_title"),
    said.length ? element("ul.names", { id: "names" }, ...said.map(counted)) : say(element("p.quiet"), "names_none"),
  ];
}

const counted = ({ name, count }) => element("li", {}, element("bdi", {}, name), " ", say(element("span.quiet"), "times", { n: count }));

function groupOf(group) {
  const about = element("dl.told");
  if (group.nearest) about.append(say(element("dt"), "group_nearest"), element("dd", {}, names.of(group.nearest)));
  if (group.said.length) {
    about.append(say(element("dt"), "visitor_says"));
    for (const { name, count } of group.said) about.append(element("dd", {}, names.of(name), " ", say(element("span.quiet.small"), "times", { n: count })));
  }
  const thumbs = element("div.thumbs", {}, ...group.samples.map(thumb));
  return element(
    "li", {}, say(element("h3"), "group_photos", { n: group.photos }), thumbs, about,
    group.reviewed ? say(element("p.quiet.small"), "group_reviewed", { n: group.reviewed }) : null,
  );
}

function thumb(id, number) {
  const link = element("a", { href: at(`/owner/review#${id}`) });
  say(link, () => text("group_sample", { n: number + 1 }), undefined, "label");
  photoAddress(id)
    .then((address) => {
      const picture = element("img", { src: address, alt: "" });
      picture.addEventListener("load", () => URL.revokeObjectURL(address));
      link.append(picture);
    })
    .catch(() => link.replaceWith(element("span"))); // deleted meanwhile
  return link;
}

// --- The next run ---

function nextRunPart(next) {
  const parts = [say(element("p"), "next_run_more", { n: next.photos })];
  if (next.test_photos) parts.push(say(element("p.quiet"), "next_run_test", { n: next.test_photos }));
  if (next.left_out) parts.push(say(element("p.quiet"), "next_run_left_out", { n: next.left_out }));
  if (!next.photos) return parts;
  const rows = Object.entries(next.labels).sort((a, b) => b[1] - a[1]);
  const isNew = new Set(next.new_labels);
  const table = element(
    "table", {},
    element("thead", {}, element("tr", {}, say(element("th", { scope: "col" }), "of_label"), say(element("th", { scope: "col" }), "photos"))),
    element(
      "tbody", {},
      ...rows.map(([label, count]) => element("tr", {}, element("th", { scope: "row" }, names.of(label), isNew.has(label) ? say(element("span.tag"), "new_label") : null), element("td", {}, String(count)))),
    ),
  );
  const scroll = say(element("div.scroll.table", { tabindex: "0", role: "region" }, table), "next_run_labels", undefined, "label");
  const shown = command(next.commands.parquet);
  const buttons = ["parquet", "csv"].map((format) =>
    say(element(format === "parquet" ? "button.button.first" : "button.button", { type: "button", id: `download-${format}`, click: () => download(format, () => shown.show(next.commands[format])) }), `download_${format}`),
  );
  return [...parts, scroll, element("p.buttons", {}, ...buttons), say(element("p"), "next_run_then"), shown.node];
}

async function download(format, done) {
  try {
    const answer = await askOwner(`manifest?format=${format}`);
    const name = /filename="([\w.-]+)"/.exec(answer.headers.get("Content-Disposition") ?? "")?.[1] ?? `reviewed.${format}`;
    const address = URL.createObjectURL(await answer.blob());
    element("a", { href: address, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(address), 60000);
    done();
  } catch (error) {
    if (error.status === 401 || error.status === 403) refused(error);
    else explain(error, $("notice"));
  }
}
