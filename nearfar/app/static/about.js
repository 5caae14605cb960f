/* The image in focus: its picture, what is known of it, and the examples of a search. */

import { ask } from "./api.js";
import { cell, want } from "./cells.js";
import { similar } from "./lists.js";
import { byId, focused, labelOf, make, on, one, say, state, trying, word, worded } from "./state.js";

const HIDDEN = new Set(["id", "path", "digest", "boxes", "mask", "mask_digest", "bytes", "width", "height", "map_x", "map_y"]);
const LISTED = 8; // columns of the store that are shown

function draw() {
  const row = focused(), known = cell(row);
  byId("about").hidden = row < 0;
  byId("heat").hidden = state.facts.modality !== "images";
  if (row < 0) return;
  if (!known) {
    byId("which").textContent = "…"; // rather than the name of another
    return want([row]);
  }
  const [picture] = byId("large").children;
  if (picture.getAttribute("src") !== known.url) picture.src = known.url;
  picture.classList.toggle("small", Math.max(known.row.width ?? Infinity, known.row.height ?? Infinity) <= 64);
  picture.alt = known.row.id;
  byId("which").textContent = known.row.id;
  const facts = [[state.labels.column, labelOf(row) ?? "none"]];
  if (known.row.width) facts.push(["size", `${known.row.width} × ${known.row.height}`]);
  for (const [name, values] of Object.entries(state.list.columns)) {
    if (name !== state.labels.column && name !== "turn" && name !== "label") facts.push([name, word(values[state.at])]);
  }
  for (const [name, value] of Object.entries(known.row)) {
    if (!HIDDEN.has(name) && !/_before$/.test(name) && name !== state.labels.column && value !== null) facts.push([name, word(value)]);
  }
  byId("facts").replaceChildren(...facts.slice(0, LISTED).map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
}

/** Search by the image in focus as one more example to be near to, or far from. */
export function example(kind) {
  const row = focused();
  if (row < 0) return;
  const without = (rows) => rows.filter((other) => other !== row);
  const likes = without(state.likes), dislikes = without(state.dislikes);
  (kind === "like" ? likes : dislikes).push(row);
  similar(likes, dislikes);
}

/** Show where the image in focus is anomalous. */
export async function heat() {
  const row = focused(), known = cell(row);
  if (!known) return;
  if (state.facts.modality !== "images") return say("Heat maps are made of images alone.");
  say(worded("Comparing its parts with those of other images…"));
  const found = await trying(() => ask(`api/heat/${row}?key=${state.facts.key}`));
  if (!found) return;
  const picture = byId("heat-map");
  URL.revokeObjectURL(picture.src);
  picture.src = URL.createObjectURL(found);
  picture.alt = `${known.row.id}, and beside it where it is anomalous`;
  byId("heat-name").textContent = known.row.id;
  byId("heat-dialog").showModal();
}

function examples() {
  const chip = (row, kind) => {
    const picture = make("img", { alt: "" }), known = cell(row);
    if (known) picture.src = known.url;
    else want([row]);
    const name = known?.row.id ?? `${one()} ${row + 1}`;
    const button = make("button", { type: "button", class: `example ${kind}`, "aria-label": `No longer ${kind} ${name}`, title: name }, picture, make("span", {}, kind === "like" ? "+" : "−"));
    button.addEventListener("click", () => similar(state.likes.filter((other) => other !== row), state.dislikes.filter((other) => other !== row)));
    return button;
  };
  byId("examples").replaceChildren(...state.likes.map((row) => chip(row, "like")), ...state.dislikes.map((row) => chip(row, "dislike")));
}

on("focus labels cells aside", draw);
on("list cells", () => state.list.name === "similar" && examples());
