/* Points painted pixel by pixel: not as fine as what plotly draws, and much quicker where no GPU helps. */

const MOST = 200000; // points of a frame

let known = {}, image = null; // what a frame leaves to the next
/** Give each colour as four bytes, as the pixels of a canvas are kept. */
function inks(colours) {
  if (known.colours === colours) return known.bytes;
  const canvas = document.createElement("canvas");
  canvas.width = colours.length;
  const pen = canvas.getContext("2d");
  colours.forEach((colour, at) => {
    pen.fillStyle = colour;
    pen.fillRect(at, 0, 1, 1);
  });
  known = { colours, bytes: new Uint32Array(pen.getImageData(0, 0, colours.length, 1).data.buffer) };
  return known.bytes;
}

/** Where the pixels of a disc are, from its middle, in an image of some width. */
function disc(radius, width) {
  const around = [], reach = Math.ceil(radius);
  for (let down = -reach; down <= reach; down++) {
    for (let across = -reach; across <= reach; across++) {
      if (Math.hypot(across, down) <= radius) around.push(down * width + across);
    }
  }
  return around;
}

/**
 * Paint points over all of a canvas. The place of a point, in the canvas's pixels, is `x * across[0] + across[1]` and
 * `y * down[0] + down[1]`; `but` is a box, [left, top, right, bottom], in which none are wanted; `most` points are
 * painted.
 */
export function paintPoints(pen, { x, y, codes, colours, radius, across, down, but, most = MOST }) {
  const { width, height } = pen.canvas;
  if (image?.width !== width || image?.height !== height) image = pen.createImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer).fill(0), ink = inks(colours), around = disc(radius, width), edge = Math.ceil(radius);
  const [left, top, right, bottom] = but ?? [0, 0, 0, 0], step = Math.ceil(x.length / most);
  for (const out of [true, false]) for (let row = 0; row < x.length; row += step) {
    if ((codes[row] === 0) !== out) continue; // those that are left out lie below the others
    const h = Math.round(x[row] * across[0] + across[1]), v = Math.round(y[row] * down[0] + down[1]);
    if (!(h >= edge && h < width - edge && v >= edge && v < height - edge)) continue;
    if (h > left && h < right && v > top && v < bottom) continue;
    const colour = ink[codes[row]], middle = v * width + h;
    for (const away of around) pixels[middle + away] = colour;
  }
  pen.putImageData(image, 0, 0);
}

/** The row whose point is nearest to a place in pixels, no farther than `reach`; or -1. The lines are as in `paintPoints`. */
export function nearest({ x, y, across, down }, h, v, reach) {
  let best = reach * reach, found = -1;
  for (let row = 0; row < x.length; row++) {
    const side = x[row] * across[0] + across[1] - h, up = y[row] * down[0] + down[1] - v, away = side * side + up * up;
    if (away < best) [best, found] = [away, row];
  }
  return found;
}

/** The rows whose points lie inside a line that is drawn around them; it closes by itself. */
export function inside({ x, y }, line) {
  const [left, right] = [Math.min(...line.x), Math.max(...line.x)], [low, high] = [Math.min(...line.y), Math.max(...line.y)];
  const rows = [], count = line.x.length;
  for (let row = 0; row < x.length; row++) {
    const h = x[row], v = y[row];
    if (h < left || h > right || v < low || v > high) continue;
    let odd = false; // how often a ray to the right crosses the line
    for (let at = 0, last = count - 1; at < count; last = at++) {
      const [a, b] = [line.y[at], line.y[last]];
      if (a > v !== b > v && h < line.x[at] + ((v - a) / (b - a)) * (line.x[last] - line.x[at])) odd = !odd;
    }
    if (odd) rows.push(row);
  }
  return rows;
}
