/* Changes on their way to the store: kept in the browser until the server has them, also across a reload. */

import { ask, Away, Stale } from "./api.js";
import { byId, many, on, say, state, tell, worded } from "./state.js";

const BEAT = 15000; // milliseconds after which the changes of another tab count as left behind
const queue = []; // { path, body, after }: what to send, in order; nobody hears of what takes a change back
let sending = Promise.resolve(), away = "";

const prefix = () => `nearfar outbox ${state.facts.place} `;
sessionStorage.nearfarTab ??= Math.random().toString(36).slice(2);

/** The rows of changes that the store does not have yet, once the server is away. */
export const unsaved = new Set();
/** How many changes wait. */
export const waiting = () => queue.length;
/** Whether the server did not answer when last asked. */
export const isAway = () => Boolean(away);

function keep() {
  const name = prefix() + sessionStorage.nearfarTab;
  try {
    if (queue.length) localStorage[name] = JSON.stringify({ beat: Date.now(), queue: queue.map(({ path, body, after }) => ({ path, body, quiet: !after })) });
    else localStorage.removeItem(name);
  } catch {
    if (away) say("The browser has no room for these changes; leave this page open until the server is back.", true);
  }
}

function show() {
  unsaved.clear();
  if (away) for (const { body } of queue) for (const row of body.rows) unsaved.add(row);
  const count = (state.unsaved = unsaved.size);
  byId("unsaved").hidden = !count;
  byId("unsaved").textContent = count ? `${many(count)} not saved yet` : "";
  tell("unsaved");
}

/** Send a change; `after` hears what the server said of it. */
export function send(path, body, after) {
  queue.push({ path, body, after });
  keep();
  return pump();
}

/** Take back the last change that was not sent; undefined if all were. */
export function recall() {
  const last = away ? queue.pop() : undefined;
  keep();
  show();
  return last?.body;
}

/** Send what waits, in order, until the server does not answer. */
export function pump() {
  sending = sending.then(work);
  return sending;
}

async function work() {
  const was = away;
  let lost = false; // whether a change was refused
  while (queue.length) {
    const { path, body, after } = queue[0];
    try {
      const told = await ask(path, body);
      away = "";
      queue.shift();
      keep();
      after?.(told, body);
    } catch (error) {
      if (error instanceof Away) {
        if (!away) say(`${error.message} Your changes are kept in this browser, and saved once it is back.`, true);
        away = error.message;
        break;
      }
      away = "";
      lost = true;
      queue.shift(); // it would be refused again
      keep();
      if (error instanceof Stale) say(worded(`Images were added or deleted, so ${body.rows.length === 1 ? "a change" : "changes"} made before could not be saved.`), true);
      else say(error.message, true);
      tell("refused");
    }
  }
  if (was && !away && !lost) say("The server is back, and all changes are saved.");
  show();
}

/** Find changes that were not saved before the page was left, here or in a tab that is gone; and send them. */
export async function start(after) {
  for (const name of Object.keys(localStorage).filter((key) => key.startsWith(prefix()))) {
    const mine = name === prefix() + sessionStorage.nearfarTab;
    try {
      const { beat, queue: kept } = JSON.parse(localStorage[name]);
      if (!mine && Date.now() - beat < BEAT) continue;
      queue.push(...kept.map(({ path, body, quiet }) => ({ path, body, after: quiet ? undefined : after })));
    } catch { /* not ours */ }
    if (!mine) localStorage.removeItem(name);
  }
  if (!queue.length) return;
  const count = queue.length;
  keep();
  await pump();
  if (!queue.length) say(`${count === 1 ? "A change that was" : `${count} changes that were`} not saved before ${count === 1 ? "is" : "are"} saved now.`);
}

/** The server answered, or did not. */
export function heard(error) {
  if (error) {
    if (!away) say(queue.length ? `${error.message} Your changes are kept in this browser.` : error.message, true);
    away = error.message;
    if (queue.length) keep(); // still alive
    return show();
  }
  const was = away;
  if (queue.length) return pump(); // which says what came of it
  away = "";
  if (was) say("The server is back.");
  return show();
}

on("list", show);
