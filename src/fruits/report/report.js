"use strict";
// Runs in the head, before anything is painted, so that no reader sees the other language flash by.
const root = document.documentElement;
const languages = Object.keys(document.querySelector("title").dataset);

function chooseLanguage(language) {
  root.lang = root.dataset.lang = language;
  document.title = document.querySelector("title").dataset[language];
  for (const button of document.querySelectorAll("[data-choose]")) {
    button.setAttribute("aria-pressed", String(button.dataset.choose === language));
  }
}

function languageOfAddress() {
  return languages.find((language) => location.hash === "#" + language);
}

function languageOfReader() {
  const wanted = (navigator.languages || [navigator.language]).map((tag) => String(tag).split("-")[0].toLowerCase());
  return wanted.find((language) => languages.includes(language));
}

root.classList.add("scripted");
chooseLanguage(languageOfAddress() || languageOfReader() || "en");
addEventListener("hashchange", () => {
  if (languageOfAddress()) chooseLanguage(languageOfAddress());
  else unfold();
});

/** Open the part of the page that the address names. */
function unfold() {
  const part = document.getElementById(decodeURIComponent(location.hash.slice(1)))?.querySelector(":scope > details");
  if (!part || part.open) return;
  part.open = true;
  part.scrollIntoView();
}

document.addEventListener("DOMContentLoaded", () => {
  chooseLanguage(root.dataset.lang);
  unfold();
  for (const button of document.querySelectorAll("[data-choose]")) {
    button.addEventListener("click", () => chooseLanguage(button.dataset.choose));
  }
  for (const link of document.querySelectorAll('a[href^="#"]')) link.addEventListener("click", () => setTimeout(unfold));
  const table = document.getElementById("labels-table");
  if (table) {
    makeSortable(table);
    makeFilterable(table, document.getElementById("labels-filter"), document.getElementById("labels-shown"));
  }
});

function makeSortable(table) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const inOrder = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" }).compare;
  for (const button of table.tHead.querySelectorAll("button")) {
    button.addEventListener("click", () => {
      const header = button.closest("th");
      const column = header.cellIndex;
      // Names read best from A, and of numbers the smallest are the ones to look at: both start ascending.
      const direction = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      for (const other of table.tHead.querySelectorAll("th")) other.removeAttribute("aria-sort");
      header.setAttribute("aria-sort", direction === 1 ? "ascending" : "descending");
      const text = (row) => row.cells[column].textContent;
      const number = (row) => row.cells[column].dataset.value;
      rows.sort((a, b) => {
        if (number(a) === undefined) return direction * inOrder(text(a), text(b));
        // Labels without a score have nothing to compare and stay last both ways.
        if (number(a) === "" || number(b) === "") return (number(a) === "") - (number(b) === "");
        return direction * (number(a) - number(b));
      });
      body.append(...rows);
    });
  }
}

function makeFilterable(table, field, shown) {
  const plain = (text) => text.normalize("NFD").replace(/\p{M}/gu, "").toLowerCase();
  const rows = [...table.tBodies[0].rows].map((row) => [row, plain(row.cells[0].textContent)]);
  const narrow = () => {
    const wanted = plain(field.value.trim());
    let n = 0;
    for (const [row, label] of rows) {
      row.hidden = !label.includes(wanted);
      n += !row.hidden;
    }
    shown.textContent = n;
  };
  field.addEventListener("input", narrow);
  narrow();
}

// Paper has no way to unfold.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => (part.open = true)));
