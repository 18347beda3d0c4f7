// An answer, as a person reads it: the name and how sure it is, the three best, similar photos, what to do better.
//
// Takes an answer of POST /v1/recognise, or one of decide.js, which is of the same shape.

import { element } from "../elements.js";
import { laterFor } from "../later.js";
import { inASentence, namesOf, percent, say, text } from "../localisation.js";
import { at } from "../place.js";

/** What an answer says in one line; read out by screen readers when it arrives. */
export function spokenLine(answer) {
  return () => {
    const said = answer.outcome === "probable" ? nameOf(answer) : text("announced", { name: nameOf(answer), sure: sureness(answer) });
    return answer.outcome === "unsure" ? `${said} ${answer.kinds.map(text).join(", ")}` : said;
  };
}

export function nameOf(answer) {
  if (!answer.name) return text(answer.outcome);
  const name = text(answer.name);
  return answer.outcome === "probable" ? text("probable", { name: inASentence(name), share: percent(answer.probability) }) : name;
}

export function sureness(answer) {
  const share = percent(answer.probability);
  if (answer.outcome === "variety") return text("sure_variety", { share });
  if (answer.outcome === "kind") return text(answer.labels[0]?.en === answer.name.en ? "sure_name" : "sure_kind", { share });
  return text(answer.outcome === "unsure" ? "unsure_more" : "unknown_more");
}

/** Whether anything is named for sure. */
export const isCertain = (answer) => answer.outcome === "variety" || answer.outcome === "kind";

/** Whether an answer is a guess, or a few. */
export const isGuess = (answer) => answer.outcome === "probable" || answer.outcome === "unsure";

/**
 * Return the parts of an answer: what is said first, and what stands below the question whether it is right.
 *
 * @param {object} answer
 * @param {{asked: boolean}} options  Whether the question follows: then its buttons are the guesses, and no list repeats them.
 * @returns {{first: Node[], more: Node[]}}
 */
export function answerParts(answer, { asked }) {
  const certain = isCertain(answer);
  const first = [heading(answer, certain)];
  const more = [];
  if (answer.line) (certain || !asked ? first : more).push(element("p.line", {}, say(element("span"), answer.line)));
  if (!isGuess(answer) || !asked) {
    const list = [bars(answer, certain)];
    if (!certain && answer.outcome !== "probable") list.unshift(say(element("p.remark"), () => sureness(answer)));
    (certain ? more : first).push(...list);
  }
  if (!certain && (answer.outcome !== "probable" || answer.advice.length)) more.push(advice(answer));
  if (answer.similar?.length) more.push(similarPhotos(answer.similar));
  return { first, more };
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

/** Rows of one name as one: two image sequences of the same apple are two labels, and one answer. */
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

function similarPhotos(photos) {
  const list = element("ul");
  const node = element("div.similar", {}, say(element("h3"), "similar"), list);
  const shown = photos.map((one) => {
    const source = at(one.thumbnail);
    const picture = element("img", { src: source, alt: "", width: 72, height: 72, loading: "lazy", decoding: "async" });
    const button = element("button.enlarge", { type: "button", "aria-haspopup": "dialog" }, picture, say(element("bdi"), one));
    say(button, () => text("enlarge", { name: text(one) }), undefined, "label");
    return { source, names: namesOf(one), button, picture };
  });
  for (const one of shown) {
    const item = element("li", {}, one.button);
    one.button.addEventListener("click", async () => {
      const part = await laterFor(list, import("./enlarge.js"));
      const left = shown.filter(({ button }) => button.isConnected);
      part?.enlarge(left, left.indexOf(one));
    });
    // Without a connection there are those that were seen before.
    one.picture.addEventListener("error", () => {
      item.remove();
      if (!list.children.length) node.remove();
    });
    list.append(item);
  }
  return node;
}
