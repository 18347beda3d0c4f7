// Similar photos, one at a time and as large as they are good for: a dialog with arrows.
//
// The dialog is the browser's own: it keeps the focus inside, Escape closes it, and the focus goes to the button of the photo that
// was shown last.

import { element, icon } from "../elements.js";
import { say, text } from "../localisation.js";

/**
 * Show photos.
 *
 * @param {{source: string, names: object, button: HTMLElement}[]} photos
 * @param {number} first  Which of them to show first.
 */
export function enlarge(photos, first) {
  let at = first;
  const picture = element("img", { alt: "", width: 320, height: 320 });
  const name = element("h2", { id: "enlarged-name" });
  const place = element("p.quiet.small");
  const spoken = element("p.unseen", { role: "status" });
  const before = arrow("before", "enlarged_before", -1);
  const after = arrow("after", "enlarged_after", 1);
  const close = element("button.button.small", { type: "button", autofocus: true, click: () => dialog.close() }, say(element("span"), "enlarged_close"));
  const dialog = element(
    "dialog.enlarged",
    { "aria-labelledby": name.id },
    element("div.enlarged-picture", {}, before, picture, after),
    name,
    place,
    say(element("p.quiet.small"), "enlarged_more"),
    element("p.buttons", {}, close),
    spoken,
  );

  function arrow(drawing, key, step) {
    const button = element("button.arrow", { type: "button", click: () => show(at + step) }, icon(drawing, 22));
    return say(button, key, undefined, "label");
  }
  function show(next) {
    at = (next + photos.length) % photos.length;
    const { source, names } = photos[at];
    picture.src = source;
    say(name, names);
    const values = { place: at + 1, n: photos.length };
    say(place, () => text("enlarged_place", values));
    if (dialog.open) say(spoken, () => `${text(names)}, ${text("enlarged_place", values)}`);
  }
  before.hidden = after.hidden = photos.length < 2;
  dialog.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) show(at + step);
  });
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close()); // beside it
  dialog.addEventListener("close", () => {
    dialog.remove();
    photos[at].button.focus();
  });
  document.body.append(dialog);
  show(first);
  dialog.showModal();
}
