'use strict';
// From arrays to pictures on a canvas. Nothing is interpolated: a pixel of the map is a square.

const PREDICTED = [230, 159, 0]; // orange
const TRUTH = [0, 200, 190]; // teal; the two are told apart without colour vision, and by their line
const LEAST_WIDTH = 480; // canvas pixels, so that outlines are finer than the map's pixels

const colourTables = Object.fromEntries(
  Object.entries(index.colour_maps).map(([name, digits]) => {
    const table = new Uint8Array(digits.length / 2);
    for (let i = 0; i < table.length; i += 1) table[i] = parseInt(digits.slice(2 * i, 2 * i + 2), 16);
    return [name, table];
  }),
);

const lookups = new WeakMap();
/** bin -> place in a colour table, 0..255, for a method's scale of colours. */
function lookupOf(method) {
  if (!lookups.has(method)) {
    const [low, high] = method.colours;
    const places = new Uint8ClampedArray(2 * ZERO_BIN + 1);
    for (let bin = 0; bin < places.length; bin += 1) {
      places[bin] = Math.round((255 * (valueOf(bin, method.scale) - low)) / (high - low));
    }
    lookups.set(method, places);
  }
  return lookups.get(method);
}

/** Grey values (uint8) as RGBA. */
function grey(values) {
  const pixels = new Uint8ClampedArray(4 * values.length);
  for (let i = 0; i < values.length; i += 1) {
    pixels[4 * i] = pixels[4 * i + 1] = pixels[4 * i + 2] = values[i];
    pixels[4 * i + 3] = 255;
  }
  return pixels;
}

/** Values 0..255, or bins where there is a lookup, in a colour map as RGBA; opacity: a function of the place, 0..255. */
function coloured(values, table, lookup, opacity) {
  const pixels = new Uint8ClampedArray(4 * values.length);
  for (let i = 0; i < values.length; i += 1) {
    const place = lookup ? lookup[values[i]] : values[i];
    pixels[4 * i] = table[3 * place];
    pixels[4 * i + 1] = table[3 * place + 1];
    pixels[4 * i + 2] = table[3 * place + 2];
    pixels[4 * i + 3] = opacity ? opacity(place) : 255;
  }
  return pixels;
}

/** Lay RGBA over RGBA, in place. */
function layOver(below, above) {
  for (let i = 0; i < below.length; i += 4) {
    const share = above[i + 3] / 255;
    for (let k = 0; k < 3; k += 1) below[i + k] += share * (above[i + k] - below[i + k]);
  }
  return below;
}

/** Tint where `inside` holds, in place. */
function tint(pixels, inside, colour, share) {
  for (let i = 0; i < inside.length; i += 1) {
    if (!inside[i]) continue;
    for (let k = 0; k < 3; k += 1) pixels[4 * i + k] += share * (colour[k] - pixels[4 * i + k]);
  }
  return pixels;
}

/**
 * Paint RGBA pixels (rows, columns) and outlines on a canvas; aspect: height of a pixel over its width;
 * outlines: [{inside, colour, dashed}], inside one value a pixel.
 */
function paint(canvas, pixels, [rows, columns], outlines = [], aspect = 1) {
  const own = new OffscreenCanvas(columns, rows);
  own.getContext('2d').putImageData(new ImageData(pixels, columns, rows), 0, 0);
  const across = Math.max(1, Math.ceil(LEAST_WIDTH / columns));
  const down = across * aspect;
  canvas.width = columns * across;
  canvas.height = Math.round(rows * down);
  const context = canvas.getContext('2d');
  context.imageSmoothingEnabled = false;
  context.drawImage(own, 0, 0, canvas.width, canvas.height);
  for (const line of outlines) {
    const path = edges(line.inside, rows, columns, across, down);
    const width = Math.max(1.5, canvas.width / 260);
    context.setLineDash([]);
    context.lineWidth = 2 * width;
    context.strokeStyle = 'rgba(0, 0, 0, 0.55)'; // a dark seam, for the line to be seen on bright colours
    context.stroke(path);
    context.setLineDash(line.dashed ? [4 * width, 2.5 * width] : []);
    context.lineWidth = width;
    context.strokeStyle = `rgb(${line.colour.join()})`;
    context.stroke(path);
  }
}

/** The sides of pixels between inside and outside. */
function edges(inside, rows, columns, across, down) {
  const path = new Path2D();
  const at = (row, column) => row >= 0 && row < rows && column >= 0 && column < columns && inside[row * columns + column];
  for (let row = 0; row <= rows; row += 1) {
    for (let column = 0; column <= columns; column += 1) {
      const here = Boolean(at(row, column));
      if (here !== Boolean(at(row - 1, column))) {
        path.moveTo(column * across, row * down);
        path.lineTo((column + 1) * across, row * down);
      }
      if (here !== Boolean(at(row, column - 1))) {
        path.moveTo(column * across, row * down);
        path.lineTo(column * across, (row + 1) * down);
      }
    }
  }
  return path;
}

/** Which of the bins reach a threshold, 0 or 1 each. */
function reaching(bins, threshold) {
  const inside = new Uint8Array(bins.length);
  for (let i = 0; i < bins.length; i += 1) inside[i] = bins[i] >= threshold ? 1 : 0;
  return inside;
}
