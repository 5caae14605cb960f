/* The grid of thumbnails that serves every list: only what is in sight has elements. */

import { cell, want } from "./cells.js";
import { columns } from "./order.js";
import { unsaved } from "./outbox.js";
import { byId, focused, labelOf, make, on, one, state, tell, word } from "./state.js";

const grid = byId("grid"), sheet = byId("sheet");
const SPARE = 2; // lines above and below that are ready
const LINE = 40; // pixels of a line of the table
const LEAP = 4; // screens; what moves further in one go is the scroll bar, not a wheel or a finger
let across = 1, high = 100, starts = [0], laid = null; // laid: the list that these lines are of
const shown = new Map(); // place -> element

// Browsers make no element higher than 17 to 33 million pixels, which 500,000 images can be. The sheet of a longer list
// is cut, and stands for all of it: `above` pixels of the list lie above its beginning.
const TALLEST = 15e6;
let above = 0, last = 0;
const whole = () => starts.length * high;
const ends = () => [Math.max(1, sheet.offsetHeight - grid.clientHeight), Math.max(1, whole() - grid.clientHeight)];
/** How many pixels of the list lie above what is in sight. */
const top = () => above + grid.scrollTop;

/** Scroll to a pixel of the list; the scroll bar shows how far on that is. */
function scroll(to) {
  const [sheets, lists] = ends(), wanted = Math.max(0, Math.min(whole() - grid.clientHeight, to));
  // Only an end of the list is at the end of the scroll bar, so that a wheel can always go on.
  const inside = Math.min(sheets - 1, Math.max(1, Math.round((wanted / lists) * sheets)));
  grid.scrollTop = whole() <= sheet.offsetHeight || wanted === 0 ? wanted : wanted >= lists ? sheets : inside;
  last = grid.scrollTop;
  const shift = whole() > sheet.offsetHeight ? Math.round(wanted - last) : 0;
  if (shift === above) return;
  above = shift;
  for (const [place, element] of shown) moveTo(element, place, line(place));
}

/** Follow the scroll bar, a wheel or a finger. */
function scrolled() {
  if (whole() > sheet.offsetHeight) {
    const [sheets, lists] = ends(), now = grid.scrollTop;
    const leapt = Math.abs(now - last) > LEAP * grid.clientHeight, atEnd = now <= 0 || now >= sheets - 1;
    if (leapt) scroll((now / sheets) * lists);
    else if (atEnd) scroll(top());
    last = grid.scrollTop;
  }
  draw();
}

/** Lay the list out in lines; a group begins a line. */
function lay() {
  laid = state.list;
  const style = getComputedStyle(grid);
  const wide = grid.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
  const side = parseFloat(style.getPropertyValue("--cell"));
  across = state.table ? 1 : Math.max(1, Math.floor(wide / side));
  high = state.table ? LINE : Math.floor(wide / across) + parseFloat(style.getPropertyValue("--caption"));
  grid.classList.toggle("table", state.table);
  sheet.style.setProperty("--columns", columns().length);
  const count = state.list.rows.length, groups = state.list.columns[state.list.grouped];
  starts = [];
  for (let at = 0, room = 0; at < count; at++) {
    if (room === 0 || (groups && groups[at] !== groups[at - 1])) {
      starts.push(at);
      room = across;
    }
    room--;
  }
  sheet.style.height = `${Math.min(whole(), TALLEST)}px`;
  for (const element of shown.values()) element.remove();
  shown.clear();
}

/** Find the line that a place is in. */
function line(place) {
  let low = 0, top = starts.length - 1;
  while (low < top) {
    const middle = (low + top + 1) >> 1;
    if (starts[middle] <= place) low = middle;
    else top = middle - 1;
  }
  return low;
}

function draw() {
  if (laid !== state.list) return; // it is about to be laid out
  const count = state.list.rows.length;
  const first = Math.max(0, Math.floor(top() / high) - SPARE);
  const end = Math.min(starts.length, Math.ceil((top() + grid.clientHeight) / high) + SPARE);
  const from = starts[first] ?? 0, to = end < starts.length ? starts[end] : count;
  for (const [place, element] of shown) {
    if (place < from || place >= to) {
      element.remove();
      shown.delete(place);
    }
  }
  for (let at = first; at < end; at++) {
    for (let place = starts[at]; place < (starts[at + 1] ?? count); place++) {
      if (!shown.has(place)) put(place, at);
      fill(place);
    }
  }
  want([...state.list.rows.subarray(from, to)]);
  if (shown.has(state.at)) grid.setAttribute("aria-activedescendant", `cell-${state.at}`);
  else grid.removeAttribute("aria-activedescendant");
}

function moveTo(element, place, at) {
  element.style.transform = `translate(${((place - starts[at]) * 100).toFixed(3)}%, ${at * high - above}px)`;
}

function put(place, at) {
  const element = make(
    "div",
    { role: "option", id: `cell-${place}`, class: "cell" },
    make("span", { class: "frame" }, make("img", { alt: "", draggable: false })),
    ...(state.table ? columns().flatMap(() => [" ", make("span", { class: "value" })]) : [make("span", { class: "caption" }, make("b"), " ", make("i"))]),
  );
  moveTo(element, place, at);
  element.style.width = state.table ? "" : `${100 / across}%`;
  element.style.height = `${high}px`;
  element.dataset.place = place;
  element.setAttribute("aria-posinset", place + 1);
  element.setAttribute("aria-setsize", state.list.rows.length);
  shown.set(place, element);
  sheet.append(element);
}

function fill(place) {
  const element = shown.get(place), row = state.list.rows[place], known = cell(row);
  const [picture] = element.getElementsByTagName("img");
  if (known && picture.getAttribute("src") !== known.url) {
    picture.src = known.url;
    picture.classList.toggle("small", Math.max(known.row.width ?? Infinity, known.row.height ?? Infinity) <= 64);
  }
  const words = caption(place), label = labelOf(row);
  if (state.table) columns().forEach((name, at) => (element.children[at + 1].textContent = value(place, name, known)));
  else captioned(element, words, label);
  element.classList.toggle("focus", place === state.at);
  element.classList.toggle("unsaved", unsaved.has(row));
  element.classList.toggle("aside", Boolean(state.aside[row]));
  const chosen = state.chosen.has(row);
  element.setAttribute("aria-selected", chosen);
  const name = known?.row.id ?? `${one()} ${row + 1}`;
  // What is seen stands in it in the same order, so that it can be spoken as it is read.
  const seen = state.table ? columns().map((column) => value(place, column, known)) : [name, words, label ?? "no label"];
  element.setAttribute("aria-label", [...seen, unsaved.has(row) ? "not saved yet" : "", state.aside[row] ? "set aside" : ""].filter(Boolean).join(", "));
}

/** What the table says of an image in one column. */
function value(place, name, known) {
  const row = state.list.rows[place];
  if (name === "id") return known?.row.id ?? "…";
  if (name === state.labels.column) return labelOf(row) ?? "–";
  return word(state.list.columns[name]?.[place] ?? known?.row[name]);
}

function captioned(element, words, label) {
  const [above, below] = [element.getElementsByTagName("b")[0], element.getElementsByTagName("i")[0]];
  // Of "cat → dog" both are cut where there is no room, so that neither is lost.
  const arrow = state.list.name === "label-errors" ? words.indexOf("→ ") : -1;
  above.textContent = arrow > 0 ? words.slice(0, arrow - 1) : words || (label ?? "");
  below.textContent = arrow > 0 ? words.slice(arrow) : words && state.list.name !== "label-errors" ? (label ?? "") : "";
  element.classList.toggle("halves", arrow > 0);
  element.classList.toggle("bare", !words && label === null);
}

/** What the list says of an image. */
function caption(place) {
  const { name, columns, grouped } = state.list;
  if (name === "label-errors") {
    const given = columns[state.labels.column][place], now = labelOf(state.list.rows[place]);
    return now === given && !state.confirmed.has(state.list.rows[place]) ? `${given} → ${columns.suggested[place]}` : `✓ ${now ?? "no label"}`;
  }
  const [first] = Object.keys(columns).filter((column) => column !== "turn" && column !== "group");
  if (!first) return "";
  if (columns.keep?.[place]) return "keep";
  if (first === grouped && typeof columns[first][place] === "number") return `${first} ${columns[first][place]}`;
  const value = columns[first][place];
  return typeof value === "number" && !Number.isInteger(value) ? value.toFixed(3) : String(value ?? "");
}

/** Move the focus to a place; with `extend`, choose all on the way. */
export function go(place, extend = false) {
  const count = state.list.rows.length;
  if (!count) return;
  const old = state.at;
  state.at = Math.min(count - 1, Math.max(0, place));
  if (extend) {
    for (let at = Math.min(old, state.at); at <= Math.max(old, state.at); at++) state.chosen.add(state.list.rows[at]);
    tell("chosen");
  }
  const begin = line(state.at) * high;
  if (begin < top()) scroll(begin);
  else if (begin + high > top() + grid.clientHeight) scroll(begin + high - grid.clientHeight);
  draw();
  tell("focus");
}

/** Choose the image in focus, or no longer. */
export function toggle() {
  const row = focused();
  if (row < 0) return;
  if (!state.chosen.delete(row)) state.chosen.add(row);
  tell("chosen");
}

/** Move by lines: to the same column of the line above or below. */
export function lines(by, extend) {
  const now = line(state.at), then = Math.min(starts.length - 1, Math.max(0, now + by));
  const end = (starts[then + 1] ?? state.list.rows.length) - 1;
  go(then === now ? state.at : Math.min(end, starts[then] + state.at - starts[now]), extend);
}

export const page = () => Math.max(1, Math.floor(grid.clientHeight / high) - 1);

// By touch: a long press chooses, and then every tap does, until none is chosen.
const LONG = 450; // milliseconds
let touched = false, held = false, holding;
function hold(element) {
  if (held || !element) return;
  held = true;
  go(Number(element.dataset.place));
  toggle();
}
grid.addEventListener("pointerdown", (event) => {
  touched = event.pointerType === "touch";
  held = false;
  clearTimeout(holding);
  if (touched && !state.chosen.size) holding = setTimeout(hold, LONG, event.target.closest(".cell"));
});
const release = () => clearTimeout(holding);
for (const end of ["pointerup", "pointercancel"]) grid.addEventListener(end, release);
grid.addEventListener("scroll", release, { passive: true });
grid.addEventListener("contextmenu", (event) => {
  if (!touched) return;
  event.preventDefault(); // some browsers tell of a long press by it
  if (!state.chosen.size) hold(event.target.closest(".cell"));
});
grid.addEventListener("scroll", scrolled, { passive: true }); // once a frame, and before "scrollend"
grid.addEventListener("scrollend", () => {
  if (whole() > sheet.offsetHeight) scroll(top()); // the scroll bar shows the truth again
});
grid.addEventListener("click", (event) => {
  const element = event.target.closest(".cell");
  if (!element || held) return void (held = false);
  const place = Number(element.dataset.place);
  if (event.shiftKey) return go(place, true);
  go(place);
  if (event.ctrlKey || event.metaKey || (touched && state.chosen.size)) toggle();
});
new ResizeObserver(() => {
  const place = starts[Math.floor(top() / high)] ?? 0;
  lay();
  scroll(line(place) * high);
  draw();
}).observe(grid);
on("list", () => {
  lay();
  scroll(0);
  draw();
});
on("view", () => {
  const place = starts[Math.floor(top() / high)] ?? 0;
  lay();
  scroll(line(place) * high);
  draw();
});
on("cells labels chosen focus unsaved aside", draw);
grid.addEventListener("scroll", () => (byId("columns").style.transform = `translate(${-grid.scrollLeft}px)`), { passive: true });
