/* Starts the page, and joins keys and buttons to what they do. */

import * as about from "./about.js";
import { ask } from "./api.js";
import * as colours from "./colours.js";
import * as grid from "./grid.js";
import * as labels from "./labels.js";
import * as lists from "./lists.js";
import * as map from "./map.js";
import { byId, focused, make, on, say, state, tell, trying } from "./state.js";

history.replaceState(null, "", "/"); // the token stays out of sight and out of bookmarks

function all() {
  for (const row of state.list.rows) state.chosen.add(row);
  tell("chosen");
}

function none() {
  state.chosen.clear();
  tell("chosen");
}

const gather = () => state.chosen.size && lists.hold("selected", { title: "chosen" }, Int32Array.from(state.chosen).sort());

// key, what it does, how it is told; arrows and the like have Shift to choose on the way
const KEYS = [
  ["ArrowRight", (extend) => grid.go(state.at + 1, extend), "→ ←", "next and previous image; with Shift, choose"],
  ["ArrowLeft", (extend) => grid.go(state.at - 1, extend)],
  ["ArrowDown", (extend) => grid.lines(1, extend), "↓ ↑", "next and previous line"],
  ["ArrowUp", (extend) => grid.lines(-1, extend)],
  ["PageDown", (extend) => grid.lines(grid.page(), extend)],
  ["PageUp", (extend) => grid.lines(-grid.page(), extend)],
  ["Home", (extend) => grid.go(0, extend)],
  ["End", (extend) => grid.go(state.list.rows.length - 1, extend)],
  [" ", grid.toggle, "Space", "choose the image, or no longer"],
  ["Enter", gather, "Enter", "show the chosen images alone"],
  ["Escape", none, "Esc", "choose none"],
  ["1 … 9", null, "1 … 9", "give the chosen images, or the one in focus, a label"],
  ["0", () => labels.give(null), "0", "take the label away"],
  ["l", () => byId("new-label").focus(), "l", "type another label"],
  ["a", labels.accept, "a", "accept the label that the list proposes"],
  ["u", labels.undo, "u", "undo the last labels"],
  ["n", () => focused() >= 0 && lists.similar([focused()], []), "n", "images like this one"],
  ["+", () => about.example("like"), "+ −", "search more like this, less like this"],
  ["-", () => about.example("dislike")],
  ["h", about.heat, "h", "where the image is anomalous"],
  ["]", () => lists.turn(1), "] [", "next and previous list"],
  ["[", () => lists.turn(-1)],
  ["m", () => map.drag("pan"), "m s", "on the map: move, or select with the lasso"],
  ["s", () => map.drag("lasso")],
  ["i", () => map.zoom(0.6), "i o f", "zoom in, out, fit"],
  ["o", () => map.zoom(1 / 0.6)],
  ["f", map.fit],
  ["p", map.toggle, "p", "pictures on the map"],
  ["/", () => byId("condition").focus(), "/", "type a condition"],
  ["?", () => byId("help").showModal(), "?", "this help"],
];
const does = new Map(KEYS.map(([key, work]) => [key, work]));

addEventListener("keydown", (event) => {
  const typing = event.target.closest?.("input, select, textarea, dialog");
  if (typing) return event.key === "Escape" && !event.target.closest("dialog") ? byId("grid").focus() : undefined;
  if ((event.ctrlKey || event.metaKey) && !event.altKey) {
    if (event.key === "z") labels.undo();
    else if (event.key === "a") all();
    else return undefined;
    return event.preventDefault();
  }
  if (event.altKey) return undefined;
  const pressing = event.target.closest?.("button, a, summary") && [" ", "Enter"].includes(event.key);
  if (pressing) return undefined;
  if (/^[1-9]$/.test(event.key)) {
    const name = state.labels.names[Number(event.key) - 1];
    return name === undefined ? say(`There is no label ${event.key} yet; press l and type one.`) : labels.give(name);
  }
  const work = does.get(event.key);
  if (!work) return undefined;
  event.preventDefault();
  return work(event.shiftKey && /Arrow|Page|Home|End/.test(event.key));
});

const press = (id, work) => byId(id).addEventListener("click", work);
press("pan", () => map.drag("pan"));
press("lasso", () => map.drag("lasso"));
press("in", () => map.zoom(0.6));
press("out", () => map.zoom(1 / 0.6));
press("fit", map.fit);
press("pictures", map.toggle);
press("similar", () => lists.similar([focused()], []));
press("like", () => about.example("like"));
press("dislike", () => about.example("dislike"));
press("heat", about.heat);
press("file-button", () => byId("file").click());
press("train", () => ((byId("more").open = false), lists.train()));
press("help-button", () => ((byId("more").open = false), byId("help").showModal()));
byId("file").addEventListener("change", ({ target }) => {
  lists.byFile(target.files[0]);
  target.value = "";
});
byId("where").addEventListener("submit", (event) => {
  event.preventDefault();
  lists.where(byId("condition").value.trim());
});
byId("condition").addEventListener("search", ({ target }) => !target.value && state.shown && lists.where(""));
addEventListener("click", (event) => event.target.closest("#more") || (byId("more").open = false));

let inside = 0; // elements deep that a dragged file is
addEventListener("dragenter", () => (byId("drop").hidden = !++inside));
addEventListener("dragleave", () => (byId("drop").hidden = !--inside));
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  inside = 0;
  byId("drop").hidden = true;
  lists.byFile(event.dataTransfer.files[0]);
});

byId("keys").replaceChildren(...KEYS.filter(([, , shown]) => shown).flatMap(([, , shown, text]) => [make("dt", {}, make("kbd", {}, shown)), make("dd", {}, text)]));
on("colours", map.recolour);

async function begin() {
  state.facts = await trying(() => ask("/api/store"));
  if (!state.facts) return;
  state.labels.column = state.facts.labels;
  document.title = `${state.facts.name} · nearfar`;
  byId("name").textContent = state.facts.name;
  byId("count").textContent = `${state.facts.count.toLocaleString("en")} images`;
  labels.start();
  lists.start();
  await labels.load();
  colours.offer();
  lists.open("all");
  byId("grid").focus({ preventScroll: true });
  await map.start({
    pick: (row) => lists.similar([row], []),
    lasso: (rows) => lists.hold("selected", { title: "selected on the map" }, Int32Array.from(rows)),
  });
  document.body.dataset.ready = "yes";
}

begin();
