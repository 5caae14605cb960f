/* What is done with the chosen images, or with the one in focus: tag, set aside, export. */

import { download } from "./api.js";
import { cell } from "./cells.js";
import { confirm, next, set } from "./labels.js";
import { asked, byId, many, meant, on, say, state, tell, tooMany, trying, worded } from "./state.js";

const MANY = 100; // images from which a change is asked about

/** Set images aside, or take them back if all of them are set aside already. */
export async function setAside() {
  const rows = meant(), one = !state.chosen.size;
  if (!rows.length || tooMany(rows)) return undefined;
  const yes = !rows.every((row) => state.aside[row]);
  const text = worded("No list, search or command uses images that are set aside. u takes it back.");
  if (rows.length > MANY && !(await asked(`${yes ? "Set aside" : "Take back"} ${many(rows.length)}?`, text, yes ? "Set aside" : "Take back"))) return undefined;
  const before = rows.map((row) => (state.aside[row] ? true : null));
  for (const row of rows) state.aside[row] = yes ? 1 : 0;
  set(state.facts.set_aside, rows, rows.map(() => yes || null), before);
  say(`${yes ? "Set aside" : "No longer set aside"}: ${many(rows.length)}`);
  tell("aside");
  return next(one);
}

/** Ask for a tag, which is another column than the label. */
export function askTag() {
  if (!meant().length || tooMany(meant())) return;
  byId("tag-title").textContent = `Tag ${many(meant().length)}`;
  byId("tag-dialog").showModal();
  byId("tag").select();
}

function tag(value) {
  const rows = meant(), one = !state.chosen.size;
  const before = rows.map((row) => cell(row)?.row.tag ?? null);
  set("tag", rows, rows.map(() => value || null), before);
  say(`${many(rows.length)}: ${value ? `tag ${value}` : "no tag"}`);
  next(one);
}

/** Choose every copy of the list but the one of each group to keep. */
export function copies() {
  const { keep } = state.list.columns;
  if (keep && !state.list.rows.length) return say("There are no copies to choose.");
  if (!keep) return say("Open the list of duplicates first; there, c chooses all copies but the ones to keep.");
  state.chosen.clear();
  state.list.rows.forEach((row, at) => keep[at] || state.aside[row] || state.chosen.add(row));
  say(`${many(state.chosen.size)} chosen: all copies but the ones to keep.`);
  return tell("chosen");
}

/** Save a table of the chosen images. */
export const exported = (vectors) => trying(() => {
  const rows = meant();
  if (!rows.length) return say(worded("Choose images first."));
  return download(`api/export/${vectors ? "parquet" : "csv"}`, { key: state.facts.key, rows, vectors }, `selection.${vectors ? "parquet" : "csv"}`);
});

function bar() {
  const count = state.chosen.size;
  const copied = Boolean(state.list.columns.keep && state.list.rows.length);
  byId("chosen").hidden = !count && !copied;
  byId("chosen-count").textContent = count ? `${count.toLocaleString("en")} chosen` : "None chosen";
  for (const button of byId("chosen").querySelectorAll("[data-needs]")) button.hidden = !count;
  byId("copies").hidden = !copied;
  byId("right").hidden = !count || state.list.name !== "label-errors";
}

const press = (id, work) => byId(id).addEventListener("click", work);
press("copies", copies);
press("aside", setAside);
press("right", confirm);
press("tag-button", askTag);
press("export-chosen", () => exported(false));
press("export-chosen-vectors", () => exported(true));
press("choose-none", () => (state.chosen.clear(), tell("chosen")));
byId("tag-form").addEventListener("submit", () => tag(byId("tag").value.trim()));
on("chosen list", bar);
