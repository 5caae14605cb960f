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
 * `y * down[0] + down[1]`; `but` is a box, [left, top, right, bottom], in which none are wanted.
 */
export function paintPoints(pen, { x, y, codes, colours, radius, across, down, but }) {
  const { width, height } = pen.canvas;
  if (image?.width !== width || image?.height !== height) image = pen.createImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer).fill(0), ink = inks(colours), around = disc(radius, width), edge = Math.ceil(radius);
  const [left, top, right, bottom] = but ?? [0, 0, 0, 0], step = Math.ceil(x.length / MOST);
  for (let row = 0; row < x.length; row += step) {
    const h = Math.round(x[row] * across[0] + across[1]), v = Math.round(y[row] * down[0] + down[1]);
    if (!(h >= edge && h < width - edge && v >= edge && v < height - edge)) continue;
    if (h > left && h < right && v > top && v < bottom) continue;
    const colour = ink[codes[row]], middle = v * width + h;
    for (const away of around) pixels[middle + away] = colour;
  }
  pen.putImageData(image, 0, 0);
}
