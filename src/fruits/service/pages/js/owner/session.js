// Who the owner is: a token typed into the page, kept in this tab, sent with each request and nowhere else.

import { Refused, ask } from "../api.js";
import { say } from "../localisation.js";

const KEPT = "fruits.token";
const $ = (id) => document.getElementById(id);

/** Ask the owner's API. */
export function askOwner(path, { json, ...options } = {}) {
  const headers = { Authorization: `Bearer ${sessionStorage.getItem(KEPT)}` };
  if (json) headers["Content-Type"] = "application/json";
  return ask(`/v1/owner/${path}`, { ...options, headers, body: json ? JSON.stringify(json) : undefined });
}

/** A kept photo as an address for an image; to be revoked by the caller. */
export async function photoAddress(id) {
  return URL.createObjectURL(await (await askOwner(`submissions/${encodeURIComponent(id)}/photo`)).blob());
}

/** Show the form or, with a token that is accepted, the page; `start` fills it. */
export function session(start) {
  const enter = async () => {
    try {
      await start();
    } catch (error) {
      refused(error);
      return;
    }
    $("sign-in").hidden = true;
    $("signed-in").hidden = false;
  };
  const leave = () => {
    sessionStorage.removeItem(KEPT);
    location.reload(); // nothing of what was shown stays
  };
  const refused = (error) => {
    const unknown = error.status === 401 || error.status === 403;
    if (unknown) sessionStorage.removeItem(KEPT);
    $("signed-in").hidden = true;
    $("sign-in").hidden = false;
    const words = { 401: "token_wrong", 403: "token_other" }[error.status];
    explain(error, $("sign-in-problem"), words);
    $("token").focus();
  };
  $("sign-in").querySelector("form").addEventListener("submit", (event) => {
    event.preventDefault();
    const token = $("token").value.trim();
    if (!/^[\x21-\x7e]{1,200}$/.test(token)) {
      say($("sign-in-problem"), "token_wrong");
      $("sign-in-problem").hidden = false;
      return;
    }
    sessionStorage.setItem(KEPT, token);
    $("token").value = "";
    $("sign-in-problem").hidden = true;
    enter();
  });
  for (const button of document.querySelectorAll("[data-sign-out]")) button.addEventListener("click", leave);
  if (sessionStorage.getItem(KEPT)) enter();
  else $("sign-in").hidden = false;
  return { refused };
}

/** Say what went wrong. */
export function explain(error, place, words) {
  if (!(error instanceof Refused)) console.error(error);
  place.hidden = false;
  say(place, words ?? (error.code === "offline" ? "offline_notice" : (error.said ?? "went_wrong")));
}
