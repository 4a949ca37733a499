// What the model thinks, drawn over an image.

import { picture } from "./net.js";
import { classes, patternAt, resolve, rgb } from "./classes.js";

const KEPT = 80;

export const overlay = { on: false, unsure: false, held: false, opacity: 0.55, off: new Set() };
const layers = new Map(); // "image.part" to {version, canvas, bitmap}

export function visible() {
  return (overlay.on || overlay.unsure) && !overlay.held;
}

function pixels(bitmap) {
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, bitmap.width, bitmap.height).data;
}

// Class ids in the classes' colours and patterns; those that are switched off stay clear.
export function colored(bitmap) {
  const { width, height } = bitmap;
  const ids = pixels(bitmap);
  const image = new ImageData(width, height);
  const looks = classes.map((one) => {
    const now = classes[resolve(one.class_id) ?? one.class_id];
    return { color: rgb(now.color), pattern: now.pattern, off: overlay.off.has(now.class_id) };
  });
  for (let y = 0, at = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1, at += 4) {
      const look = looks[ids[at]];
      if (!look || look.off) continue;
      const dark = patternAt(look.pattern, x, y) ? 0.35 : 1;
      image.data[at] = look.color[0] * dark;
      image.data[at + 1] = look.color[1] * dark;
      image.data[at + 2] = look.color[2] * dark;
      image.data[at + 3] = 255;
    }
  }
  return toCanvas(image);
}

// Uncertainty from clear, sure, to bright, unsure.
function heated(bitmap) {
  const { width, height } = bitmap;
  const values = pixels(bitmap);
  const image = new ImageData(width, height);
  for (let at = 0; at < values.length; at += 4) {
    const value = values[at];
    image.data[at] = 255;
    image.data[at + 1] = 60 + 0.75 * value;
    image.data[at + 2] = 0.6 * value;
    image.data[at + 3] = value;
  }
  return toCanvas(image);
}

function toCanvas(image) {
  const canvas = new OffscreenCanvas(image.width, image.height);
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

// The newest drawing of a part ("classes" or "unsure") of an image, or an older one, or null.
function drawing(image, part) {
  const found = layers.get(`${image}.${part}`);
  if (!found) return null;
  found.canvas ??= part === "classes" ? colored(found.bitmap) : heated(found.bitmap);
  return found;
}

export async function load(image, part, version, urgent = true) {
  const name = `${image}.${part}`;
  if (!version || layers.get(name)?.version >= version) return layers.get(name) ?? null;
  const { bitmap, version: got } = await picture(`view?image=${image}&part=${part}`, urgent);
  layers.delete(name);
  layers.set(name, { version: got, bitmap });
  if (layers.size > KEPT * 2) layers.delete(layers.keys().next().value);
  return layers.get(name);
}

// Colours or switches have changed: draw again when next shown.
export function recolor() {
  for (const layer of layers.values()) layer.canvas = null;
}

// The classes that are predicted in an image, as they are now; null where there is no prediction yet.
export function predicted(image) {
  const found = layers.get(`${image}.classes`);
  if (!found) return null;
  if (!found.ids) {
    const ids = pixels(found.bitmap);
    const seen = new Set();
    for (let at = 0; at < ids.length; at += 4) seen.add(ids[at]);
    found.ids = [...seen];
  }
  const now = new Set(found.ids.map((id) => resolve(id)).filter((id) => id !== null));
  return [...now].sort((a, b) => a - b);
}

// What to draw over an image now, or null.
export function layerOf(image) {
  if (!visible()) return null;
  const found = drawing(image, wantedPart());
  return found && { canvas: found.canvas, version: found.version, opacity: overlay.unsure ? 0.9 : overlay.opacity };
}

export function wantedPart() {
  return overlay.unsure ? "unsure" : "classes";
}
