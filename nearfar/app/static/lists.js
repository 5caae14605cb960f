/* The lists: tabs that each fill the one grid. */

import { ask } from "./api.js";
import { byId, focused, make, on, say, state, tell, trying } from "./state.js";

const TABS = [
  ["all", "All"], ["selected", "Selected"], ["similar", "Similar"], ["anomalies", "Anomalies"], ["duplicates", "Duplicates"],
  ["label-errors", "Label errors"], ["suggestions", "To label"], ["clusters", "Clusters"], ["classifier", "Classifier"],
];
const EMPTY = { title: "", lines: [], grouped: "", columns: {} };
const kept = new Map(); // lists that were made by hand: "selected", "similar", "classifier"
let asked = 0;

/** Show a list: rows and what is known of each, without the images that a condition leaves out. */
function show(name, head, rows) {
  let list = { ...EMPTY, ...head, name, rows };
  if (state.shown) {
    const places = [...rows.keys()].filter((place) => state.shown[rows[place]]);
    const columns = Object.entries(list.columns).map(([key, values]) => [key, places.map((place) => values[place])]);
    list = { ...list, rows: rows.filter((row) => state.shown[row]), columns: Object.fromEntries(columns) };
  }
  state.list = list;
  state.at = 0;
  state.chosen.clear();
  mark(name);
  byId("list-part").removeAttribute("aria-busy");
  byId("title").textContent = `${list.rows.length.toLocaleString("en")} ${list.rows.length === 1 ? "image" : "images"}${list.title ? `, ${list.title}` : ""}`;
  byId("lines").textContent = list.lines.join(" ");
  byId("examples").hidden = name !== "similar";
  tell("chosen");
  tell("list");
  tell("focus");
}

/** Show which list is open, or on its way. */
function mark(name) {
  for (const tab of byId("tabs").children) {
    const on = tab.id === `tab-${name}`;
    tab.setAttribute("aria-selected", on);
    tab.tabIndex = on ? 0 : -1;
    if (on) tab.scrollIntoView({ block: "nearest", inline: "nearest" });
  }
}

/** Open the list of a name. */
export async function open(name) {
  const turn = ++asked;
  if (name === "all") return show("all", {}, Int32Array.from({ length: state.facts.count }, (_, row) => row));
  if (kept.has(name)) return show(name, ...kept.get(name));
  if (name === "selected") return show(name, { lines: ["Choose Lasso and draw around images on the map, or press the space bar on images and Enter."] }, new Int32Array());
  if (name === "similar") return focused() >= 0 ? similar([focused()], []) : undefined;
  if (name === "classifier") return train();
  mark(name);
  byId("title").textContent = "Looking…";
  byId("lines").textContent = "";
  byId("list-part").setAttribute("aria-busy", "true");
  const found = await trying(() => ask(`/api/list/${name}?column=${encodeURIComponent(state.labels.column)}`));
  if (turn !== asked) return;
  if (found) show(name, found.head, found.rows);
  else show(name, { title: "" }, new Int32Array());
}

/** Open a list of the user's own making. */
export function hold(name, head, rows) {
  ++asked;
  kept.set(name, [head, rows]);
  show(name, head, rows);
}

/** Find images like some, and unlike others. */
export async function similar(likes, dislikes) {
  if (!likes.length) return say("A search needs an image to look for.");
  Object.assign(state, { likes, dislikes });
  const found = await trying(() => ask("/api/search", { key: state.facts.key, like: likes, dislike: dislikes }));
  if (found) hold("similar", found.head, found.rows);
}

/** Find images like the one in a file. */
export async function byFile(file) {
  if (!file) return;
  say(`Looking for the like of ${file.name}…`);
  const found = await trying(() => ask("/api/search/file", file));
  if (!found) return;
  Object.assign(state, { likes: [], dislikes: [] });
  hold("similar", { ...found.head, lines: [file.name] }, found.rows);
}

/** Train a classifier on the labels, and show what it makes of the other images. */
export async function train() {
  say("Training…");
  const found = await trying(() => ask("/api/train", { column: state.labels.column }));
  if (!found) return;
  const { accuracy, low, high, labels, classes } = found.head.facts;
  const percent = (share) => `${(100 * share).toFixed(1)} %`;
  const line = `Accuracy ${percent(accuracy)} (95 % interval ${percent(low)} to ${percent(high)}) on labels held out, `
    + `each of ${labels.toLocaleString("en")} in turn, of ${classes} classes. Accept what it says of the images you have looked at.`;
  say(`Accuracy ${percent(accuracy)} on held-out labels.`);
  hold("classifier", { ...found.head, lines: [line] }, found.rows);
}

/** Show only the images that meet a condition; an empty one shows all. */
export async function where(condition) {
  const found = condition ? await trying(() => ask(`/api/where?where=${encodeURIComponent(condition)}`)) : null;
  if (condition && !found) return;
  state.shown = null;
  if (found) {
    state.shown = new Uint8Array(state.facts.count);
    for (const row of found.rows) state.shown[row] = 1;
    say(`${found.rows.length.toLocaleString("en")} images meet the condition.`);
  }
  tell("shown");
  open(state.list.name);
}

/** Make the tabs. */
export function start() {
  const tabs = byId("tabs");
  tabs.replaceChildren(...TABS.map(([name, text]) => {
    const tab = make("button", { id: `tab-${name}`, type: "button", role: "tab", "aria-controls": "grid" }, text);
    tab.addEventListener("click", () => open(name));
    return tab;
  }));
  tabs.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    event.stopPropagation();
    const all = [...tabs.children], next = all[(all.indexOf(document.activeElement) + by + all.length) % all.length];
    next.focus();
    open(next.id.slice(4));
  });
}

/** Go to the next tab, or the last one. */
export function turn(by) {
  const at = TABS.findIndex(([name]) => name === state.list.name);
  open(TABS[(at + by + TABS.length) % TABS.length][0]);
}

on("labels", () => kept.delete("classifier"));
