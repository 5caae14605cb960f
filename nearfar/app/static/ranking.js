/* The line below the map: which encoder is best on labelled images, as the last evaluation of the store's encoder found. */

import { ask } from "./api.js";
import { byId } from "./state.js";

/** Show the line, where there was an evaluation. */
export async function start() {
  const { test, sentences } = await ask("api/ranking").catch(() => ({ sentences: [] })); // nothing waits for it
  byId("ranking").textContent = `Evaluated on ${test}. ${sentences.join(". ")}.`;
  byId("ranking").hidden = !sentences.length;
}
