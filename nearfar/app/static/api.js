/* Talks to the server: JSON, and frames of numbers. Addresses are relative, since a proxy may serve the page. */

const BREATH = 200; // milliseconds from one question how far work is to the next
const KINDS = { f4: Float32Array, i4: Int32Array, u1: Uint8Array };

/** The server cannot be asked now; what was to be saved has to be kept. */
export class Away extends Error {
  away = true;
}
/** Images were added or deleted since the page numbered them. */
export class Stale extends Error {}
/** Long work was cancelled, or is no longer wanted here. */
export class Stopped extends Error {}

async function answered(path, body) {
  const file = body instanceof Blob;
  let answer;
  try {
    answer = await fetch(path, body === undefined ? {} : {
      method: "POST",
      headers: { "content-type": file ? "application/octet-stream" : "application/json" },
      body: file ? body : JSON.stringify(body),
    });
  } catch {
    throw new Away("The server does not answer; is nearfar explore still running?");
  }
  if (answer.ok) return answer;
  const json = (answer.headers.get("content-type") ?? "").includes("json");
  const text = json ? (await answer.json()).error : (await answer.text()).slice(0, 300);
  if (answer.status === 403) throw new Away("The server does not know this page any more; open the address that nearfar explore has printed.");
  if (answer.status >= 500) throw new Away(`The server cannot answer now (${answer.status}).`);
  if (answer.status === 409) throw new Stale(text);
  throw new Error(text);
}

/** Ask until long work is finished; `told` hears how far it is, and says whether it is still wanted. */
async function finished(path, body, told) {
  for (let job = ""; ; ) {
    const answer = await answered(job ? `${path}${path.includes("?") ? "&" : "?"}job=${job}` : path, body);
    if (answer.status !== 202) return answer;
    const far = await answer.json();
    if (far.cancelled) throw new Stopped("This was cancelled.");
    ({ job } = far);
    if (told?.(far) === false) throw new Stopped("This is no longer wanted.");
    await new Promise((done) => setTimeout(done, BREATH));
  }
}

/** Ask the server; a body makes it a POST. Gives JSON, a picture or a sound, or a frame: its head and its arrays by name. */
export async function ask(path, body, told) {
  let answer;
  try {
    answer = await finished(path, body, told);
  } catch (error) {
    if (!(error instanceof Stale) || path === "api/labels" || path === "api/set") throw error;
    location.reload();
    return new Promise(() => {});
  }
  const kind = answer.headers.get("content-type") ?? "";
  if (kind.startsWith("image/") || kind.startsWith("audio/")) return answer.blob();
  return kind.includes("json") ? answer.json() : opened(await answer.arrayBuffer());
}

/** Have the browser save what the server answers. */
export async function download(path, body, name) {
  const url = URL.createObjectURL(await (await answered(path, body)).blob());
  const link = document.createElement("a");
  Object.assign(link, { href: url, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
}

/** Open a frame; see frames.py. */
function opened(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const { head, parts } = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const found = { head };
  let at = 4 + length;
  for (const { name, kind, length: count } of parts) {
    found[name] = new KINDS[kind](buffer, at, count);
    at += Math.ceil(found[name].byteLength / 4) * 4;
  }
  return found;
}
