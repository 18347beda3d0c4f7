// Parts of the page that are loaded when they are needed, and what is said where one cannot be had.

import { Refused, ask } from "./api.js";
import { element } from "./elements.js";
import { say } from "./localisation.js";

/**
 * Return a part; refused with "offline" without a connection, and with "updated" if the service was updated since the page was opened.
 *
 * @template T
 * @param {Promise<T>} loading  What import() gives.
 * @returns {Promise<T>}
 */
export async function later(loading) {
  try {
    return await loading;
  } catch {
    await ask("/healthz");
    throw new Refused("updated", null);
  }
}

/** As {@link later}; where the part cannot be had, say why below what was pressed, and return null. */
export async function laterFor(pressed, loading) {
  const below = pressed.nextElementSibling;
  const said = below?.classList.contains("missing") ? below : null;
  try {
    const part = await later(loading);
    said?.remove();
    return part;
  } catch (error) {
    const place = said ?? element("p.problem.missing", { role: "alert" });
    if (!said) pressed.after(place);
    say(place, { offline: "part_offline", updated: "updated_notice" }[error.code] ?? error.said ?? "went_wrong");
    return null;
  }
}
