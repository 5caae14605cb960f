/* What colours mean: a column, or how anomalous images are. Hues that colour-blind readers tell apart. */

import { Stopped } from "./api.js";
import { byId, make, on, say, state, tell } from "./state.js";
import { watched } from "./work.js";

const HUES = 10, BANDS = 24, SHADES = 3; // each hue also darker and lighter
const root = document.documentElement;
export const css = (name) => getComputedStyle(root).getPropertyValue(name).trim();

let by = null; // { kind, names, values } of the column that colours come from; null for labels
let name = "label";
let alone = -1; // the code that the legend has singled out
let made = null;

const source = () => by ?? { kind: "text", names: state.labels.names, values: state.labels.values };

/** Give every point a code, and every code a colour: 0 left out, 1 empty, then hues or bands. */
export function colouring() {
  if (made) return made;
  const { kind, names, values } = source();
  const count = state.facts.count, codes = new Float32Array(count).fill(1);
  const text = kind !== "number";
  const [low, high] = text ? [0, 1] : ends(values);
  for (let row = 0; row < count; row++) {
    const value = values[row];
    if (text && value !== -1) codes[row] = 2 + Math.min(value < 0 ? Infinity : value, HUES * SHADES); // below -1: one of the rarer values
    if (!text && !Number.isNaN(value)) {
      codes[row] = 2 + Math.max(0, Math.min(BANDS - 1, Math.floor(((value - low) / (high - low || 1)) * BANDS)));
    }
    if (state.shown?.[row] === 0 || (alone >= 0 && text && value !== alone)) codes[row] = 0;
  }
  const scale = text
    ? Array.from({ length: Math.min(HUES * SHADES + 1, Math.max(1, names.length)) }, (_, at) => hue(at))
    : Array.from({ length: BANDS }, (_, at) => mixed(at / (BANDS - 1)));
  return (made = { codes, colours: [css("--left-out"), css("--none"), ...scale], low, high });
}

/** The colour of a class: ten hues, then the same darker, then lighter; all others share one. */
export function hue(code) {
  if (code < 0) return css("--none");
  if (code >= HUES * SHADES) return css("--many");
  const colour = css(`--hue-${code % HUES}`);
  if (code < HUES) return colour;
  const [share, end] = code < 2 * HUES ? [0.45, 0] : [0.55, 255];
  return `rgb(${parse(colour).map((value) => Math.round(value + (end - value) * share)).join(",")})`;
}

const parse = (text) => [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16));

/** The bulk of the values, so that one odd value does not flatten the rest. */
function ends(values) {
  const sorted = Float32Array.from(values).filter((value) => !Number.isNaN(value)).sort();
  const at = (share) => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? 0;
  return [at(0.01), at(0.99)];
}

/** A shade between the two ends of the scale for numbers. */
function mixed(share) {
  const [low, middle, high] = ["--low", "--middle", "--high"].map((word) => parse(css(word)));
  const [from, to, part] = share < 0.5 ? [low, middle, 2 * share] : [middle, high, 2 * share - 1];
  return `rgb(${from.map((value, at) => Math.round(value + (to[at] - value) * part)).join(",")})`;
}

/** Offer the columns there are. */
export function offer() {
  const hidden = new Set(["id", "path", "digest", "boxes", "mask", "mask_digest", state.labels.column, "map_x", "map_y", ...(state.facts.modality === "text" ? ["text"] : [])]);
  const columns = Object.keys(state.facts.columns).filter((column) => !hidden.has(column) && !/_(at|before)$/.test(column));
  const options = [["", state.labels.column], ["/anomaly-score", "anomaly score"], ["/clusters", "cluster"], ...columns.map((c) => [c, c])];
  byId("colour").replaceChildren(...options.map(([value, text]) => make("option", { value }, text)));
}

/** What colours come from, as the address names it; "" for labels. */
export const chosenColour = () => byId("colour").value;

/** Colour by what the menu says. */
export async function load() {
  const value = byId("colour").value;
  alone = -1;
  const path = value.startsWith("/") ? `api${value}` : `api/column/${encodeURIComponent(value)}`;
  let found = null;
  try {
    if (value) found = await watched(byId("colour-work"), path, undefined, { live: () => byId("colour").value === value });
  } catch (error) {
    if (byId("colour").value !== value) return undefined; // another was chosen meanwhile
    say(error.message, !(error instanceof Stopped));
    byId("colour").value = "";
  }
  by = found ? { ...found.head, values: found.values } : null;
  name = byId("colour").selectedOptions[0].textContent;
  renew();
  return tell("colour");
}

/** Colour by a column of the menu. */
export function choose(value) {
  const menu = byId("colour");
  if (menu.value === value || ![...menu.options].some((option) => option.value === value)) return undefined;
  menu.value = value;
  return load();
}

function renew() {
  made = null;
  legend();
  tell("colours");
}

/** What the marks on the map mean; see map.js. */
const rings = () => make("li", { class: "range" }, make("span", { class: "ring" }), "in the list", make("span", { class: "ring focus" }), "in focus");

function legend() {
  const { kind, names, values } = source(), place = byId("legend");
  if (kind === "number") {
    const { low, high } = colouring();
    const bar = make("span", { class: "scale" });
    const short = (value) => Number(value.toPrecision(3)).toString();
    return place.replaceChildren(make("li", { class: "range" }, short(low), bar, short(high)), rings());
  }
  const counts = new Uint32Array(names.length);
  for (const value of values) if (value >= 0) counts[value]++;
  const item = (code) => {
    const dot = make("span", { class: "dot" });
    dot.style.background = hue(code);
    const button = make("button", { type: "button", "aria-pressed": String(alone === code), title: `${name}: ${names[code]}` },
      dot, make("span", {}, names[code]), make("small", {}, counts[code].toLocaleString("en")));
    button.addEventListener("click", () => {
      alone = alone === code ? -1 : code;
      renew();
    });
    return make("li", {}, button);
  };
  const there = names.map((_, code) => code).filter((code) => counts[code] || alone === code);
  const more = there.some((code) => code >= HUES * SHADES) ? [make("li", { class: "range" }, "Those beyond the 30th share one colour.")] : [];
  place.replaceChildren(...there.slice(0, 120).map(item), ...more, rings());
}

on("labels", () => by || renew());
on("shown aside", renew);
byId("colour").addEventListener("change", load);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", renew);
