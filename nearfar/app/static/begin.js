/* The first line on a store without labels: what there is to look at, and where to begin. */

import { open, openList, unlabelled } from "./lists.js";
import { byId, make, on, state, worded } from "./state.js";
import { watched } from "./work.js";

const MOST = 20000; // images up to which it is counted without being asked
const FENCE = 3; // interquartile ranges above the third quartile from which a score is strange (Tukey 1977)
let started = false, asking = false, refused = false, known = null; // { key, copies, strange }

/** Whether the first line is to say where to begin. */
const wanted = () => started && openList() === "all" && !state.condition && !state.facts.filling && unlabelled();

/** Count scores that are far above most. */
function above(scores) {
  const sorted = Float32Array.from(scores).sort(), at = (share) => sorted[Math.floor(share * (sorted.length - 1))];
  const level = at(0.75) + FENCE * (at(0.75) - at(0.25));
  return sorted.length - sorted.findLastIndex((score) => score <= level) - 1;
}

async function counted() {
  const found = (path) => watched(byId("begin-work"), path, undefined, { live: wanted });
  const query = new URLSearchParams({ column: state.labels.column, accepted: state.accepted });
  const { head } = await found(`api/list/duplicates?${query}`);
  const { values } = await found("api/anomaly-score");
  return { key: state.facts.key, copies: head.columns.keep.filter((keep) => !keep).length, strange: above(values) };
}

function draw() {
  const link = (text, list, title) => {
    const button = make("button", { type: "button", title: worded(title) }, text);
    button.addEventListener("click", () => open(list));
    return button;
  };
  const count = (number) => (number ? number.toLocaleString("en") : "no");
  byId("lines").replaceChildren(
    link(`${count(known.copies)} near-${known.copies === 1 ? "copy" : "copies"}`, "duplicates", "Images that another one is to be kept for"), ", ",
    link(`${count(known.strange)} strange`, "anomalies", "Images whose anomaly score is far above that of most"), ", ",
    link("no labels", "suggestions", "Images to label next"), ": begin here.",
  );
}

async function look() {
  if (asking || refused || !wanted() || state.facts.count > MOST) return;
  asking = true;
  try {
    if (known?.key !== state.facts.key) known = await counted();
  } catch { // the line as it is says where to begin
    refused = wanted(); // it was cancelled, or cannot be
  }
  asking = false;
  if (known?.key === state.facts.key && wanted()) draw();
}

/** Begin, once the map is on its way. */
export function start() {
  started = true;
  return look();
}

on("list", look);
on("labels", () => openList() === "all" && !unlabelled() && byId("lines").replaceChildren());
