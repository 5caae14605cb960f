/* What the page knows, in one place, and who wants to hear when it changes. */

export const state = {
  facts: null, // name, count, version, key, columns
  list: { name: "all", title: "", lines: [], grouped: "", columns: {}, rows: new Int32Array() },
  condition: "", // typed, or made of facets
  shown: null, // Uint8Array, 1 where the condition holds and nothing is set aside; null where that is so everywhere
  aside: new Uint8Array(), // 1 where an image is set aside
  accepted: false, // whether labels accepted from a classifier count
  order: "", // column by which lists are ordered, after "-" if downwards
  table: false, // whether lists are shown as tables
  confirmed: new Set(), // rows whose label a person called right
  at: 0, // place in the list that has the focus
  chosen: new Set(), // rows
  labels: { column: "label", names: [], values: new Int32Array() },
  unsaved: 0, // images with changes that wait for the server
  likes: [], // rows
  dislikes: [],
};

const hearers = new Map();

/** Call `work` whenever something changes: "list", "focus", "chosen", "labels", "shown", "aside" or "cells". */
export function on(what, work) {
  for (const word of what.split(" ")) hearers.set(word, [...(hearers.get(word) ?? []), work]);
}

export function tell(what) {
  for (const work of hearers.get(what) ?? []) work();
}

/** The row in focus, or -1. */
export const focused = () => state.list.rows[state.at] ?? -1;

/** What keys and buttons act on: the chosen images, or else the one in focus. */
export const meant = () => (state.chosen.size ? [...state.chosen] : focused() < 0 ? [] : [focused()]);

export const labelOf = (row) => state.labels.names[state.labels.values[row]] ?? null;

let clearing;
/** Tell the user something, on the screen and by voice. */
export function say(text, bad = false) {
  const place = document.getElementById("status");
  const home = document.querySelector("dialog[open]") ?? document.getElementById("stage"); // where it covers no button
  if (place.parentNode !== home) home.append(place);
  place.textContent = text;
  place.className = bad ? "there bad" : "there";
  clearTimeout(clearing);
  clearing = setTimeout(() => (place.className = ""), bad ? 9000 : 5000);
}

/** Run something that asks the server; a refusal is shown, not thrown. */
export async function trying(work) {
  try {
    return await work();
  } catch (error) {
    if (!(error.away && state.unsaved)) say(error.message, true); // that changes wait is said already
    return undefined;
  }
}

/** Make an element: its class and attributes, and what is in it. Text is text, whatever it holds. */
export function make(tag, attributes = {}, ...inside) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name in element && typeof value !== "string") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...inside);
  return element;
}

export const byId = (id) => document.getElementById(id);

const TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)$/; // as the store writes when a label was given
/** Write a value of a column; a time as it is here, to the minute. */
export const word = (value) => (TIME.test(value) ? new Date(value).toLocaleString("sv").slice(0, 16) : plain(value));
const plain = (value) => (typeof value === "number" ? String(Number(value.toPrecision(4))) : value === true ? "yes" : value === false ? "no" : String(value ?? "–"));

/** The word for one of what the store holds: "image", "clip", "text". */
export const one = () => state.facts?.one ?? "image";

/** Say of clips or texts what is written of images. */
export function worded(text) {
  if (one() === "image") return text;
  const like = (written, word) => (/^[A-Z]/.test(written) ? word.charAt(0).toUpperCase() + word.slice(1) : word);
  return text.replace(/\ban image\b/gi, (an) => like(an, `a ${one()}`)).replace(/\bimage(?=s?\b)/gi, (image) => like(image, one()));
}

/** Write a count: "1 image", "2,000 images". */
export const many = (count, what = one()) => `${count.toLocaleString("en")} ${what}${count === 1 ? "" : "s"}`;

const MOST_CHANGED = 100000; // images that the server changes at once; see requests.py
/** Whether there are more images than can be changed at once, which is said then. */
export function tooMany(rows) {
  if (rows.length > MOST_CHANGED) say(worded(`At most ${MOST_CHANGED.toLocaleString("en")} images are changed at once; choose fewer, such as by a condition.`), true);
  return rows.length > MOST_CHANGED;
}

/** Ask the user before something large is done; resolves to whether to do it. */
export function asked(question, text, yes) {
  const dialog = byId("sure");
  byId("sure-title").textContent = question;
  byId("sure-text").textContent = text;
  byId("sure-yes").textContent = yes;
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((done) => dialog.addEventListener("close", () => done(dialog.returnValue === "yes"), { once: true }));
}
