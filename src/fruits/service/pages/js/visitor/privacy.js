// What the page says of the service itself: who operates it, what is stored where and for how long.

import { pageInfo } from "../api.js";
import { say } from "../localisation.js";

/** Put this service's own values into the words. */
export async function sayPrivacy() {
  const { privacy } = await pageInfo();
  if (!privacy) return;
  const at = (name) => document.getElementById(`privacy-${name}`);
  const n = 1 + Math.floor(privacy.feedback_hours / 24);
  say(at("without"), n > 1 ? "privacy_without_until_days" : "privacy_without_until", { hour: String(privacy.feedback_hours % 24).padStart(2, "0"), n });
  say(at("with"), "privacy_with_days", { days: privacy.keep_days });
  say(at("counts"), "privacy_counts_days", { days: privacy.count_days });
  say(at("where"), `privacy_where_${privacy.database}_${privacy.photos}`);
  const { operator, contact } = privacy;
  if (operator || contact) say(at("operator"), "privacy_operated", { who: [operator, contact].filter(Boolean).join(", ") });
}
