/* Counts of what the columns hold; a click on one makes it a part of the condition. */

import { ask } from "./api.js";
import { where } from "./lists.js";
import { byId, make, on, say, state, trying } from "./state.js";

const SHOWN = 12; // values of a column
const HIDDEN = new Set(["id", "path", "digest", "map_x", "map_y"]);
const columns = new Map(); // name -> { names, values }, read once

const quoted = (text) => `'${text.replaceAll("'", "''")}'`;
const clause = (column, kind, name) => (name === null ? `${column} is null` : kind === "flag" ? `${column} = ${name}` : `${column} = ${quoted(name)}`);
const parts = () => (state.condition ? state.condition.split(" and ") : []);

function toggle(text) {
  const rest = parts().filter((part) => part !== text);
  where((rest.length < parts().length ? rest : [...parts(), text]).join(" and "));
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
  values.forEach((code, row) => {
    if (state.shown?.[row] !== 0) counts[code < 0 ? names.length : code]++;
  });
  const listed = [...names, null].map((name, at) => ({ name, count: counts[at], text: clause(column, kind, name) }));
  const there = listed.filter(({ count, text }) => count || parts().includes(text)).sort((a, b) => b.count - a.count);
  if (there.length < 2 && !there.some(({ text }) => parts().includes(text))) return null;
  const items = there.slice(0, SHOWN).map(({ name, count, text }) => {
    const button = make("button", { type: "button", "aria-pressed": String(parts().includes(text)) }, make("span", {}, name ?? "none"), make("small", {}, count.toLocaleString("en")));
    button.addEventListener("click", () => toggle(text));
    return make("li", {}, button);
  });
  if (there.length > SHOWN) items.push(make("li", { class: "soft" }, `${(there.length - SHOWN).toLocaleString("en")} more`));
  return make("section", {}, make("h2", {}, column), make("ul", {}, ...items));
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
