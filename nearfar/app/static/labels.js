/* Labels: set with one key, undone with another, saved at once; and told when another hand was there too. */

import { ask } from "./api.js";
import { forget } from "./cells.js";
import { hue } from "./colours.js";
import { go } from "./grid.js";
import { byId, focused, labelOf, make, meant, on, say, state, tell, trying } from "./state.js";

const EVERY = 3000; // milliseconds between two looks at the store
const done = []; // what can be undone: { rows, before }
let seen = 0; // the store's version that this page knows
let queue = Promise.resolve(); // writes go one after the other

const path = () => `/api/column/${encodeURIComponent(state.labels.column)}`;

/** Read the labels of all images. */
export async function load() {
  const column = state.labels.column;
  seen = state.facts.version;
  if (!(column in state.facts.columns)) {
    Object.assign(state.labels, { names: [], values: new Int32Array(state.facts.count).fill(-1) });
  } else {
    const found = await trying(() => ask(path()));
    if (!found) return;
    Object.assign(state.labels, { names: found.head.names, values: found.values });
    seen = found.head.version;
  }
  tell("labels");
}

/** Label images; null takes their label away. */
export function label(rows, names) {
  if (!rows.length) return;
  const before = rows.map(labelOf);
  done.push({ rows, before });
  write(rows, before, names);
  const text = new Set(names).size === 1 ? (names[0] ?? "no label") : "several labels";
  say(`${rows.length === 1 ? "1 image" : `${rows.length.toLocaleString("en")} images`}: ${text}`);
}

/** Give all images that are meant one label, and go on to the next. */
export function give(name) {
  const rows = meant(), one = !state.chosen.size;
  label(rows, rows.map(() => name));
  if (one) go(state.at + 1);
  else {
    state.chosen.clear();
    tell("chosen");
  }
}

const proposals = () => state.list.columns.suggested ?? state.list.columns.class;

/** Accept what the list proposes for the images that are meant. */
export function accept() {
  const proposed = proposals();
  if (!proposed) return say("This list proposes no labels.");
  const place = new Map([...state.list.rows].map((row, at) => [row, at]));
  const rows = meant().filter((row) => place.has(row)), one = !state.chosen.size;
  label(rows, rows.map((row) => proposed[place.get(row)]));
  if (one) return go(state.at + 1);
  state.chosen.clear();
  tell("chosen");
}

/** Take back what was labelled last. */
export function undo() {
  const last = done.pop();
  if (!last) return say("Nothing to undo.");
  write(last.rows, last.rows.map(labelOf), last.before);
  say(`Undone: ${last.rows.length === 1 ? "1 label" : `${last.rows.length.toLocaleString("en")} labels`}`);
}

function write(rows, before, after) {
  keep(rows, after);
  queue = queue.then(() => trying(async () => {
    const { column } = state.labels;
    try {
      const told = await ask("/api/labels", { key: state.facts.key, version: seen, column, rows, before, after });
      seen = told.version;
      if (!(column in state.facts.columns)) state.facts.columns[column] = "text";
      if (told.replaced.length) say(`Another hand had labelled ${told.replaced.length} of these meanwhile; your labels replaced theirs.`, true);
    } catch (error) {
      await load(); // what the page shows is what the store holds
      throw error;
    }
  }));
}

/** Keep labels in the page, ahead of the store. */
function keep(rows, after) {
  const { names, values, column } = state.labels;
  const code = new Map(names.map((name, at) => [name, at]));
  for (const name of new Set(after)) {
    if (name !== null && !code.has(name)) code.set(name, names.push(name) - 1);
  }
  rows.forEach((row, at) => (values[row] = after[at] === null ? -1 : code.get(after[at])));
  forget(rows, column, after);
  tell("labels");
}

/** Look whether others wrote, and take over what they did. */
async function look() {
  if (document.hidden) return;
  await queue;
  const now = await ask("/api/version").catch(() => null);
  if (!now) return say("The server does not answer; is nearfar explore still running?", true);
  if (now.key !== state.facts.key) return location.reload();
  if (now.version === seen) return;
  const old = state.labels.values.slice(), words = state.labels.names.slice();
  await load();
  let count = 0;
  old.forEach((code, row) => (count += (words[code] ?? null) !== labelOf(row)));
  if (count) say(`Another hand changed ${count === 1 ? "1 label" : `${count.toLocaleString("en")} labels`}.`);
}

function bar() {
  const { names } = state.labels, row = focused();
  const mine = row < 0 ? null : labelOf(row);
  const chips = names.slice(0, 60).map((name, at) => {
    const dot = make("span", { class: "dot" });
    dot.style.background = hue(at);
    const key = at < 9 ? [make("kbd", {}, String(at + 1))] : [];
    const chip = make("button", { type: "button", class: "chip", "aria-pressed": String(name === mine) }, ...key, dot, make("span", {}, name));
    chip.addEventListener("click", () => give(name));
    return chip;
  });
  const proposed = row < 0 ? null : proposals()?.[state.at];
  if (proposed) {
    const many = state.chosen.size ? `Accept ${state.chosen.size.toLocaleString("en")}` : `Accept ${proposed}`;
    const chip = make("button", { type: "button", class: "chip accept" }, make("kbd", {}, "a"), make("span", {}, many));
    chip.addEventListener("click", accept);
    chips.unshift(chip);
  }
  byId("chips").replaceChildren(...chips);
}

/** Make the bar of labels. */
export function start() {
  const input = make("input", { id: "new-label", type: "text", maxlength: "200", autocomplete: "off", placeholder: "New label", "aria-label": "Another label" });
  const form = make("form", { class: "new" }, input);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (input.value.trim()) give(input.value.trim());
    input.value = "";
    byId("grid").focus();
  });
  const clear = make("button", { type: "button", class: "quiet" }, "Clear ", make("kbd", {}, "0"));
  clear.addEventListener("click", () => give(null));
  const back = make("button", { type: "button", class: "quiet" }, "Undo ", make("kbd", {}, "u"));
  back.addEventListener("click", undo);
  byId("labels").replaceChildren(make("div", { id: "chips" }), make("div", { class: "acts" }, form, clear, back));
  setInterval(look, EVERY);
}

on("labels focus chosen", bar);
