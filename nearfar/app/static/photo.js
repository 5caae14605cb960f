/* The image in focus in full: zoom and pan, its path and columns, its neighbours, and another one beside it. */

import { ask } from "./api.js";
import { cell, want } from "./cells.js";
import { go } from "./grid.js";
import * as overlays from "./over.js";
import * as parts from "./parts.js";
import { byId, focused, labelOf, make, on, say, state, worded } from "./state.js";
import * as why from "./why.js";

const MOST = 40; // times that an image is enlarged
const NEIGHBOURS = 8;
const dialog = byId("photo"), frames = [byId("photo-one"), byId("photo-two")], audios = [byId("photo-audio"), byId("photo-audio-two")];
const view = { scale: 1, across: 0, down: 0 }; // shared by both, so that the same places are compared
const urls = new Map(); // row -> address of the image in full
let turn = 0, open_ = false, mapped = false; // mapped: whether anomalous parts are shown

export const isOpen = () => open_;

function place() {
  for (const frame of frames) {
    for (const layer of [frame.firstElementChild, ...frame.querySelectorAll(".over")]) layer.style.transform = `translate(${view.across}px, ${view.down}px) scale(${view.scale})`;
    overlays.place(frame, view.scale);
    frame.lastElementChild.style.fontSize = `${1.15 * Math.min(6, view.scale)}rem`;
    frame.classList.toggle("near", view.scale > 4);
  }
  byId("photo-scale").textContent = view.scale === 1 ? "" : `${view.scale.toFixed(1)} ×`;
}

/** Enlarge about a place of a frame, given from its middle. */
export function zoom(factor, [x, y] = [0, 0]) {
  const scale = Math.min(MOST, Math.max(1, view.scale * factor)), ratio = scale / view.scale;
  view.across = scale === 1 ? 0 : x + (view.across - x) * ratio;
  view.down = scale === 1 ? 0 : y + (view.down - y) * ratio;
  view.scale = scale;
  place();
}

function fit() {
  Object.assign(view, { scale: 1, across: 0, down: 0 });
  place();
}

/** Show an image: its thumbnail at once, and itself as soon as it has come. */
async function fill(frame, row) {
  const [picture, words] = frame.children, now = turn;
  frame.hidden = row < 0;
  overlays.clear(frame);
  if (row < 0) return undefined;
  const known = cell(row);
  if (known) picture.src = urls.get(row) ?? known.url;
  else want([row]);
  picture.alt = known?.row.id ?? "";
  const name = `${known?.row.id ?? ""}${labelOf(row) === null ? "" : ` · ${labelOf(row)}`}`;
  words.textContent = name;
  words.removeAttribute("title");
  if (written(frame, known)) return undefined;
  if (mapped && frame === frames[0]) return over(picture, words, name, row);
  if (urls.has(row)) return lay(frame, known, row, name);
  try {
    const url = URL.createObjectURL(await ask(`api/photo/${row}?key=${state.facts.key}`));
    urls.set(row, url);
    if (urls.size > 20) {
      const [[oldest, gone]] = urls;
      URL.revokeObjectURL(gone);
      urls.delete(oldest);
    }
    if (now !== turn) return undefined;
    picture.src = url;
    return lay(frame, known, row, name);
  } catch (error) {
    if (now === turn) words.textContent = words.title = `${name} · ${error.message}`;
  }
  return undefined;
}

/** Lay boxes and a mask over an image that is shown in full. */
async function lay(frame, known, row, name) {
  if (!overlays.has(known)) return;
  const now = turn, words = frame.children[1], plain = () => now === turn && !reasons.length && (frame === frames[0] ? !mapped : second === row);
  const lost = await overlays.draw(frame, row, view.scale, plain).catch(({ message }) => message);
  if (lost && plain()) words.textContent = words.title = `${name} · ${lost}`;
}

/** Show a text as text, which its picture only begins; tells whether it is one. */
function written(frame, known) {
  const place = frame.lastElementChild, text = state.facts.modality === "text" ? (known?.row.text ?? "") : "";
  place.textContent = text;
  frame.firstElementChild.hidden = text !== "";
  place.hidden = text === "";
  place.setAttribute("aria-label", known?.row.id ?? "");
  frame.classList.toggle("words", text !== "");
  return text !== "";
}

/** Show an image with the map of its anomalous parts over it. */
async function over(picture, words, name, row) {
  const now = turn;
  try {
    const url = await parts.map(row);
    if (now === turn && mapped) picture.src = url;
    if (now === turn) words.textContent = `${name} · clear is normal; violet to yellow, more and more anomalous`;
  } catch (error) {
    if (now === turn) words.textContent = `${name} · ${error.message}`;
  }
}

/** Show anomalous parts, or no longer. */
function turnParts() {
  if (!state.facts.parts) return;
  mapped = !mapped;
  byId("photo-parts").setAttribute("aria-pressed", mapped);
  fill(frames[0], focused());
}

/** The image that the one in focus is to be compared with: the copy to keep, or one of the class that is suggested. */
async function other(row) {
  const { columns, grouped, rows, name } = state.list;
  if (columns.keep && grouped) {
    const group = columns[grouped], mine = group[state.at];
    const members = [...rows.keys()].filter((at) => group[at] === mine && at !== state.at);
    return rows[members.find((at) => columns.keep[at]) ?? members[0]] ?? -1;
  }
  if (name !== "label-errors") return -1;
  const where = `"${state.labels.column}" = '${columns.suggested[state.at].replaceAll("'", "''")}'`;
  const found = await ask("api/search", { key: state.facts.key, like: [row], where }).catch(() => null);
  return [...(found?.rows ?? [])].find((one) => one !== row) ?? -1;
}

function facts(row) {
  const known = cell(row);
  if (!known) return;
  byId("photo-path").textContent = known.row.path ?? "no file";
  byId("copy-path").hidden = !known.row.path;
  const hidden = new Set(["path", "digest", "map_x", "map_y", "boxes", "mask_digest", ...(state.facts.modality === "text" ? ["text"] : [])]); // shown beside
  const shown = Object.entries(known.row).filter(([name, value]) => !hidden.has(name) && !/_before$/.test(name) && value !== null);
  byId("photo-facts").replaceChildren(...shown.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, typeof value === "number" ? String(Number(value.toPrecision(6))) : String(value)))));
}

/** Load a clip of a store of sounds, to be played; that of no row is taken away. */
async function sound(audio, row) {
  const now = turn;
  if (state.facts.modality !== "sound") return;
  audio.pause();
  if (audio.src) URL.revokeObjectURL(audio.src);
  audio.removeAttribute("src");
  audio.parentElement.hidden = row < 0;
  audio.dataset.row = row;
  const file = row < 0 ? null : await ask(`api/clip/${row}?key=${state.facts.key}`).catch(() => null);
  if (now !== turn || audio.dataset.row !== String(row)) return;
  audio.parentElement.hidden = !file;
  if (file) audio.src = URL.createObjectURL(file);
}

async function neighbours(row) {
  const now = turn, place = byId("photo-near");
  place.replaceChildren();
  const found = await ask("api/search", { key: state.facts.key, like: [row] }).catch(() => null);
  if (now !== turn || !found) return;
  const near = [...found.rows].map((one, at) => ({ one, cosine: found.head.columns.similarity[at] })).filter(({ one }) => one !== row).slice(0, NEIGHBOURS);
  want(near.map(({ one }) => one));
  place.previousElementSibling.hidden = !near.length;
  place.replaceChildren(...near.map(({ one, cosine }) => {
    const button = make("button", { type: "button", "data-row": String(one) }, make("img", { alt: "" }), make("small", {}, cosine.toFixed(2)));
    button.addEventListener("click", () => beside(one));
    return button;
  }));
  pictures();
}

function pictures() {
  for (const button of byId("photo-near").children) {
    const known = cell(Number(button.dataset.row));
    if (!known) continue;
    button.firstElementChild.src = known.url;
    button.setAttribute("aria-label", `${button.lastElementChild.textContent}, show ${known.row.id} beside it`);
  }
}

let second = -1, reasons = []; // addresses of the two images with their parts, while these are shown
/** Put another image beside the one in focus, or none. */
function beside(row) {
  second = second === row ? -1 : row;
  unexplain();
  fill(frames[1], second);
  sound(audios[1], second);
  byId("photo-why").hidden = second < 0 || state.facts.modality !== "images";
}

/** Show the images without their parts again. */
function unexplain() {
  const shown = reasons.length > 0;
  reasons.forEach((url) => URL.revokeObjectURL(url));
  reasons = [];
  byId("photo-why").setAttribute("aria-pressed", "false");
  byId("photo-reason").textContent = "";
  if (shown) fill(frames[0], focused());
}

/** Show which parts make the two images near, or no longer. */
async function explain() {
  if (second < 0 || byId("photo-why").hidden) return;
  if (reasons.length) {
    unexplain();
    fill(frames[1], second);
    return;
  }
  const now = turn, asked = second, same = () => open_ && now === turn && asked === second;
  byId("photo-why").setAttribute("aria-pressed", "true");
  byId("photo-reason").textContent = "finding the parts…";
  try {
    const found = await why.parts(focused(), asked, same);
    if (!same()) {
      found.urls.forEach((url) => URL.revokeObjectURL(url));
      return;
    }
    reasons = found.urls;
    frames.forEach(overlays.clear);
    frames.forEach((frame, at) => (frame.firstElementChild.src = reasons[at]));
    byId("photo-reason").textContent = found.words;
  } catch (error) {
    if (!same()) return;
    byId("photo-why").setAttribute("aria-pressed", "false");
    byId("photo-reason").textContent = error.message;
  }
}

async function draw() {
  const row = focused(), now = ++turn;
  if (row < 0) return close();
  fit();
  fill(frames[0], row);
  facts(row);
  sound(audios[0], row);
  sound(audios[1], -1);
  second = -1;
  unexplain();
  byId("photo-why").hidden = true;
  fill(frames[1], -1);
  neighbours(row);
  const found = await other(row);
  if (now === turn && found >= 0) beside(found);
  return undefined;
}

/** Show the image in focus in full. */
export function open() {
  if (focused() < 0) return say(worded("There is no image to show."));
  open_ = true;
  mapped = state.list.name === "parts";
  byId("photo-over").hidden = !overlays.may();
  for (const id of ["photo-parts", "photo-normal"]) byId(id).hidden = !state.facts.parts;
  byId("photo-parts").setAttribute("aria-pressed", mapped);
  dialog.showModal();
  return draw();
}

export const close = () => dialog.close();

/** Take a key that means something else here than on the page; tells whether it was one. */
export function typed(key) {
  const nearer = () => zoom(1.5, overlays.middle(frames[0], view));
  const does = { "+": nearer, "=": nearer, "-": () => zoom(1 / 1.5), f: fit, y: explain, o: () => overlays.turn(frames), ...(state.facts.parts && { h: turnParts }), v: close, Enter: close, ArrowDown: () => go(state.at + 1), ArrowUp: () => go(state.at - 1) };
  does[key]?.();
  return key in does;
}

const middle = (event, frame) => {
  const box = frame.getBoundingClientRect();
  return [event.clientX - box.left - box.width / 2, event.clientY - box.top - box.height / 2];
};
for (const frame of frames) {
  overlays.prepare(frame);
  new ResizeObserver(() => overlays.place(frame, view.scale)).observe(frame);
  const hands = new Map();
  const text = () => frame.classList.contains("words"); // it is scrolled and selected
  frame.addEventListener("wheel", (event) => {
    if (text()) return;
    event.preventDefault();
    zoom(Math.exp(-Math.max(-240, Math.min(240, event.deltaY)) / 400), middle(event, frame));
  }, { passive: false });
  frame.addEventListener("dblclick", (event) => text() || (view.scale > 1 ? fit() : zoom(4, middle(event, frame))));
  frame.addEventListener("pointerdown", (event) => {
    if (text()) return;
    hands.set(event.pointerId, [event.clientX, event.clientY]);
    frame.setPointerCapture(event.pointerId);
  });
  const grip = () => {
    const [[x, y], [u, v] = [x, y]] = hands.values();
    return { x: (x + u) / 2, y: (y + v) / 2, apart: Math.hypot(x - u, y - v) };
  };
  frame.addEventListener("pointermove", (event) => {
    if (!hands.has(event.pointerId)) return;
    const before = grip();
    hands.set(event.pointerId, [event.clientX, event.clientY]);
    const after = grip();
    if (view.scale > 1) {
      view.across += after.x - before.x;
      view.down += after.y - before.y;
    }
    if (before.apart && after.apart) zoom(after.apart / before.apart, middle({ clientX: after.x, clientY: after.y }, frame));
    place();
  });
  for (const end of ["pointerup", "pointercancel"]) frame.addEventListener(end, (event) => hands.delete(event.pointerId));
}
byId("copy-path").addEventListener("click", async () => {
  const text = byId("photo-path").textContent;
  try {
    await navigator.clipboard.writeText(text);
    say("The path is copied.");
  } catch { // without a secure connection there is no clipboard
    getSelection().selectAllChildren(byId("photo-path"));
    say("The browser lets no page copy here; the path is selected, press Ctrl+C.");
  }
});
byId("photo-close").addEventListener("click", close);
byId("photo-parts").addEventListener("click", turnParts);
byId("photo-over").addEventListener("click", () => overlays.turn(frames));
byId("photo-why").addEventListener("click", explain);
byId("photo-normal").addEventListener("click", parts.normal);
byId("photo-next").addEventListener("click", () => go(state.at + 1));
byId("photo-last").addEventListener("click", () => go(state.at - 1));
dialog.addEventListener("close", () => {
  open_ = false;
  audios.forEach((audio) => audio.pause());
  byId("grid").focus({ preventScroll: true });
});
on("focus list", () => open_ && draw());
on("labels", () => open_ && (fill(frames[0], focused()), facts(focused())));
on("cells", () => {
  if (!open_) return;
  pictures();
  if (!frames[0].firstElementChild.alt) {
    fill(frames[0], focused());
    facts(focused());
  }
  if (second >= 0 && !frames[1].firstElementChild.alt) fill(frames[1], second);
});
