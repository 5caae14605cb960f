/* What is shown, kept in the address: it can be shared and bookmarked, and the back button goes back. */

import * as colours from "./colours.js";
import * as lists from "./lists.js";
import { on, state, tell } from "./state.js";

const MOST = 300; // rows that an address names
let applying = true, last = "";

/** Write what is shown; what is as at the start is left out. */
function written() {
  const found = new URLSearchParams(), { name } = state.list;
  if (name !== "all") found.set("list", name);
  if (state.condition) found.set("where", state.condition);
  if (state.order) found.set("order", state.order);
  if (state.table) found.set("view", "table");
  if (colours.chosenColour()) found.set("colour", colours.chosenColour());
  const rows = { like: name === "similar" ? state.likes : [], dislike: name === "similar" ? state.dislikes : [] };
  rows.selected = name === "selected" ? [...lists.heldRows(name)] : [];
  rows.chosen = [...state.chosen];
  for (const [word, some] of Object.entries(rows)) if (some.length && some.length <= MOST) found.set(word, some.join(","));
  if (["like", "dislike", "selected", "chosen"].some((word) => found.has(word))) found.set("key", state.facts.key);
  return found.toString();
}

function note(push) {
  if (applying) return;
  const now = written();
  if (now === last) return;
  last = now;
  const address = now ? `#${now}` : location.pathname + location.search;
  if (push) history.pushState(null, "", address);
  else history.replaceState(null, "", address);
}

/** Show what the address says. */
async function apply() {
  applying = true;
  last = location.hash.slice(1);
  const asked = new URLSearchParams(last);
  // Numbers of rows hold as long as the store's key does.
  const rows = (word) => (asked.get("key") === state.facts.key ? (asked.get(word) ?? "").split(",").filter((text) => /^\d+$/.test(text)).map(Number).filter((row) => row < state.facts.count) : []);
  Object.assign(state, { order: asked.get("order") ?? "", table: asked.get("view") === "table" });
  tell("view");
  const name = asked.get("list") ?? "all", condition = asked.get("where") ?? "";
  await colours.choose(asked.get("colour") ?? "");
  Object.assign(state, { likes: rows("like"), dislikes: rows("dislike") });
  if (condition !== state.condition) await lists.where(condition, "all");
  const selected = rows("selected");
  if (name === "selected" && selected.length) await lists.hold(name, { title: "selected" }, Int32Array.from(selected));
  else await lists.open(lists.known(name) ? name : "all");
  for (const row of rows("chosen")) state.chosen.add(row);
  tell("chosen");
  applying = false;
}

/** Take over the address, and follow it from now on. */
export async function start() {
  const url = new URL(location.href);
  url.searchParams.delete("token"); // it stays out of sight and out of bookmarks
  history.replaceState(null, "", url.pathname + url.search + url.hash);
  await apply();
  addEventListener("popstate", apply);
}

on("list colour view", () => note(true));
on("chosen", () => note(false));
