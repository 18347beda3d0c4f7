// The page behind a delete link: /delete#id.secret. What stands after # is never sent with an address, so no log holds it.

import { Refused, deleteSubmission } from "./api.js";
import { learn, say, speak } from "./speech.js";
import { WORDS } from "./words.js";

learn(WORDS);
speak();
const button = document.getElementById("delete");
const status = document.getElementById("status");
const [, id, secret] = /^#([\w-]{22})\.([\w-]{20,100})$/.exec(location.hash) ?? [];

if (!id) {
  button.hidden = true;
  say(status, "delete_broken");
}
button.addEventListener("click", async () => {
  button.disabled = true;
  try {
    await deleteSubmission(id, secret);
  } catch (error) {
    if (error instanceof Refused && error.status === 404) {
      say(status, "delete_unknown");
      button.hidden = true;
      return;
    }
    button.disabled = false;
    say(status, error.said ?? (error.code === "offline" ? "offline_notice" : "went_wrong"));
    return;
  }
  button.hidden = true;
  say(status, "deleted");
  history.replaceState(null, "", "/delete");
});
addEventListener("hashchange", () => location.reload());
