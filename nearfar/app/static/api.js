/* Talks to the server: JSON, and frames of numbers. */

const KINDS = { f4: Float32Array, i4: Int32Array, u1: Uint8Array };

/** Ask the server; a body makes it a POST. Gives JSON, a picture, or a frame: its head and its arrays by name. */
export async function ask(path, body) {
  const file = body instanceof Blob;
  const answer = await fetch(path, body === undefined ? {} : {
    method: "POST",
    headers: { "content-type": file ? "application/octet-stream" : "application/json" },
    body: file ? body : JSON.stringify(body),
  });
  if (answer.status === 409) {
    location.reload();
    return new Promise(() => {});
  }
  const kind = answer.headers.get("content-type") ?? "";
  if (!answer.ok) throw new Error(kind.includes("json") ? (await answer.json()).error : await answer.text());
  if (kind.startsWith("image/")) return answer.blob();
  return kind.includes("json") ? answer.json() : opened(await answer.arrayBuffer());
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
