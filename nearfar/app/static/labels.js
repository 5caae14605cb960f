/* Labels: set with one key, undone with another, saved at once; and told when another hand was there too. */

import { ask, Away } from "./api.js";
import { cell, forget } from "./cells.js";
import { go } from "./grid.js";
import * as outbox from "./outbox.js";
import { asked, byId, focused, labelOf, many, meant, on, say, state, tell, tooMany, trying, worded } from "./state.js";

const EVERY = 3000; // milliseconds between two looks at the store
const MANY = 100; // images from which a change is asked about; the server accepts as many proposals at once
let seen = 0; // the store's version that this page knows

const stack = () => JSON.parse(sessionStorage[`nearfar undo ${state.facts.place}`] ?? "[]");
function keepStack(done) {
  for (let kept = done.slice(-50); ; kept = kept.slice(1)) {
    try {
      sessionStorage[`nearfar undo ${state.facts.place}`] = JSON.stringify(kept);
      return;
    } catch (error) { // there is no room, so the oldest change can no longer be undone
      if (!kept.length) throw error;
    }
  }
}
const done = (what) => keepStack([...stack(), what]);
export const by = () => localStorage.nearfarName?.slice(0, 60) ?? "";

/** Read the labels of all images. */
export async function load() {
  const { column } = state.labels;
  seen = state.facts.version;
  if (!(column in state.facts.columns)) {
    Object.assign(state.labels, { names: [], values: new Int32Array(state.facts.count).fill(-1) });
  } else {
    const found = await trying(() => ask(`api/column/${encodeURIComponent(column)}`));
    if (!found) return;
    Object.assign(state.labels, { names: found.head.names, values: found.values });
    seen = found.head.version;
  }
  tell("labels");
}

/** The names of images, where all are known: by these they are found even if their numbers become void. */
function idsOf(rows) {
  const ids = rows.map((row) => cell(row)?.row.id);
  return ids.includes(undefined) ? null : ids;
}

/** Label images; null takes their label away. Asks first if there are many. */
export async function label(rows, names, origin = "hand") {
  if (!rows.length || tooMany(rows)) return false;
  const before = rows.map(labelOf), replaced = before.filter((name, at) => name !== null && name !== names[at]).length;
  const what = new Set(names).size === 1 ? (names[0] === null ? "no label" : `the label ${names[0]}`) : "several labels";
  if (rows.length > MANY && !(await asked(`Give ${many(rows.length)} ${what}?`, `${many(replaced, "label")} of theirs would be replaced. u takes it back.`, `Label ${many(rows.length)}`))) return false;
  keep(rows, names);
  const body = { key: state.facts.key, version: seen, column: state.labels.column, rows, ids: idsOf(rows), before, after: names, origin, by: by() };
  outbox.send("api/labels", body, saved);
  say(`${many(rows.length)}: ${what}${outbox.isAway() ? ", not saved yet" : ""}`);
  return true;
}

/** Take note of what the server said of a change: of another column than the labels, what was there before. */
function saved(told, { key, column: other, rows, before, after }) {
  // What is already as it was to become may have been sent twice, since the answer was lost.
  const was = told.before?.map((value, at) => (value === after[at] && before[at] !== null ? before[at] : value));
  if (was) done({ column: other, rows, before: new Set(was).size === 1 ? was[0] : was, key });
  if (!told.at) return;
  const { column, names } = state.labels;
  seen = told.version;
  state.facts.columns[column] ??= "text";
  done({ at: told.at });
  if (told.replaced.length) say(`Another hand had labelled ${told.replaced.length} of these meanwhile; your labels replaced theirs.`, true);
  if (told.gone) say(`${many(told.gone)} of these are no longer in the store.`, true);
  if (told.classes.some((name, at) => names[at] !== name)) load(); // another hand added a class first
}

/** Give all images that are meant one label, and go on to the next. */
export async function give(name) {
  const rows = meant(), one = !state.chosen.size;
  if (await label(rows, rows.map(() => name))) next(one);
}

/** After a change of the image in focus go on to the next; after one of those chosen, choose none. */
export function next(one) {
  if (one) return go(state.at + 1);
  state.chosen.clear();
  return tell("chosen");
}

export const proposals = () => state.list.columns.suggested ?? state.list.columns.class;

/** Accept what the list proposes for the images that are meant. */
export async function accept() {
  const proposed = proposals();
  if (!proposed) return say("This list proposes no labels.");
  const place = new Map([...state.list.rows].map((row, at) => [row, at]));
  const rows = meant().filter((row) => place.has(row)), one = !state.chosen.size;
  if (rows.length > MANY) return say(worded(`At most ${MANY} proposals are accepted at once; look at fewer images, and choose them.`), true);
  const origin = state.list.name === "classifier" ? "accepted prediction" : "accepted suggestion";
  if (await label(rows, rows.map((row) => proposed[place.get(row)]), origin)) next(one);
}

/** Say that the labels of the images that are meant are right: a person looked at them. */
export async function confirm() {
  const rows = meant().filter((row) => labelOf(row) !== null), one = !state.chosen.size;
  if (!rows.length) return say("There is no label to confirm.");
  if (!(await label(rows, rows.map(labelOf)))) return undefined;
  for (const row of rows) state.confirmed.add(row);
  tell("labels");
  return next(one);
}

/** Set another column: a tag, or whether images are set aside. */
export async function set(column, rows, after, before) {
  if (!rows.length) return;
  outbox.send("api/set", { key: state.facts.key, column, rows, ids: idsOf(rows), before, after }, saved);
  state.facts.columns[column] ??= typeof after[0] === "boolean" ? "flag" : "text";
  forget(rows, column, after);
}

/** Take back what was changed last, also before the page was loaded. */
export async function undo() {
  const waiting = outbox.recall();
  if (waiting) {
    if (waiting.column === state.labels.column) keep(waiting.rows, waiting.before);
    else restored(waiting);
    return say(`Taken back: a change of ${many(waiting.rows.length)} that was not saved yet.`);
  }
  await outbox.pump();
  const left = stack(), last = left.pop();
  keepStack(left);
  if (last?.column) {
    if (last.key !== state.facts.key) return undo();
    const { before } = last;
    if (!Array.isArray(before)) last.before = last.rows.map(() => before);
    outbox.send("api/set", { key: last.key, column: last.column, rows: last.rows, before: last.before, after: last.before });
    restored(last);
    return say(`Undone: ${last.column.replace("_", " ")} of ${many(last.rows.length)}`);
  }
  try {
    const told = await ask("api/undo", { column: state.labels.column, at: last?.at ?? null, by: by() });
    if (told.labels.length) {
      seen = told.version;
      keep(told.labels.map(([row]) => row), told.labels.map(([, name]) => name));
      const when = last ? "" : ` of ${new Date(told.at).toLocaleString("en")}${told.by ? ` by ${told.by}` : ""}`;
      return say(`Undone: ${many(told.labels.length, "label")}${when}`);
    }
    return last ? undo() : say("Nothing to undo.");
  } catch (error) {
    if (last) done(last);
    return say(error instanceof Away ? `${error.message} Nothing was undone.` : error.message, true);
  }
}

function restored({ column, rows, before }) {
  forget(rows, column, before);
  if (column === state.facts.set_aside) rows.forEach((row, at) => (state.aside[row] = before[at] ? 1 : 0));
  tell(column === state.facts.set_aside ? "aside" : "cells");
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
/** Say how many images there are, and how many are to come. */
export function about(filling) {
  byId("count").textContent = filling ? `${many(filling.done)} of ${filling.total.toLocaleString("en")}: ${filling.error ?? "the others are being embedded"}` : many(state.facts.count);
}

async function look() {
  if (document.hidden) return;
  await outbox.pump();
  let now;
  try {
    now = await ask("api/version");
  } catch (error) {
    return outbox.heard(error);
  }
  outbox.heard();
  await outbox.pump();
  if (outbox.waiting()) return undefined;
  about(now.filling);
  const busy = now.filling && (state.chosen.size || document.querySelector("dialog[open]"));
  if (!busy && (now.key !== state.facts.key || !now.filling !== !state.facts.filling)) return location.reload();
  if (now.key !== state.facts.key) return undefined;
  if (now.version === seen) return undefined;
  const old = state.labels.values.slice(), words = state.labels.names.slice();
  await load();
  let count = 0;
  old.forEach((code, row) => (count += (words[code] ?? null) !== labelOf(row)));
  if (count) say(`Another hand changed ${many(count, "label")}.`);
}

/** Watch the store, and send what was not saved before the page was loaded. */
export async function start() {
  await outbox.start(saved);
  await load();
  setInterval(look, EVERY);
}

on("refused", load); // what the page shows is what the store holds
