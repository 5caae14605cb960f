/* The order of the list, and whether it is shown as pictures or as a table: any column, up or down. */

import { ask } from "./api.js";
import { byId, make, on, state, tell, trying } from "./state.js";

const HIDDEN = new Set(["digest", "boxes", "mask", "mask_digest", "map_x", "map_y"]), LAST = ["width", "height", "bytes", "path"];

/** The columns of the table, in order: those of the list, then those of the store. */
export function columns() {
  const { column } = state.labels;
  const listed = Object.keys(state.list.columns).filter((name) => name !== column && name !== "turn");
  const stored = Object.keys(state.facts?.columns ?? {}).filter((name) => name !== "id" && name !== column && !HIDDEN.has(name) && !/_before$/.test(name) && !listed.includes(name));
  const own = stored.filter((name) => !LAST.includes(name));
  return ["id", column, ...listed, ...own, ...LAST.filter((name) => stored.includes(name))];
}

const text = new Intl.Collator("en", { numeric: true });

/** Number texts by their order, which is compared once for each of them and not for each image. */
function numbered(values) {
  const words = [...new Set(values)].filter((value) => typeof value === "string").sort(text.compare);
  const place = new Map(words.map((word, at) => [word, at]));
  return words.length ? values.map((value) => place.get(value)) : values;
}

/** How far on each place of a list is by a column; undefined where it has no value. */
async function keys(list, column) {
  if (column === "id") return [...list.rows]; // rows are numbered in the order of their names
  if (column === state.labels.column) return numbered([...list.rows].map((row) => state.labels.names[state.labels.values[row]]));
  if (list.columns[column]) return numbered(list.columns[column].map((value) => value ?? undefined));
  if (!(column in state.facts.columns)) return null;
  const found = await trying(() => ask(`api/order/${encodeURIComponent(column)}`));
  return found && [...list.rows].map((row) => (found.rank[row] < 0 ? undefined : found.rank[row]));
}

/** Put a list in the order that is asked for; images without a value come last. */
export async function ordered(list) {
  if (!state.order) return list;
  const down = state.order.startsWith("-"), column = down ? state.order.slice(1) : state.order;
  const found = await keys(list, column);
  if (!found) return list;
  const places = [...list.rows.keys()].sort((a, b) => {
    const [x, y] = [found[a], found[b]];
    if (x === undefined || y === undefined) return (x === undefined) - (y === undefined) || a - b;
    return (down ? y - x : x - y) || a - b;
  });
  const values = Object.entries(list.columns).map(([name, some]) => [name, places.map((place) => some[place])]);
  return { ...list, rows: Int32Array.from(places, (place) => list.rows[place]), columns: Object.fromEntries(values), grouped: "" };
}

/** Say by what to order: a column, one after "-" for downwards, or "" for the list's own order. */
export function choose(order) {
  if (order === state.order) return;
  state.order = order;
  tell("order");
}

/** Order by a column; once more turns it round, and once more gives the list's own order back. */
export const press = (column) => choose(state.order === column ? `-${column}` : state.order === `-${column}` ? "" : column);

/** Show the list as a table, or as pictures. */
export function view(table) {
  state.table = table;
  tell("view");
}

function draw() {
  byId("as-pictures").setAttribute("aria-pressed", String(!state.table));
  byId("as-table").setAttribute("aria-pressed", String(state.table));
  const plain = state.order.replace(/^-/, ""), names = columns();
  const options = [["", "as listed"], ...names.map((name) => [name, name])];
  byId("order").replaceChildren(...options.map(([value, shown]) => make("option", { value, selected: value === plain }, shown)));
  byId("order-way").hidden = !state.order;
  byId("order-way").textContent = state.order.startsWith("-") ? "↓" : "↑";
  byId("columns").hidden = !state.table || !state.list.rows.length;
  byId("columns").style.setProperty("--columns", names.length);
  byId("columns").replaceChildren(make("span"), ...names.map((name) => {
    const sign = state.order === name ? " ↑" : state.order === `-${name}` ? " ↓" : "";
    const button = make("button", { type: "button", title: `Order by ${name}` }, `${name}${sign}`);
    button.addEventListener("click", () => press(name));
    return button;
  }));
}

byId("order").addEventListener("change", ({ target }) => choose(target.value));
byId("order-way").addEventListener("click", () => choose(state.order.startsWith("-") ? state.order.slice(1) : `-${state.order}`));
byId("as-pictures").addEventListener("click", () => view(false));
byId("as-table").addEventListener("click", () => view(true));
on("list view", draw);
