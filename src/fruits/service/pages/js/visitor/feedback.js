// What a visitor can do about an answer of the service: say whether it is right, say what it is instead, have it deleted.

import { isCertain, isGuess } from "./answer.js";
import { deleteSubmission, giveFeedback, knownLabels } from "../api.js";
import { combobox, optionsOf } from "../combobox.js";
import { element, icon } from "../elements.js";
import { percent, say, text } from "../localisation.js";
import { at } from "../place.js";

/**
 * Return the foot of an answer's card.
 *
 * @param {{id: string, secret: string, kept: boolean}} answer
 * @param {{failed: (error: Error, place: HTMLElement) => void, deleted: () => void}} tell
 */
export function feedbackParts(answer, { failed, deleted }) {
  const question = element("div.question", { role: "group" });
  const wrong = element("form.wrong", { hidden: true, novalidate: true });
  const said = element("p.said", { role: "status" });
  const certain = isCertain(answer);
  const guessed = isGuess(answer);
  const yes = element("button.button.small", { type: "button" }, icon("yes", 18), say(element("span"), certain ? "yes" : "indeed"));
  const no = element("button.button.small", { type: "button", "aria-expanded": "false" }, certain ? icon("no", 18) : null, say(element("span"), certain ? "no" : guessed ? "something_else" : "name_it"));
  const asked = certain ? "is_right" : guessed ? "which_of_these" : "do_you_know";
  say(question, asked, undefined, "label");
  // Where nothing is sure, a guess is a button; of "none of these" one can say that it is right.
  question.append(say(element("span", { "aria-hidden": "true" }), asked), ...(guessed ? [element("div.guesses", {}, ...answer.kinds.map(guess))] : [yes]), no);

  function guess(one) {
    const right = answer.outcome === "probable" && one.kind === answer.kind;
    const choose = () => send(right, right ? null : { value: one.kind, get shown() { return text(one); } });
    const share = say(element("span.share.quiet"), () => percent(one.probability));
    const fill = element("span.fill", { "aria-hidden": "true" });
    fill.style.width = `${100 * one.probability}%`;
    return element("button.button.guess", { type: "button", click: choose }, fill, say(element("bdi"), one), " ", share);
  }
  const send = async (right, label) => {
    try {
      await giveFeedback({ id: answer.id, secret: answer.secret, right, label: label?.value ?? null, note: null });
    } catch (error) {
      failed(error, said);
      return;
    }
    question.hidden = wrong.hidden = true;
    said.tabIndex = -1;
    if (right) say(said, "thanks_right");
    else say(said, label ? "thanks_wrong" : "thanks_unnamed", { label: label?.shown });
    said.focus({ preventScroll: true });
  };
  yes.addEventListener("click", () => send(true, null));
  no.addEventListener("click", async () => {
    if (!wrong.hidden) {
      hide();
      return;
    }
    no.setAttribute("aria-expanded", "true");
    wrong.hidden = false;
    if (!wrong.firstChild) {
      let options = [];
      try {
        options = optionsOf(await knownLabels());
      } catch {
        // Without the list there is still free text.
      }
      const which = combobox("which", options);
      const cancel = say(element("button.button.small.plain", { type: "button", click: hide }), "cancel");
      wrong.append(which.node, element("p.buttons", {}, say(element("button.button.small.first", { type: "submit" }), "send"), cancel));
      wrong.addEventListener("submit", (event) => {
        event.preventDefault();
        send(false, which.chosen());
      });
      wrong.addEventListener("keydown", (event) => event.key === "Escape" && hide());
    }
    wrong.querySelector("input").focus();
  });
  const hide = () => {
    wrong.hidden = true;
    no.setAttribute("aria-expanded", "false");
    no.focus();
  };

  const remove = say(element("button.link", { type: "button" }), "delete_it");
  remove.addEventListener("click", async () => {
    remove.disabled = true;
    try {
      await deleteSubmission(answer.id, answer.secret);
    } catch (error) {
      if (error.status !== 404) {
        remove.disabled = false;
        failed(error, said);
        return;
      }
    }
    deleted();
  });
  const fate = element("p.fate.quiet", {}, say(element("span"), answer.kept ? "kept" : "not_kept"), remove);
  if (answer.kept) fate.append(...linkParts(at(`/delete#${answer.id}.${answer.secret}`)));
  return [question, wrong, said, fate];
}

/** The link that shows and deletes what is kept: it opens beside this page, whose answers stay, and can be copied. */
function linkParts(path) {
  const address = new URL(path, location.href).href;
  const link = say(element("a", { href: path, target: "_blank", rel: "noopener" }), "delete_link");
  const copy = say(element("button.link", { type: "button" }), "copy_link");
  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(address);
      say(copy, "copied");
    } catch {
      // Not allowed, or not served by https: then it is there to be copied by hand.
      const field = element("input", { type: "text", readonly: true, value: address });
      say(field, "delete_link", undefined, "label");
      copy.replaceWith(field);
      field.focus();
      field.select();
    }
  });
  return [link, copy];
}
