/* What lies over an image in full: the box of an object, boxes that were predicted, and a mask. */

import { ask } from "./api.js";
import { hue } from "./colours.js";
import { byId, make, on, state } from "./state.js";

const COLUMNS = ["x0", "boxes", "mask"]; // a row with a value in one of these has something to draw
const SVG = "http://www.w3.org/2000/svg";
const ROOM = 20; // pixels above a box that its name needs
const codes = new Map(); // class -> code of its colour, in the order in which the page met them
const kept = new Map(); // row -> { width, height, boxes, mask: address of the picture or null }
let shown = true;

/** Whether rows may have something to draw. */
export const may = () => COLUMNS.some((name) => name in state.facts.columns);
/** Whether a row has something to draw. */
export const has = (known) => COLUMNS.some((name) => name in state.facts.columns && (known?.row[name] ?? null) !== null);

function drawn(tag, attributes, text = "") {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.textContent = text;
  return element;
}

/** The colour of a class: that of the map, or one of its own. */
function colour(name) {
  const label = state.labels.names.indexOf(name);
  if (label >= 0) return hue(label);
  if (!codes.has(name)) codes.set(name, codes.size);
  return hue(codes.get(name));
}

const parts = (frame) => [frame.querySelector("svg.over"), frame.querySelector("img.over")];

/** Keep lines and letters of one size on the screen, however large the image is; `zoom` is its enlargement. */
export function place(frame, zoom) {
  const [boxes] = parts(frame), { width, height } = boxes.viewBox.baseVal;
  if (!width || !frame.clientWidth) return;
  boxes.style.setProperty("--unit", 1 / (zoom * Math.min(frame.clientWidth / width, frame.clientHeight / height)));
}

/** Where on the screen, from a frame's middle, the only box on it lies; the middle itself where there is none, or several. */
export function middle(frame, { scale, across, down }) {
  const [boxes] = parts(frame), [one, second] = boxes.querySelectorAll("rect"), { width, height } = boxes.viewBox.baseVal;
  if (!one || second) return [0, 0];
  const pixel = Math.min(frame.clientWidth / width, frame.clientHeight / height) * scale, half = (side, size) => one[side].baseVal.value + one[size].baseVal.value / 2;
  return [across + (half("x", "width") - width / 2) * pixel, down + (half("y", "height") - height / 2) * pixel];
}

/** Take away what lies over a frame. */
export function clear(frame) {
  const [boxes, mask] = parts(frame);
  boxes.replaceChildren();
  boxes.removeAttribute("viewBox");
  mask.hidden = true;
  mask.removeAttribute("src");
}

async function found(row) {
  if (!kept.has(row)) {
    const at = `${row}?key=${state.facts.key}`, told = await ask(`api/overlays/${at}`);
    const mask = told.mask ? await ask(`api/mask/${at}`).then(URL.createObjectURL, ({ message }) => ((told.lost = message), null)) : null;
    kept.set(row, { ...told, mask });
    if (kept.size > 20) {
      const [[oldest, gone]] = kept;
      if (gone.mask) URL.revokeObjectURL(gone.mask);
      kept.delete(oldest);
    }
  }
  return kept.get(row);
}

/** Draw what belongs to a row over its image, which a frame shows in full; gives what cannot be drawn, in words. */
export async function draw(frame, row, zoom, wanted) {
  const told = await found(row), [boxes, mask] = parts(frame);
  if (!wanted()) return "";
  clear(frame);
  boxes.setAttribute("viewBox", `0 0 ${told.width} ${told.height}`);
  boxes.toggleAttribute("hidden", !shown);
  mask.hidden = !shown || !told.mask;
  if (told.mask) mask.src = told.mask;
  place(frame, zoom);
  const unit = Number(boxes.style.getPropertyValue("--unit")) || 1;
  for (const [name, score, left, top, right, bottom] of told.boxes) {
    const ink = colour(name), words = score === null ? name : `${name} ${score.toFixed(2)}`;
    boxes.prepend(drawn("rect", { x: left, y: top, width: Math.max(0, right - left), height: Math.max(0, bottom - top), stroke: ink }));
    boxes.append(drawn("text", { x: left, y: top, dy: top < ROOM * unit ? "1.1em" : "-.35em", fill: ink }, words));
  }
  return told.lost ?? "";
}

/** Show what lies over images, or no longer. */
export function turn(frames) {
  shown = !shown;
  byId("photo-over").setAttribute("aria-pressed", shown);
  for (const frame of frames) {
    const [boxes, mask] = parts(frame);
    boxes.toggleAttribute("hidden", !shown);
    mask.hidden = !shown || !mask.hasAttribute("src");
  }
}

on("labels", () => { // a box bears the class of its object
  for (const { mask } of kept.values()) if (mask) URL.revokeObjectURL(mask);
  kept.clear();
});

/** Put what is needed into a frame. */
export function prepare(frame) {
  const boxes = drawn("svg", { class: "over", "aria-hidden": "true" });
  frame.lastElementChild.before(make("img", { class: "over", alt: "", hidden: true, draggable: false }), boxes);
}
