// Runs in the head, before anything is painted: chooses language and buttons, so that no reader sees others flash by.
"use strict";
(() => {
  const root = document.documentElement;
  let kept = null;
  try {
    kept = localStorage.getItem("fruits.language");
  } catch {
    // Storage may be forbidden; then the choice lasts as long as the page.
  }
  const wanted = [kept, ...(navigator.languages || [navigator.language])].map((tag) => String(tag).split("-")[0].toLowerCase());
  const languages = root.dataset.languages.split(" ");
  root.lang = wanted.find((language) => languages.includes(language)) || languages[0];
  // The messages are asked for now, so that they come along with the scripts that say them.
  const address = new URL(`../messages/${root.dataset.messages}.${root.lang}.json`, document.currentScript.src);
  globalThis.fruitsMessages = fetch(address)
    .then((answer) => (answer.ok ? answer.json() : null))
    .catch(() => null);
  root.classList.add("unsaid");
  // Where fingers point there is a camera to take the photo with. Every browser on a phone says so in one of these ways.
  if (navigator.maxTouchPoints > 0 || matchMedia("(any-pointer: coarse)").matches) root.classList.add("touch");
  // Whatever happens to the other scripts, the page does not stay empty.
  setTimeout(() => root.classList.remove("unsaid"), 1500);
})();
