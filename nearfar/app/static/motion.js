/* Moving the map by hand, by wheel and by two fingers. While it moves, what is drawn is shifted and stretched as it
   is, which costs the same for any number of points; when it rests, it is drawn anew. */

const REST = 150; // milliseconds without movement, after which the map rests; as much again as drawing takes
const SLIP = 4; // pixels that a click may slip
const still = { scale: 1, across: 0, down: 0 };

/** How far the map is from where it was drawn: a place at `p` is now at `scale * p + across`. */
export const moved = { ...still };
export const moving = () => moved.scale !== 1 || moved.across !== 0 || moved.down !== 0;

let drags = [], resting = () => {};
/** Whether the last press moved the map, or one of the last two did, and so was no click. */
export const wasDragged = (presses = 1) => drags.slice(0, presses).includes(true);

/** Draw the map anew if it has moved; call this before anything else changes what it shows. */
export const settle = () => moving() && resting();

/** Let `div` be moved while `may()`. `move` is called for each movement, `rest` once the map is to be drawn anew. */
export function movable(div, { may, move, rest }) {
  const hands = new Map(); // where each finger, or the mouse, holds the map
  let waiting, start, cost = 0;

  resting = () => {
    clearTimeout(waiting);
    const began = performance.now();
    rest();
    Object.assign(moved, still);
    div.firstElementChild.style.transform = "";
    // The second frame from here comes once the first was drawn.
    requestAnimationFrame(() => requestAnimationFrame(() => (cost = performance.now() - began)));
  };

  /** Bring what is at one place to another, and stretch the map around it. */
  function carry([fromX, fromY], [toX, toY], factor) {
    moved.scale *= factor;
    moved.across = toX + (moved.across - fromX) * factor;
    moved.down = toY + (moved.down - fromY) * factor;
    const { scale, across, down } = moved;
    Object.assign(div.firstElementChild.style, { transformOrigin: "0 0", transform: `translate(${across}px, ${down}px) scale(${scale})` });
    move();
    clearTimeout(waiting);
    waiting = setTimeout(settle, REST + Math.min(cost, 3 * REST));
  }

  function place({ clientX, clientY }) {
    const box = div.getBoundingClientRect();
    return [clientX - box.left, clientY - box.top];
  }

  /** The middle of the hands, and how far they are apart. */
  function grip() {
    const [[x, y], [u, v] = [x, y]] = hands.values();
    return { middle: [(x + u) / 2, (y + v) / 2], apart: Math.hypot(x - u, y - v) };
  }

  const letGo = (event) => hands.delete(event.pointerId) && !hands.size && settle();

  div.addEventListener("pointerdown", (event) => {
    if (!hands.size) [drags, start] = [[false, drags[0]], place(event)];
    if (event.button || !may()) return;
    if (hands.size < 2) hands.set(event.pointerId, place(event));
  });
  addEventListener("pointermove", (event) => {
    if (!event.buttons) letGo(event); // it was let go where the page does not hear of it
    if (!hands.has(event.pointerId)) return;
    const to = place(event);
    drags[0] ||= hands.size > 1 || Math.hypot(to[0] - start[0], to[1] - start[1]) > SLIP;
    if (!drags[0]) return;
    const before = grip();
    hands.set(event.pointerId, to);
    const after = grip();
    carry(before.middle, after.middle, before.apart && after.apart ? after.apart / before.apart : 1);
  });
  addEventListener("pointerup", letGo);
  addEventListener("pointercancel", letGo);
  div.addEventListener("wheel", (event) => {
    event.preventDefault();
    if (event.buttons) return;
    // A line of a wheel is about 16 pixels; two fingers on a touchpad come as a wheel with Ctrl, in small steps.
    const pixels = event.deltaY * (event.deltaMode === 1 ? 16 : 1) * (event.ctrlKey ? 5 : 1);
    carry(place(event), place(event), Math.exp(-Math.max(-240, Math.min(240, pixels)) / 500));
  }, { passive: false });
}
