/* Why two images are near: the parts of each that make their vectors similar. */

import { ask } from "./api.js";
import { state } from "./state.js";

/** Say how far the parts can be trusted. */
function told({ similarity, margin, better }) {
  const trust = margin > 0 && better === 2
    ? `blurring these parts first leaves ${margin.toFixed(2)} less of it than blurring random ones`
    : "but blurring these parts leaves no less of it than blurring random ones: do not read them";
  return `Similarity ${similarity.toFixed(2)}, less what all images share; the brighter a part, the more it adds; ${trust}.`;
}

/** Ask for two images with their parts in colours: their addresses, and a sentence. */
export async function parts(row, other, wanted) {
  const found = await ask(`api/why/${row}/${other}?key=${state.facts.key}`, undefined, wanted);
  let at = 0;
  const urls = [...found.sizes].map((size) => {
    const data = found.bytes.slice(at, at += size);
    return URL.createObjectURL(new Blob([data], { type: "image/jpeg" }));
  });
  return { urls, words: told(found.head) };
}
