/* Thumbnails and facts of images, fetched when they come into sight, in batches. */

import { ask } from "./api.js";
import { state, tell, trying } from "./state.js";

const KEPT = 4000, BATCH = 120;
const kept = new Map(); // row -> { url, picture, row }; the oldest first
let wanted = [];
let busy = false;

/** Give what is known of a row, or undefined; `want` it to know it later. */
export const cell = (row) => kept.get(row);

/** Ask for rows; the newest wish comes first, and "cells" is told when something arrived. */
export function want(rows) {
  const missing = rows.filter((row) => row >= 0 && !kept.has(row));
  if (!missing.length) return;
  wanted = [...new Set([...missing, ...wanted])].slice(0, 4 * BATCH);
  if (!busy) setTimeout(work, 30);
}

async function work() {
  if (busy || !wanted.length) return;
  busy = true;
  const rows = wanted.filter((row) => !kept.has(row)).slice(0, BATCH);
  wanted = wanted.slice(BATCH);
  const done = !rows.length || (await trying(() => fetched(rows)));
  busy = false;
  if (!done) return void (wanted = []); // asked again when the grid moves
  tell("cells");
  if (wanted.length) setTimeout(work, 0);
}

async function fetched(rows) {
  const { head, sizes, bytes } = await ask(`api/cells?at=${rows.join(",")}&key=${state.facts.key}`);
  let at = 0;
  rows.forEach((row, place) => {
    const data = bytes.subarray(at, (at += sizes[place]));
    // Made in the page itself: a blob's address takes a millisecond, and 120 of them as many dropped frames.
    const url = `data:image/jpeg;base64,${btoa(String.fromCharCode(...data))}`;
    const picture = new Image();
    picture.src = url;
    picture.decode?.().then(() => tell("picture"), () => {});
    kept.set(row, { url, picture, row: head.rows[place] });
  });
  for (const row of kept.keys()) {
    if (kept.size <= KEPT) break;
    kept.delete(row);
  }
  return true;
}

/** Forget the facts of rows whose columns have changed. */
export function forget(rows, column, values) {
  rows.forEach((row, place) => {
    const known = kept.get(row);
    if (known) known.row[column] = values[place];
  });
}
