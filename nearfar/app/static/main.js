/* Starts the page, and joins keys and buttons to what they do. */

import * as about from "./about.js";
import * as address from "./address.js";
import { ask } from "./api.js";
import { start as count } from "./begin.js";
import * as chosen from "./chosen.js";
import * as colours from "./colours.js";
import "./facets.js";
import * as grid from "./grid.js";
import * as labelbar from "./labelbar.js";
import * as labels from "./labels.js";
import * as lists from "./lists.js";
import * as map from "./map.js";
import * as order from "./order.js";
import * as parts from "./parts.js";
import * as photo from "./photo.js";
import * as ranking from "./ranking.js";
import * as saved from "./saved.js";
import { byId, focused, make, on, one, state, tell, trying, worded } from "./state.js";

function all() {
  for (const row of state.list.rows) state.chosen.add(row);
  tell("chosen");
}

function none() {
  state.chosen.clear();
  tell("chosen");
}

const gather = () => state.chosen.size && lists.hold("selected", { title: "chosen" }, Int32Array.from(state.chosen).sort());

function help() {
  byId("help").showModal();
  byId("help").scrollTop = 0; // the button that has the focus is its end
}

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
  ["v", photo.open, "v", "the image in full; + - zoom, f fits, o hides boxes and masks, y tells why another is near, Esc closes"],
  ["Enter", gather, "Enter", "show the chosen images alone"],
  ["Escape", none, "Esc", "choose none"],
  ["1 … 9", null, "1 … 9", "give the chosen images, or the one in focus, a label"],
  [". 1 0", null, ". 1 0", "the label of the tenth class and so on: a point and two digits"],
  ["0", () => labels.give(null), "0", "take the label away"],
  ["l", () => byId("new-label").focus(), "l", "type another label"],
  ["a", labels.accept, "a", "accept the label that the list proposes"],
  ["r", labels.confirm, "r", "the label is right"],
  ["x", chosen.setAside, "x", "set aside, or take back"],
  ["t", chosen.askTag, "t", "tag"],
  ["c", chosen.copies, "c", "choose all copies but the ones to keep"],
  ["k", saved.askName, "k", "keep the chosen images as a selection, under a name"],
  ["g", () => order.view(!state.table), "g", "as a table, or as pictures"],
  ["u", labels.undo, "u", "undo the last change"],
  ["n", () => focused() >= 0 && lists.similar([focused()], []), "n", "images like this one"],
  ["+", () => about.example("like"), "+ −", "search more like this, less like this"],
  ["-", () => about.example("dislike")],
  ["h", about.heat, "h", "where the image is anomalous"],
  ["b", parts.normal, "b", "in the list of anomalous parts: this is normal, add it to the bank"],
  ["]", () => lists.turn(1), "] [", "next and previous list"],
  ["[", () => lists.turn(-1)],
  ["m", () => map.drag("pan"), "m s", "on the map: move, or select with the lasso"],
  ["s", () => map.drag("lasso")],
  ["i", () => map.zoom(0.6), "i o f", "zoom in, out, fit"],
  ["o", () => map.zoom(1 / 0.6)],
  ["f", map.fit],
  ["p", map.toggle, "p", "pictures on the map"],
  ["/", () => byId("condition").focus(), "/", "type a condition"],
  ["?", help, "?", "this help"],
];
const does = new Map(KEYS.map(([key, work]) => [key, work]));

addEventListener("keydown", (event) => {
  const menu = event.key === "Escape" && document.querySelector("header details[open]");
  if (menu) {
    menu.open = false;
    return byId("grid").focus();
  }
  const typing = event.target.closest?.("input, select, textarea, dialog:not(#photo)");
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
  if (photo.isOpen() && event.key !== "Escape" && photo.typed(event.key)) return event.preventDefault();
  if (photo.isOpen() && event.key === "Escape") return undefined;
  if (labelbar.typed(event.key)) return undefined;
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
press("large", photo.open);
byId("grid").addEventListener("dblclick", (event) => event.target.closest(".cell") && photo.open());
byId("who").addEventListener("change", ({ target }) => (localStorage.nearfarName = target.value.trim()));
byId("count-accepted").addEventListener("change", ({ target }) => {
  state.accepted = target.checked;
  if (lists.openList() === "classifier") lists.train();
  else lists.open(lists.openList());
});
press("train", () => ((byId("more").open = false), lists.train()));
press("help-button", () => ((byId("more").open = false), help()));
press("alone", gather);
byId("file").addEventListener("change", ({ target }) => {
  lists.byFile(target.files[0]);
  target.value = "";
});
byId("by-words").addEventListener("submit", (event) => {
  event.preventDefault();
  lists.byWords(byId("words").value.trim());
});
byId("where").addEventListener("submit", (event) => {
  event.preventDefault();
  lists.where(byId("condition").value.trim());
});
byId("condition").addEventListener("search", ({ target }) => !target.value && state.shown && lists.where(""));
for (const id of ["more", "facets"]) addEventListener("click", (event) => event.composedPath().includes(byId(id)) || (byId(id).open = false));

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

/** Call what the page is written for by its name. */
function called() {
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_ELEMENT | NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode;
    if (node.nodeType === Node.TEXT_NODE) node.data = worded(node.data);
    else for (const name of ["aria-label", "title", "placeholder"]) if (node.hasAttribute(name)) node.setAttribute(name, worded(node.getAttribute(name)));
  }
}

byId("keys").replaceChildren(...KEYS.filter(([, , shown]) => shown).flatMap(([, , shown, text]) => [make("dt", {}, make("kbd", {}, shown)), make("dd", {}, text)]));
on("colours", map.recolour);

async function begin() {
  state.facts = await trying(() => ask("api/store"));
  if (!state.facts) return;
  if (one() !== "image") called();
  state.labels.column = state.facts.labels;
  document.title = `${state.facts.name} · nearfar`;
  byId("name").textContent = state.facts.name;
  labels.about(state.facts.filling);
  byId("who").placeholder = state.facts.by;
  byId("by-words").hidden = !state.facts.words;
  byId("who").value = labels.by();
  labelbar.start();
  await lists.start();
  await labels.start();
  colours.offer();
  saved.start();
  const drawn = map.start({
    pick: (row) => lists.similar([row], []),
    lasso: (rows) => lists.hold("selected", { title: "selected on the map" }, Int32Array.from(rows)),
  });
  await address.start();
  byId("grid").focus({ preventScroll: true });
  await drawn;
  document.body.dataset.ready = "yes";
  count();
  ranking.start();
}

begin();
