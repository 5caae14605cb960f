/* Long work of the server: how far it is, and a button that ends it. */

import { ask } from "./api.js";
import { make, trying } from "./state.js";

const sentence = ({ what, done, total, seconds }) => {
  const far = total ? `: ${done.toLocaleString("en")} of ${total.toLocaleString("en")}` : "";
  const time = seconds < 60 ? `${Math.round(seconds)} s` : `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
  return `${what.charAt(0).toUpperCase()}${what.slice(1)}${far}, ${time} so far`;
};

/**
 * Ask the server for what may take long, and show in `place` how far it is. `live` tells whether it is still wanted
 * here: if not, the server goes on and keeps the result. `told` hears how far it is.
 */
export async function watched(place, path, body, { live = () => true, told = () => {} } = {}) {
  const words = make("span"), bar = make("progress", { "aria-label": "How much is done" });
  const button = make("button", { type: "button" }, "Cancel");
  const meter = make("div", { class: "meter" }, words, bar, button);
  let job = "";
  button.addEventListener("click", () => {
    button.disabled = true;
    trying(() => ask("api/cancel", { job }));
  });
  try {
    return await ask(path, body, (far) => {
      if (!live()) return false;
      job = far.job;
      words.textContent = sentence(far);
      if (far.total) Object.assign(bar, { max: far.total, value: far.done });
      else bar.removeAttribute("value");
      if (!meter.isConnected) place.append(meter);
      told(far);
      return true;
    });
  } finally {
    meter.remove();
  }
}
