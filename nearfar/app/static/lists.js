/* The lists: tabs that each fill the one grid. */

import { ask, Stopped } from "./api.js";
import { ordered } from "./order.js";
import * as parts from "./parts.js";
import { byId, focused, make, many, on, say, state, tell, trying, worded } from "./state.js";
import { watched } from "./work.js";

const TABS = [
  ["all", "All"], ["selected", "Selected"], ["similar", "Similar"], ["anomalies", "Anomalies"], ["duplicates", "Duplicates"],
  ["label-errors", "Label errors"], ["suggestions", "To label"], ["clusters", "Clusters"], ["classifier", "Classifier"],
  ["parts", "Anomalous parts"], // where a bank of normal images was named
];
const EMPTY = { title: "", lines: [], grouped: "", columns: {} };
const DO = { // what fills a list that is empty
  all: "No image meets the condition.",
  selected: "Choose Lasso and draw around images on the map, or choose images by the space bar, Ctrl and a click, or a long press, and then “Show alone”.",
  similar: "Go to an image in another list and press n, or click a point of the map.",
  duplicates: "No two images are nearly the same.",
  "label-errors": "Label errors need at least two classes with two labels each: press 1 to 9 or l on images, or open “To label”.",
  parts: "No image is above the threshold; move it to the left.",
  classifier: "A classifier needs at least two classes with two labels each: press 1 to 9 or l on images, or open “To label”.",
};
/** Whether no image has a label. */
export const unlabelled = () => !state.labels.values.some((code) => code >= 0);
const BEGIN = "No image has a label yet. Begin with “Duplicates” and “Anomalies”, then “To label”.";
const kept = new Map(); // lists that were made by hand: "selected", "similar", "classifier"
let asked = 0, last = [], current = "all";
let remade = null; // makes the list "similar" anew, where it was made by a file or by words
let under = ""; // the condition that this was asked under

/** The name of the list that is open, or on its way. */
export const openList = () => current;

/** Show a list: rows and what is known of each, without the images that a condition leaves out. */
async function show(name, head, rows, trouble = "") {
  last = [name, head, rows, trouble];
  let list = { ...EMPTY, ...head, name, rows };
  if (name === "all") list.lines = unlabelled() ? [worded(BEGIN)] : [];
  if (state.shown && (name === "all" || kept.has(name))) {
    const places = [...rows.keys()].filter((place) => state.shown[rows[place]]);
    const columns = Object.entries(list.columns).map(([key, values]) => [key, places.map((place) => values[place])]);
    list = { ...list, rows: rows.filter((row) => state.shown[row]), columns: Object.fromEntries(columns) };
  }
  if (state.order) {
    const turn = asked;
    list = await ordered(list);
    if (turn !== asked) return;
  }
  state.list = list;
  state.at = 0;
  state.chosen.clear();
  mark(name);
  byId("list-part").removeAttribute("aria-busy");
  const title = !list.rows.length ? "" : state.order ? `by ${state.order.replace(/^-/, "")}` : list.title;
  byId("title").textContent = `${many(list.rows.length)}${title ? `, ${title}` : ""}`;
  byId("lines").classList.remove("whole");
  byId("lines").textContent = list.lines.join(" ");
  byId("examples").hidden = name !== "similar";
  nothing(trouble || worded(DO[name] ?? "There is nothing in this list."));
  tell("list");
  tell("chosen");
  tell("focus");
}

/** Say in an empty list what to do. */
function nothing(text) {
  const none = !state.list.rows.length, place = byId("nothing");
  place.hidden = !none;
  // A list of options has to have one.
  byId("grid").setAttribute("role", none ? "group" : "listbox");
  byId("grid").toggleAttribute("aria-multiselectable", !none);
  if (!none) return;
  place.replaceChildren(make("p", {}, text));
  if (!state.condition) return;
  const button = make("button", { type: "button" }, "Clear the condition");
  button.addEventListener("click", () => where(""));
  place.append(make("p", {}, `${worded("Only images that meet")} ${state.condition} are shown.`), button);
}

/** Show which list is open, or on its way. */
function mark(name) {
  current = name;
  for (const tab of byId("tabs").children) {
    const on = tab.id === `tab-${name}`;
    tab.setAttribute("aria-selected", on);
    tab.tabIndex = on ? 0 : -1;
    if (on) tab.scrollIntoView({ block: "nearest", inline: "nearest" });
  }
}

/** Have a list made by the server; what it refuses is said in the list. */
export async function made(name, path, body) {
  const turn = ++asked, live = () => turn === asked;
  mark(name);
  byId("title").textContent = "Looking…";
  byId("lines").textContent = "";
  byId("list-part").setAttribute("aria-busy", "true");
  try {
    const found = await watched(byId("list-work"), path, body, { live });
    return live() ? found : undefined;
  } catch (error) {
    if (!live()) return undefined;
    if (error instanceof Stopped) {
      await show(name, {}, new Int32Array(), "This list was cancelled.");
      again(name);
    } else {
      const plain = unlabelled() && ["label-errors", "classifier"].includes(name); // what to do says it then
      const told = plain ? "" : sentence(error.message);
      show(name, {}, new Int32Array(), [told, worded(DO[name] ?? "")].filter(Boolean).join(" "));
    }
    return undefined;
  }
}

/** Offer to make a list that was cancelled. */
function again(name) {
  const button = make("button", { type: "button" }, "Make it");
  button.addEventListener("click", () => open(name));
  byId("nothing").append(button);
}

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);

/** Open the list of a name. */
export async function open(name) {
  if (name === "all") {
    ++asked;
    return show("all", {}, Int32Array.from({ length: state.facts.count }, (_, row) => row));
  }
  if (name === "similar" && state.likes.length) return similar(state.likes, state.dislikes);
  if (name === "similar" && remade && under !== state.condition) return remade();
  if (name === "similar" && !kept.has(name) && focused() >= 0) return similar([focused()], []);
  if (name === "classifier" && !kept.has(name)) return train();
  if (name === "parts" && !kept.has(name)) return parts.open();
  if (kept.has(name)) {
    ++asked;
    return show(name, ...kept.get(name));
  }
  if (name === "selected" || name === "similar") {
    ++asked;
    return show(name, {}, new Int32Array());
  }
  const query = new URLSearchParams({ column: state.labels.column, accepted: state.accepted });
  if (state.condition) query.set("where", state.condition);
  const found = await made(name, `api/list/${name}?${query}`);
  if (found) show(name, found.head, found.rows);
  return undefined;
}

/** Open a list of the user's own making. */
export function hold(name, head, rows) {
  ++asked;
  kept.set(name, [head, rows]);
  return show(name, head, rows);
}

/** The rows of a list of the user's own making, or none. */
export const heldRows = (name) => kept.get(name)?.[1] ?? new Int32Array();

/** Find images like some, and unlike others. */
export async function similar(likes, dislikes) {
  if (!likes.length) return say(worded("A search needs an image to look for."));
  Object.assign(state, { likes, dislikes });
  remade = null;
  const where = state.condition || null;
  const found = await made("similar", "api/search", { key: state.facts.key, like: likes, dislike: dislikes, where });
  if (found) hold("similar", found.head, found.rows);
  return undefined;
}

/** Find images like the one in a file. */
export async function byFile(file) {
  if (!file) return;
  say(`Looking for the like of ${file.name}…`);
  const where = state.condition, query = where ? `?${new URLSearchParams({ where })}` : "";
  const found = await trying(() => ask(`api/search/file${query}`, file));
  if (!found) return;
  Object.assign(state, { likes: [], dislikes: [] });
  [remade, under] = [() => byFile(file), where];
  hold("similar", { ...found.head, lines: [file.name] }, found.rows);
}

/** Find what is like some words. */
export async function byWords(text) {
  if (!text) return;
  const where = state.condition;
  const found = await made("similar", "api/search/words", { text, where: where || null });
  if (!found) return;
  Object.assign(state, { likes: [], dislikes: [] });
  [remade, under] = [() => byWords(text), where];
  hold("similar", { ...found.head, lines: [text] }, found.rows);
}

/** Train a classifier on the labels, and show what it makes of the other images. */
export async function train() {
  const found = await made("classifier", "api/train", { column: state.labels.column, accepted: state.accepted });
  if (!found) return;
  const { accuracy, low, high, labels, classes, accepted, used } = found.head.facts;
  const percent = (share) => `${(100 * share).toFixed(1)} %`;
  const taken = accepted ? ` ${many(accepted, "accepted label")} ${accepted === 1 ? "is" : "are"} not measured on${used ? ", but learnt from" : ", nor learnt from"}.` : "";
  const line = `Accuracy ${percent(accuracy)} (95 % interval ${percent(low)} to ${percent(high)}) on labels given by people, `
    + `each of ${labels.toLocaleString("en")} held out in turn, of ${classes} classes.${taken} ${worded("Accept what it says of images you have looked at.")}`;
  say(`Accuracy ${percent(accuracy)} on held-out labels.`);
  hold("classifier", { ...found.head, lines: [line, ...found.head.lines] }, found.rows);
}

/** Find out which images a condition shows; those that are set aside only if it asks for them. */
async function meets(condition) {
  const found = condition ? await ask(`api/where?${new URLSearchParams({ where: condition })}`) : null;
  const some = state.aside.includes(1) && !condition.replaceAll(/'[^']*'/g, "").split(/\W+/).includes(state.facts.set_aside);
  state.condition = condition;
  state.shown = null;
  if (found || some) state.shown = new Uint8Array(state.facts.count).fill(found ? 0 : 1);
  for (const row of found?.rows ?? []) state.shown[row] = 1;
  if (some) state.aside.forEach((yes, row) => yes && (state.shown[row] = 0));
  byId("condition").value = condition;
  tell("shown");
  return found;
}

/** Show only the images that meet a condition; an empty one shows all. */
export async function where(condition, then = current) {
  const found = await trying(async () => (await meets(condition)) ?? true);
  if (!found) return;
  if (condition) say(`${many(found.rows.length)} meet${found.rows.length === 1 ? "s" : ""} the condition.`);
  await open(then);
}

/** Read which images are set aside. */
export async function start() {
  const tabs = byId("tabs");
  if (!state.facts.parts) TABS.splice(TABS.findIndex(([name]) => name === "parts"), 1);
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
  const column = state.facts.set_aside;
  state.aside = new Uint8Array(state.facts.count);
  if (state.facts.columns[column] !== "flag") return;
  const found = await trying(() => ask(`api/column/${column}`));
  const yes = found?.head.names.indexOf("true");
  found?.values.forEach((code, row) => (state.aside[row] = code >= 0 && code === yes ? 1 : 0));
  await trying(() => meets(state.condition));
}

/** Go to the next tab, or the last one. */
export function turn(by) {
  const at = TABS.findIndex(([name]) => name === current);
  open(TABS[(at + by + TABS.length) % TABS.length][0]);
}

on("labels", () => kept.delete("classifier"));
on("order", () => (++asked, show(...last)));
byId("lines").addEventListener("click", ({ currentTarget }) => currentTarget.classList.toggle("whole"));
on("aside", () => trying(() => meets(state.condition)));

/** Tell whether there is a list of a name. */
export const known = (name) => TABS.some(([tab]) => tab === name);
