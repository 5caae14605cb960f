/* Selections that are kept under a name, beside the store's other results on this machine. */

import { ask } from "./api.js";
import { hold } from "./lists.js";
import { byId, make, many, meant, on, say, state, trying } from "./state.js";

let names = {}; // to how many images each has

/** Ask under which name the chosen images are to be kept. */
export function askName() {
  if (!meant().length) return;
  byId("save-title").textContent = `Keep ${many(meant().length)} as a selection`;
  byId("save-dialog").showModal();
  byId("save-name").select();
}

async function keep(name, rows) {
  const told = await trying(() => ask("api/selections", { key: state.facts.key, name, rows }));
  if (!told) return;
  names = told.names;
  say(rows.length ? `Kept as ${name}: it is in the list “Selected”.` : `${name} is no longer kept.`);
  draw();
}

async function show(name) {
  const found = await trying(() => ask(`api/selection?${new URLSearchParams({ name })}`));
  if (found) hold("selected", { title: name }, found.rows);
}

function draw() {
  const place = byId("saved");
  place.hidden = state.list.name !== "selected" || !Object.keys(names).length;
  place.replaceChildren(...Object.entries(names).map(([name, count]) => {
    const open = make("button", { type: "button" }, name, " ", make("small", {}, count.toLocaleString("en")));
    const away = make("button", { type: "button", class: "quiet", "aria-label": `Keep ${name} no longer` }, "×");
    open.addEventListener("click", () => show(name));
    away.addEventListener("click", () => keep(name, []));
    return make("span", { class: "kept" }, open, away);
  }));
}

/** Read which selections are kept. */
export async function start() {
  const told = await trying(() => ask("api/selections"));
  names = told?.names ?? {};
  draw();
}

byId("save-form").addEventListener("submit", () => {
  const name = byId("save-name").value.trim();
  if (name) keep(name, meant());
});
byId("save-chosen").addEventListener("click", askName);
on("list", draw);
