// An answer, as a person reads it: the name and how sure it is, the three best, what looks alike, what to do better.
//
// Takes an answer of POST /v1/recognise, or one of decide.js, which is of the same shape.

import { element } from "./elements.js";
import { inASentence, namesOf, percent, say, text } from "./localisation.js";
import { at } from "./place.js";

/** What an answer says in one line; read out by screen readers when it arrives. */
export function spokenLine(answer) {
  return () => (answer.outcome === "probable" ? nameOf(answer) : text("announced", { name: nameOf(answer), sure: sureness(answer) }));
}

function nameOf(answer) {
  if (!answer.name) return text(answer.outcome);
  const name = text(answer.name);
  return answer.outcome === "probable" ? text("probable", { name: inASentence(name), share: percent(answer.probability) }) : name;
}

function sureness(answer) {
  const share = percent(answer.probability);
  if (answer.outcome === "variety") return text("sure_variety", { share });
  if (answer.outcome === "kind") return text(answer.labels[0]?.en === answer.name.en ? "sure_name" : "sure_kind", { share });
  return text(answer.outcome === "unsure" ? "unsure_more" : "unknown_more");
}

/** Whether anything is named for sure. */
export const isCertain = (answer) => answer.outcome === "variety" || answer.outcome === "kind";

/**
 * Return the parts of an answer.
 *
 * @returns {Node[]}
 */
export function answerParts(answer) {
  const certain = isCertain(answer);
  const parts = [heading(answer, certain)];
  if (answer.line) parts.push(element("p.line", {}, say(element("span"), answer.line)));
  if (answer.outcome === "probable") {
    if (answer.advice.length) parts.push(advice(answer));
  } else if (!certain) parts.push(advice(answer), say(element("p.remark"), () => sureness(answer)));
  parts.push(bars(answer, certain));
  if (answer.alike?.length) parts.push(alike(answer.alike));
  return parts;
}

function heading(answer, certain) {
  const kind = answer.outcome === "variety" ? answer.kinds.find((one) => one.kind === answer.kind) : null;
  const above = kind && kind.en !== answer.name.en ? say(element("p.above"), kind) : null;
  return element(
    "div.verdict",
    {},
    above,
    element("h2", { tabindex: "-1" }, say(element("bdi"), () => nameOf(answer))),
    certain ? element("p.sure", {}, element(`span.dot.${answer.outcome}`, { "aria-hidden": "true" }), say(element("span"), () => sureness(answer))) : null,
  );
}

function advice(answer) {
  const found = answer.advice.length ? answer.advice : [{ code: "retake_plain" }];
  return element(
    "div.advice",
    {},
    say(element("h3"), "retake"),
    element("ul", {}, ...found.map((one) => say(element("li"), one.en ? one : one.code))),
  );
}

/**
 * The finer list where the answer is certain, the coarser where it is not. Shares are among what is known: of a photo that shows
 * none of that, they would say a certainty that nobody has.
 */
function bars(answer, certain) {
  const rows = together(certain ? answer.labels : answer.kinds);
  return element(
    "div.best",
    {},
    say(element("h3"), "three_best"),
    element(
      "ol.bars",
      {},
      ...rows.map((row) => {
        const fill = element("span.fill");
        fill.style.width = `${Math.max(0.5, 100 * row.probability)}%`;
        const name = say(element("bdi.called"), row);
        const share = answer.outcome === "unknown" ? null : say(element("span.share"), () => percent(row.probability));
        return element("li", {}, name, share, element("span.track", { "aria-hidden": "true" }, fill));
      }),
    ),
  );
}

/** Rows of one name as one: two films of the same apple are two labels, and one answer. */
function together(rows) {
  const found = new Map();
  for (const row of rows) {
    const name = JSON.stringify(namesOf(row));
    const before = found.get(name);
    if (before) before.probability += row.probability;
    else found.set(name, { ...row });
  }
  return [...found.values()].sort((a, b) => b.probability - a.probability);
}

function alike(photos) {
  const list = element("ul");
  const node = element("div.alike", {}, say(element("h3"), "alike"), list);
  for (const one of photos) {
    const picture = element("img", { src: at(one.thumbnail), alt: "", width: 72, height: 72, loading: "lazy", decoding: "async" });
    const item = element("li", {}, picture, say(element("bdi"), one));
    // Without a connection there are those that were seen before.
    picture.addEventListener("error", () => {
      item.remove();
      if (!list.children.length) node.remove();
    });
    list.append(item);
  }
  return node;
}
