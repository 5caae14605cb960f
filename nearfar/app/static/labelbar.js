/* The bar of labels: a button and a key for each class. */

import { hue } from "./colours.js";
import { accept, give, proposals, undo } from "./labels.js";
import { byId, focused, labelOf, make, on, say, state } from "./state.js";

const given = new Set(); // classes that were given here, which are shown though they may have no image
const OFFERED = 500; // classes that are offered while one is typed
let digits = null; // of a class beyond the ninth, while they are typed

/** How a class is typed: a digit, or a point and two digits. */
export const keyOf = (slot) => (slot < 9 ? String(slot + 1) : slot < 99 ? `.${slot + 1}` : "");

function slot(number) {
  const name = state.labels.names[number - 1];
  if (name === undefined) return say(`There is no class ${number} yet; press l and type one.`);
  given.add(name);
  return give(name);
}

/** Take a key that names a class; tells whether it was one. */
export function typed(key) {
  if (digits !== null) {
    if (!/^[0-9]$/.test(key)) {
      digits = null;
      return key === ".";
    }
    digits += key;
    say(`Class ${digits}…`);
    if (digits.length === 2) {
      const number = Number(digits);
      digits = null;
      slot(number);
    }
    return true;
  }
  if (key === ".") {
    digits = "";
    say("Type the two digits of the class.");
    return true;
  }
  if (!/^[1-9]$/.test(key)) return false;
  slot(Number(key));
  return true;
}

function bar() {
  const { names } = state.labels, row = focused();
  const mine = row < 0 ? null : labelOf(row);
  const chips = [];
  names.forEach((name, at) => {
    if (!there.has(at) && !given.has(name)) return;
    const dot = make("span", { class: "dot" });
    dot.style.background = hue(at);
    const chip = make("button", { type: "button", class: "chip", "aria-pressed": String(name === mine) }, dot, make("span", {}, name));
    if (keyOf(at)) chip.prepend(make("kbd", {}, keyOf(at)));
    chip.addEventListener("click", () => (given.add(name), give(name)));
    chips.push(chip);
  });
  const proposed = row < 0 ? null : proposals()?.[state.at];
  if (proposed) {
    const many = state.chosen.size ? `Accept ${state.chosen.size.toLocaleString("en")}` : `Accept ${proposed}`;
    const chip = make("button", { type: "button", class: "chip accept" }, make("kbd", {}, "a"), make("span", {}, many));
    chip.addEventListener("click", accept);
    chips.unshift(chip);
  }
  byId("chips").replaceChildren(...chips.slice(0, 120));
  byId("known-labels").replaceChildren(...names.slice(0, OFFERED).map((name) => make("option", { value: name })));
}

/** Make the bar. */
export function start() {
  const input = make("input", { id: "new-label", type: "text", maxlength: "200", autocomplete: "off", placeholder: "Other label", "aria-label": "Another label" });
  input.setAttribute("list", "known-labels");
  const form = make("form", { class: "new" }, input, make("datalist", { id: "known-labels" }));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const name = input.value.trim();
    if (name) {
      given.add(name);
      give(name);
    }
    input.value = "";
    byId("grid").focus();
  });
  const clear = make("button", { type: "button", class: "quiet" }, "Clear ", make("kbd", {}, "0"));
  clear.addEventListener("click", () => give(null));
  const back = make("button", { type: "button", class: "quiet" }, "Undo ", make("kbd", {}, "u"));
  back.addEventListener("click", undo);
  byId("labels").replaceChildren(make("div", { id: "chips" }), make("div", { class: "acts" }, form, clear, back));
}

let there = new Set(), asked = false; // the classes that have images
on("labels", () => (there = new Set(state.labels.values)));
on("labels focus chosen", () => {
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => {
    asked = false;
    bar();
  });
});
