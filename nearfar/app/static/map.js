/* The map: plotly draws the points, a canvas above them draws pictures and marks, and the points until plotly has. */

import { ask, Stopped } from "./api.js";
import { axesOf, rangesOf } from "./axes.js";
import { cell, want } from "./cells.js";
import { colouring, css } from "./colours.js";
import { movable, moved, moving, settle, wasDragged } from "./motion.js";
import { inside, nearest, paintPoints } from "./points.js";
import { byId, focused, make, on, say, state, trying } from "./state.js";
import { watched } from "./work.js";

const stage = byId("stage"), div = byId("map"), over = byId("over"), tip = byId("tip");
const ROOM = 66; // pixels of the cell that has a picture; half of it is the picture's
const RINGS = 60; // images of the list that are marked
const MARGIN = 8; // pixels
const BLURRED = 1.5; // stretched further, what plotly drew is painted over
const MANY = 100000; // points above which plotly would take seconds to draw them: the page paints them itself
const SAMPLE = 2000; // points that plotly has then, unseen, so that its lasso works
const NEAR = 12; // pixels from a point within which it is meant
const AGAIN = 100; // milliseconds from one choice of pictures to the next while the map moves
const many = () => x.length > MANY;
let x, y, size, ranges, plotted = false, mode = "pan", pictures = true, held = [], chosen = 0, lassoed = false, hovered = -1;

/** Draw the map: by the first places that are known, and again once it is laid out. Resolves at the first drawing. */
export function start(does) {
  const waiting = byId("waiting"), [note] = waiting.children, sketched = make("p", {}, "These are first places; the map is being laid out.");
  let asked = false;
  return new Promise((drawn) => {
    const told = async ({ job, early }) => {
      note?.remove();
      if (!early || asked) return;
      asked = true;
      const found = await trying(() => ask(`api/map/first?job=${job}`));
      if (!found || x) return;
      waiting.classList.add("over");
      waiting.append(sketched);
      await place(found, does);
      drawn();
    };
    watched(waiting, "api/map", undefined, { told }).then((found) => {
      waiting.hidden = true;
      return place(found, does);
    }).catch((error) => {
      if (!(error instanceof Stopped)) say(error.message, true);
      const again = make("button", { type: "button" }, "Lay out the map");
      waiting.replaceChildren(make("p", {}, "The map is not laid out."), again);
      again.addEventListener("click", () => {
        waiting.replaceChildren();
        start(does);
      });
    }).then(drawn);
  });
}

/** Load plotly. The page does not wait for it, since reading so large a script takes about a second. */
function loaded() {
  const script = make("script", { src: "static/plotly.js" });
  document.head.append(script);
  return new Promise((done, failed) => {
    script.addEventListener("load", done);
    script.addEventListener("error", () => failed(new Error("The map's script cannot be loaded; load the page again.")));
  });
}

const all = () => ({ "xaxis.range": ranges[0], "yaxis.range": ranges[1] });

let plotting;
/** Put the points at their places: painted at once, and drawn by plotly as soon as it is there. */
async function place(found, { pick, lasso }) {
  await plotting;
  ({ x, y } = found);
  ranges = [rangesOf(x), rangesOf(y)];
  if (plotting) {
    await Plotly.update(div, { x: [sampled(x)], y: [sampled(y)] }, all(), [0]);
    return choose();
  }
  size = Math.min(8, Math.max(2.5, 0.5 * Math.sqrt((stage.clientWidth * stage.clientHeight) / x.length)));
  new ResizeObserver(() => (plotted ? Plotly.Plots.resize(div).then(choose) : choose())).observe(stage);
  choose();
  stage.dataset.points = "painted";
  plotting = plot(pick, lasso);
  await plotting;
  stage.dataset.points = "plotted";
  return recolour();
}

/** What plotly is given of the values of all points. */
const sampled = (values) => (many() ? values.filter((_, row) => row % Math.ceil(values.length / SAMPLE) === 0) : values);

async function plot(pick, lasso) {
  await loaded();
  const { codes, colours } = colouring();
  // Where there is no WebGL, plotly's slower way draws the same.
  const type = document.createElement("canvas").getContext("webgl") ? "scattergl" : "scatter";
  const marker = many() ? { size, opacity: 0 } : { size, ...paint(codes, colours) };
  const points = { type, mode: "markers", x: sampled(x), y: sampled(y), hoverinfo: many() ? "skip" : "none", marker };
  const [across, up] = ranges.map((range) => ({ range: [...range], visible: false, showgrid: false, zeroline: false }));
  await Plotly.newPlot(div, [points], {
    margin: { l: MARGIN, r: MARGIN, t: MARGIN, b: MARGIN }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    xaxis: across, yaxis: up, dragmode: mode === "lasso" && mode, hovermode: "closest", showlegend: false,
    newselection: { line: { color: css("--accent"), width: 2, dash: "solid" } }, selectionrevision: 0,
  }, { displayModeBar: false, plotGlPixelRatio: Math.min(2, devicePixelRatio), responsive: true, doubleClick: false });
  movable(div, { may: () => mode === "pan", move, rest });
  div.on("plotly_doubleclick", () => wasDragged(2) || fit());
  if (many()) found(pick);
  else {
    div.on("plotly_click", ({ points: [point] }) => wasDragged() || pick(point.pointNumber));
    div.on("plotly_hover", ({ points: [point] }) => hover(point.pointNumber));
    div.on("plotly_unhover", leave);
  }
  div.on("plotly_relayout", choose);
  div.on("plotly_selected", (event) => {
    // plotly also tells when a selection is taken away: that is no selection of nothing.
    const rows = event?.lassoPoints && (many() ? inside({ x, y }, event.lassoPoints) : event.points.map((point) => point.pointNumber));
    if (rows?.length) lasso(rows);
    lassoed ||= Boolean(rows?.length);
  });
  plotted = true;
  const { width, height } = div._fullLayout; // the stage may have become another size meanwhile
  if (width !== stage.clientWidth || height !== stage.clientHeight) await Plotly.Plots.resize(div);
  choose();
}

function leave() {
  hovered = -1;
  tip.hidden = true;
}

/** Find the points that the page paints itself under the pointer. */
function found(pick) {
  const at = ({ clientX, clientY }) => {
    const box = div.getBoundingClientRect(), [across, down] = lines();
    return nearest({ x, y, across, down }, clientX - box.left, clientY - box.top, NEAR);
  };
  let asked = null;
  div.addEventListener("pointermove", (event) => {
    if (event.buttons || event.pointerType === "touch" || moving()) return;
    if (!asked) requestAnimationFrame(() => {
      const row = at(asked);
      asked = null;
      if (row < 0) leave();
      else if (row !== hovered) hover(row);
    });
    asked = event;
  });
  div.addEventListener("pointerleave", leave);
  div.addEventListener("click", (event) => {
    const row = wasDragged() ? -1 : at(event);
    if (row >= 0) pick(row);
  });
}

/** Give plotly numbers and a scale of flat bands, which is how it colours many points quickly. */
function paint(codes, colours) {
  const bands = colours.flatMap((colour, at) => [[at / colours.length, colour], [(at + 1) / colours.length, colour]]);
  return { color: codes, colorscale: bands, cmin: -0.5, cmax: colours.length - 0.5, opacity: 0.85, showscale: false };
}

let waiting;
/** Colour the points anew; soon, since labels often come in quick succession. */
export function recolour() {
  if (!plotting) return;
  if (many()) return void draw();
  clearTimeout(waiting);
  waiting = setTimeout(() => {
    const { codes, colours } = colouring();
    const marker = Object.entries(paint(codes, colours)).map(([name, value]) => [`marker.${name}`, [value]]);
    if (plotted) Plotly.restyle(div, Object.fromEntries(marker), [0]);
  }, x.length > 20000 ? 700 : 80);
  draw();
}

/** The axes as plotly has them, or will have them. */
const axes = () => (plotted ? div._fullLayout : axesOf(ranges, stage.clientWidth, stage.clientHeight, MARGIN));

/** The lines from the places of the points to pixels of the stage: [slope, start] across, and down. */
function lines() {
  const { xaxis, yaxis } = axes();
  const line = (axis, shift) => {
    const zero = axis.l2p(0), slope = axis.l2p(1) - zero;
    return [moved.scale * slope, moved.scale * (axis._offset + zero) + shift];
  };
  return [line(xaxis, moved.across), line(yaxis, moved.down)];
}

/** Place of a row on the stage, in pixels. */
function scales() {
  const [[slope, start], [steep, top]] = lines();
  return [(row) => x[row] * slope + start, (row) => y[row] * steep + top];
}

/** What is in sight of each axis, from low to high. */
function sight() {
  const { xaxis, yaxis } = axes(), [across, down] = lines();
  const seen = ({ _offset, _length }, [slope, start]) => [(_offset - start) / slope, (_offset + _length - start) / slope];
  return [seen(xaxis, across), seen(yaxis, down).reverse()];
}

function move() {
  hovered = -1;
  tip.hidden = true;
  if (performance.now() - chosen > AGAIN) choose();
  else draw();
}

/** Have plotly draw what is in sight. */
function rest() {
  const [across, up] = sight();
  Plotly.relayout(div, { "xaxis.range": across, "yaxis.range": up });
}

const room = () => (stage.clientWidth < 500 ? 0.75 * ROOM : ROOM);

/** Choose whose pictures are shown: one a cell, the cells fixed to the map so that moving changes few. */
function choose() {
  if (!x) return;
  chosen = performance.now();
  const [[left, right], [bottom, top]] = sight();
  const [wide, high] = lines().map(([slope]) => 2 ** Math.ceil(Math.log2(room() / Math.abs(slope)) - 0.5));
  const best = new Map();
  for (let row = 0; pictures && row < x.length; row++) {
    if (x[row] < left || x[row] > right || y[row] < bottom || y[row] > top) continue;
    if (state.shown?.[row] === 0) continue;
    const across = Math.floor(x[row] / wide), up = Math.floor(y[row] / high);
    const away = (x[row] / wide - across - 0.5) ** 2 + (y[row] / high - up - 0.5) ** 2;
    const key = across * 65536 + up, old = best.get(key);
    if (!old || away < old.away) best.set(key, { row, away });
  }
  held = [...best.values()].map(({ row }) => row);
  want(held);
  draw();
}

function draw() {
  if (!x || !stage.clientWidth || !stage.clientHeight) return;
  const ratio = devicePixelRatio, wide = stage.clientWidth, high = stage.clientHeight;
  if (over.width !== Math.round(wide * ratio) || over.height !== Math.round(high * ratio)) {
    over.width = Math.round(wide * ratio);
    over.height = Math.round(high * ratio);
  }
  const pen = over.getContext("2d"), [across, down] = scales(), { codes, colours } = colouring();
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, wide, high);
  fill(pen);
  for (const row of held) {
    const picture = cell(row)?.picture;
    if (!picture?.complete || !picture.naturalWidth) continue;
    const scale = room() / 2 / Math.max(picture.naturalWidth, picture.naturalHeight);
    const w = picture.naturalWidth * scale, h = picture.naturalHeight * scale;
    const left = across(row) - w / 2, top = down(row) - h / 2;
    pen.fillStyle = colours[codes[row]];
    pen.beginPath();
    pen.roundRect(left - 2, top - 2, w + 4, h + 4, 4);
    pen.fill();
    pen.drawImage(picture, left, top, w, h);
  }
  pen.strokeStyle = css("--ink");
  pen.lineWidth = 1.5;
  pen.beginPath();
  let count = 0;
  const marked = state.list.name === "all" ? [] : state.list.rows.subarray(0, RINGS);
  for (const row of [...marked, ...state.chosen]) {
    if (++count > 3000) break;
    const at = [across(row), down(row)];
    pen.moveTo(at[0] + 5, at[1]);
    pen.arc(...at, 5, 0, 7);
  }
  pen.stroke();
  const row = focused();
  if (row >= 0) {
    for (const [width, colour] of [[6, css("--paper")], [3, css("--accent")]]) {
      pen.lineWidth = width;
      pen.strokeStyle = colour;
      pen.beginPath();
      pen.arc(across(row), down(row), 11, 0, 7);
      pen.stroke();
    }
  }
}

/** Paint the points where plotly has drawn none yet, or while the map moves only blurred ones. */
function fill(pen) {
  const { scale, across, down } = moved, ratio = devicePixelRatio, blurred = Math.max(scale, 1 / scale) > BLURRED;
  div.style.visibility = blurred && !many() ? "hidden" : "";
  if (many()) return painted(pen);
  if (plotted && !moving()) return;
  const box = [MARGIN, MARGIN, stage.clientWidth - MARGIN, stage.clientHeight - MARGIN];
  const drawn = box.map((at, side) => ratio * (scale * at + (side % 2 ? down : across)));
  const [h, v] = lines().map((line) => line.map((part) => ratio * part));
  paintPoints(pen, { x, y, ...colouring(), radius: (ratio * size) / 2, across: h, down: v, but: blurred || !plotted ? null : drawn });
}

const sheet = document.createElement("canvas"); // all points, as they were painted last
let painting = {};
/** Paint many points: all of them, and once for each of their places and colours; some while the map moves. */
function painted(pen) {
  const ratio = devicePixelRatio, { codes, colours } = colouring(), { width, height } = over;
  const [across, down] = lines().map((line) => line.map((part) => ratio * part)), most = moving() ? undefined : x.length;
  const now = [across, down, width, height, most];
  if (painting.codes !== codes || painting.x !== x || String(painting.now) !== String(now)) {
    painting = { codes, x, now };
    Object.assign(sheet, { width, height });
    paintPoints(sheet.getContext("2d"), { x, y, codes, colours, radius: (ratio * size) / 2, across, down, but: null, most });
  }
  pen.setTransform(1, 0, 0, 1, 0, 0);
  pen.drawImage(sheet, 0, 0);
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
}

function hover(row) {
  if (moving()) return undefined;
  hovered = row;
  const known = cell(row);
  if (!known) return want([row]);
  const [across, down] = scales(), [picture] = tip.getElementsByTagName("img");
  picture.src = known.url;
  tip.lastElementChild.textContent = [known.row.id, state.labels.names[state.labels.values[row]]].filter(Boolean).join(" · ");
  tip.hidden = false;
  const left = Math.min(stage.clientWidth - tip.offsetWidth - 4, Math.max(4, across(row) + 16));
  const above = down(row) - tip.offsetHeight - 14;
  tip.style.transform = `translate(${left}px, ${above < 4 ? down(row) + 16 : above}px)`;
}

/** Have plotly show something else, if it is there. */
function show(what) {
  if (!plotted) return;
  settle();
  Plotly.relayout(div, what);
}

/** Say what dragging does: "pan" or "lasso". */
export function drag(what) {
  mode = what;
  show({ dragmode: mode === "lasso" && mode, selections: [] });
  byId("pan").setAttribute("aria-pressed", mode === "pan");
  byId("lasso").setAttribute("aria-pressed", mode === "lasso");
}

/** Zoom about the middle, or about the image in focus while it is in sight. */
export function zoom(factor) {
  if (!plotted) return;
  settle();
  const { xaxis, yaxis } = axes(), row = focused();
  const about = ([low, high], value) => {
    const fixed = value >= low && value <= high ? value : (low + high) / 2;
    return [fixed + (low - fixed) * factor, fixed + (high - fixed) * factor];
  };
  show({ "xaxis.range": about(xaxis.range, x[row]), "yaxis.range": about(yaxis.range, y[row]) });
}

export const fit = () => show(all());

/** Show pictures on the map, or points alone. */
export function toggle() {
  pictures = !pictures;
  byId("pictures").setAttribute("aria-pressed", pictures);
  choose();
}

on("cells", () => hovered >= 0 && cell(hovered) && hover(hovered));
let asked = false;
on("picture focus chosen list cells", () => {
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => {
    asked = false;
    draw();
  });
});
on("shown", choose);
on("list", () => {
  if (!lassoed || state.list.name === "selected") return;
  lassoed = false;
  Plotly.update(div, { selectedpoints: [null] }, { selections: [] }, [0]);
});
