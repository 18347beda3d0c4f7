// The owner's overview: how many photos, how fast, how sure, how far from training, and what visitors said was wrong.

import { knownLabels } from "../api.js";
import { chart } from "./charts.js";
import { element } from "../elements.js";
import { Names, moment } from "../names.js";
import { askOwner, explain, photoAddress, session } from "./session.js";
import { language, percent, say, localise, text } from "../localisation.js";
import { at } from "../place.js";

const WRONG_AT_ONCE = 12;

localise(() => summary && show());
const $ = (id) => document.getElementById(id);
let summary = null;
let names = null;
let cursor = null;

const number = (value, digits = 0) => new Intl.NumberFormat(language(), { maximumFractionDigits: digits }).format(value);
const seconds = (value) => (value === null ? "–" : value < 1 ? `${number(1000 * value)}\u202fms` : `${number(value, 1)}\u202fs`);
const share = (value) => (value === null ? "–" : value ? percent(value) : new Intl.NumberFormat(language(), { style: "percent" }).format(0));
const sum = (counts) => Object.values(counts).reduce((total, value) => total + value, 0);

const { refused } = session(load);
const reload = async () => {
  $("notice").hidden = true;
  try {
    await load();
  } catch (error) {
    if (error.status === 401 || error.status === 403) refused(error);
    else explain(error, $("notice"));
  }
};
$("refresh").addEventListener("click", reload);
$("days").addEventListener("change", reload);
$("more").addEventListener("click", () => moreWrong().catch((error) => explain(error, $("notice"))));

async function load() {
  summary = await (await askOwner(`summary?days=${$("days").value}`)).json();
  names ??= new Names(await knownLabels());
  show();
  $("wrong").replaceChildren();
  cursor = null;
  await moreWrong();
}

function show() {
  const { total, submissions, days } = summary;
  say($("about"), "about_model", { identity: summary.identity, days: summary.keep_days });
  const { latency, drift } = total;
  $("facts").replaceChildren(
    fact("photos", number(total.photos), "photos_kept", { n: total.kept }),
    fact("answered_in", seconds(latency.p50), "slowest", { p95: seconds(latency.p95), p99: seconds(latency.p99) }),
    fact("unsure_share", share(total.unsure_share)),
    fact("refused", number(sum(total.refused))),
    fact("said_wrong", number(total.wrong), "said_right", { n: total.right }),
    fact("to_decide", number(submissions.pending), "decided_count", { n: submissions.reviewed }),
    drift.index === null ? fact("drift", "–", "drift_none") : fact("drift", number(drift.index, 2), "drift_chance", { chance: number(drift.chance, 3) }),
  );
  const dates = days.map((day) => day.day);
  const of = (name, value) => ({ name, values: days.map(value) });
  $("charts").replaceChildren(
    whole(
      chart({
        title: "chart_volume", days: dates, form: "bars", written: (value) => number(value, 1), least: 4,
        series: ["variety", "kind", "probable", "unsure", "unknown"].map((outcome) => of(outcome, (day) => day.outcomes[outcome] ?? 0)),
      }),
    ),
    chart({
      title: "chart_latency", days: dates, form: "lines", written: seconds,
      series: ["p50", "p95", "p99"].map((name) => of(name, (day) => day.latency[name])),
    }),
    chart({ title: "chart_unsure", days: dates, form: "lines", written: (value) => new Intl.NumberFormat(language(), { style: "percent", maximumFractionDigits: 1 }).format(value), least: 0.1, series: [of("share", (day) => day.unsure_share)] }),
    chart({
      title: "chart_drift", days: dates, form: "lines", written: (value) => number(value, 2), least: 0.25, limits: [0.1, 0.25], remark: "drift_limits",
      series: [of("drift_index", (day) => day.drift.index)],
    }),
    refusals(total.refused, summary.reasons),
  );
}

const whole = (node) => {
  node.classList.add("whole");
  return node;
};

function fact(name, value, more, values) {
  return element("div", {}, say(element("dt"), name), element("dd", {}, value), more ? say(element("dd.more"), more, values) : null);
}

function refusals(refused, reasons) {
  const rows = Object.entries(refused).sort((a, b) => b[1] - a[1]);
  const most = Math.max(...rows.map(([, count]) => count), 1);
  const node = element("section.chart", {}, say(element("h2"), "chart_refused"));
  if (!rows.length) node.append(say(element("p.quiet"), "nothing_refused"));
  else {
    const list = element("ol.bars");
    for (const [code, count] of rows) {
      const fill = element("span.fill");
      fill.style.width = `${(100 * count) / most}%`;
      list.append(element("li", {}, say(element("bdi.called"), reasons[code] ?? code), element("span.share", {}, number(count)), element("span.track", { "aria-hidden": "true" }, fill)));
    }
    node.append(list);
  }
  return node;
}

async function moreWrong() {
  const query = new URLSearchParams({ state: "wrong", limit: WRONG_AT_ONCE, ...(cursor ? { cursor } : {}) });
  const page = await (await askOwner(`submissions?${query}`)).json();
  cursor = page.cursor;
  $("wrong").append(...page.submissions.map(wrongOne));
  $("no-wrong").hidden = $("wrong").children.length > 0;
  $("more").hidden = !cursor;
}

function wrongOne(one) {
  const named = one.variety ?? one.kind;
  const told = element("dl.told", {}, say(element("dt"), "answer_was"), element("dd", {}, say(element("bdi"), () => (named ? names.plain(named) : text(one.has_photo ? (one.outcome ?? "unsure") : "answer_not_kept")))));
  if (one.said_label) told.append(say(element("dt"), "visitor_says"), element("dd", {}, names.of(one.said_label)));
  if (one.note) told.append(say(element("dt"), "note"), element("dd.plain-text", {}, element("bdi", {}, one.note)));
  told.append(say(element("dd.plain-text.quiet.small"), moment(one.created)));
  const item = element("li", {}, say(element("span.no-photo"), "no_photo"), told);
  if (one.has_photo) {
    told.append(element("dd", {}, say(element("a", { href: at(`/owner/review#${one.id}`) }), "review_it")));
    photoAddress(one.id).then((address) => {
      const picture = element("img", { src: address });
      say(picture, () => text("photo_of", { name: named ? names.plain(named) : text(one.outcome ?? "unsure") }), undefined, "alt");
      picture.addEventListener("load", () => URL.revokeObjectURL(address));
      item.firstChild.replaceWith(picture);
    }).catch(() => {}); // deleted meanwhile: then there is none
  }
  return item;
}
