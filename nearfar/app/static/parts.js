/* Anomalous parts: images by a bank of normal ones, a threshold to slide, and what a person calls normal. */

import { ask } from "./api.js";
import { go } from "./grid.js";
import { hold, made, openList } from "./lists.js";
import { byId, many, meant, on, say, state, trying } from "./state.js";

const STEPS = 1000;
let found = null; // head, the rows of all images that have a score, and these, descending
let above = 0; // the score above which images are flagged

/** How many of some scores, descending, lie above the threshold. */
function over(scores) {
  let low = 0, high = scores.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (scores[middle] > above) low = middle + 1;
    else high = middle;
  }
  return low;
}

const ends = () => [found.scores[found.scores.length - 1], found.scores[0]];
const percent = (part, whole) => `${((100 * part) / whole).toFixed(1)} %`;

/** Say what the threshold flags, and what held-out normal images promise. */
function told() {
  const { held, inside } = found.head, count = over(found.scores), all = found.scores.length, wrong = over(held);
  const promise = held.length
    ? ` Of ${many(held.length, "held-out normal image")} ${wrong === 1 ? "1 is" : `${wrong} are`} above it: at most ${percent(wrong + 1, held.length + 1)} of new normal images, on average.`
    : ` There are too few normal images for a promise: ${inside.toLocaleString("en")} are in the bank, and none is held out.`;
  byId("level-says").textContent = `Above ${above.toPrecision(4)}: ${many(count)} of ${all.toLocaleString("en")} flagged (${percent(count, all)}).${promise}`;
}

/** Show the flagged images. */
function flagged() {
  const count = over(found.scores);
  const { title, grouped, unscored, bank } = found.head;
  const lines = unscored ? [`${many(unscored)} ${unscored === 1 ? "is" : "are"} in the bank ${bank} or cannot be read.`] : [];
  const columns = { anomaly_score: [...found.scores.subarray(0, count)] };
  hold("parts", { title, grouped, lines, columns }, found.rows.slice(0, count));
}

/** Take what the server answered. */
function take(answer, level) {
  found = answer;
  const [low, high] = ends();
  above = level ?? found.head.threshold ?? found.scores[Math.min(found.scores.length - 1, Math.ceil(0.05 * found.scores.length))];
  byId("level").value = String(Math.round((STEPS * (above - low)) / Math.max(high - low, 1e-12)));
  told();
  flagged();
}

/** Open the list. */
export async function open() {
  const answer = await made("parts", "api/parts");
  if (answer) take(answer, found ? above : null);
}

/** Put the chosen images, or the one in focus, into the bank of normal ones. */
export async function normal() {
  if (!state.facts.parts || openList() !== "parts") return say("Open the list of anomalous parts first.");
  const rows = meant();
  if (!rows.length) return undefined;
  say(`${many(rows.length)} ${rows.length === 1 ? "joins" : "join"} the bank…`);
  const answer = await trying(() => ask("api/normal", { key: state.facts.key, rows, above }));
  if (!answer) return undefined;
  const place = state.at;
  urls.forEach((url) => URL.revokeObjectURL(url));
  urls.clear();
  take(answer, above);
  go(place);
  say(`${many(answer.head.added)} more in the bank; ${answer.head.inside.toLocaleString("en")} in all.`);
  return undefined;
}

const urls = new Map(); // row -> address of the map over the image
/** Draw the map of an image over it, in full. */
export async function map(row) {
  if (!urls.has(row)) urls.set(row, URL.createObjectURL(await ask(`api/parts/${row}?key=${state.facts.key}`)));
  if (urls.size > 20) {
    const [[oldest, gone]] = urls;
    URL.revokeObjectURL(gone);
    urls.delete(oldest);
  }
  return urls.get(row);
}

byId("level").addEventListener("input", ({ target }) => {
  const [low, high] = ends();
  above = low + ((high - low) * Number(target.value)) / STEPS;
  told();
});
byId("level").addEventListener("change", flagged);
byId("normal").addEventListener("click", normal);
on("list", () => (byId("threshold").hidden = state.list.name !== "parts" || !found));
