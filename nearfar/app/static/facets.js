/* Counts of what the columns hold; a click on one makes it a part of the condition. */

import { ask } from "./api.js";
import { where } from "./lists.js";
import { byId, make, on, say, state, trying } from "./state.js";

const SHOWN = 12; // values of a column
const OTHER = -2; // the code of the rarer values of a column; see row_numbers.py
const HIDDEN = new Set(["id", "path", "digest", "boxes", "mask", "mask_digest", "map_x", "map_y"]);
const columns = new Map(); // name -> { names, values }, read once

const quoted = (text) => `'${text.replaceAll("'", "''")}'`;
const clause = (column, kind, name) => (name === null ? `${column} is null` : kind === "flag" ? `${column} = ${name}` : `${column} = ${quoted(name)}`);
const expanded = new Set(); // columns of which all values are shown

/** What of the condition is joined by "and", outside of quotes and brackets; all of it as one if an "or" is there. */
function parts() {
  const found = [""];
  let deep = 0, or = false, between = false;
  for (const token of state.condition.match(/'[^']*'|[()]|\s+|[^'()\s]+|'/g) ?? []) {
    const word = token.toLowerCase();
    deep += (word === "(") - (word === ")");
    between ||= word === "between";
    or ||= word === "or" && !deep;
    if (word === "and" && !deep && !between) found.push("");
    else found[found.length - 1] += token;
    if (word === "and") between = false;
  }
  const all = found.map((part) => part.trim()).filter(Boolean);
  return or ? [`(${all.join(" and ")})`] : all;
}

function toggle(text) {
  const now = parts(), rest = now.filter((part) => part !== text);
  where((rest.length < now.length ? rest : [...now, text]).join(" and "));
}

async function read(column) {
  if (column === state.labels.column) return state.labels;
  if (!columns.has(column)) {
    const found = await trying(() => ask(`api/column/${encodeURIComponent(column)}`));
    columns.set(column, found ? { names: found.head.names, values: found.values } : null);
  }
  return columns.get(column);
}

async function section(column, kind) {
  const found = await read(column);
  if (!found) return null;
  const { names, values } = found, counts = new Uint32Array(names.length + 1);
  let others = 0;
  values.forEach((code, row) => {
    if (state.shown?.[row] === 0) return;
    if (code === OTHER) others++;
    else counts[code < 0 ? names.length : code]++;
  });
  const listed = [...names, null].map((name, at) => ({ name, count: counts[at], text: clause(column, kind, name) }));
  const there = listed.filter(({ count, text }) => count || parts().includes(text)).sort((a, b) => b.count - a.count);
  if (there.length < 2 && !there.some(({ text }) => parts().includes(text))) return null;
  const most = expanded.has(column) ? there.length : SHOWN;
  const items = there.slice(0, most).map(({ name, count, text }) => {
    const button = make("button", { type: "button", "aria-pressed": String(parts().includes(text)) }, make("span", {}, name ?? "none"), make("small", {}, count.toLocaleString("en")));
    button.addEventListener("click", () => toggle(text));
    return make("li", {}, button);
  });
  if (there.length > most) {
    const more = make("button", { type: "button", class: "soft" }, `${(there.length - most).toLocaleString("en")} more`);
    more.addEventListener("click", (event) => {
      event.stopPropagation(); // it goes, and a click outside of the menu would close it
      expanded.add(column);
      draw().then(() => byId("facet-list").querySelector(`[data-column="${CSS.escape(column)}"] li:nth-child(${SHOWN + 1}) button`)?.focus());
    });
    items.push(make("li", {}, more));
  }
  if (others) items.push(make("li", { class: "soft" }, `${others.toLocaleString("en")} with rarer values`));
  return make("section", { "data-column": column }, make("h2", {}, column), make("ul", {}, ...items));
}

async function draw() {
  if (!byId("facets").open) return;
  const own = state.facts.modality === "text" ? "text" : ""; // of which no two are the same
  const kinds = Object.entries(state.facts.columns).filter(([name, kind]) => name !== own && kind !== "number" && !HIDDEN.has(name) && !/_(at|before)$/.test(name));
  const made = (await Promise.all(kinds.map(([name, kind]) => section(name, kind)))).filter(Boolean);
  byId("facet-list").replaceChildren(...(made.length ? made : [make("p", { class: "soft" }, "The columns of this store have one value each.")]));
}

byId("facets").addEventListener("toggle", () => {
  columns.clear(); // others may have written
  draw();
});
byId("clear-facets").addEventListener("click", () => (state.condition ? where("") : say("There is no condition.")));
on("shown labels aside", draw);
