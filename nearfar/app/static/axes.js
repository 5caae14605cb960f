/* The axes of the map: what they show at first, and where plotly puts a value, so that others can draw before it. */

const EDGE = 0.04; // of the spread of the points, left free on either side

/** What an axis shows so that all points are in sight: its ends. */
export function rangesOf(values) {
  let low = Infinity, high = -Infinity;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  const edge = EDGE * (high - low) || 1;
  return [low - edge, high + edge];
}

/** Both axes as plotly keeps them, on a stage of some size: `l2p` gives the pixels of a value after `_offset`. */
export function axesOf([across, up], wide, high, margin) {
  const axis = ([low, top], length) => ({ range: [low, top], _offset: margin, _length: length, l2p: (value) => ((value - low) / (top - low)) * length });
  const xaxis = axis(across, wide - 2 * margin), yaxis = axis(up, high - 2 * margin);
  return { xaxis, yaxis: { ...yaxis, l2p: (value) => yaxis._length - yaxis.l2p(value) } };
}
