// Zoom and pan of the whole image: by wheel, drag, two fingers and keys.

import { fit } from "./drawing.js";

const LARGEST_PIXEL = 40; // device pixels a pixel of the image, at most
const STEP = 1.5; // a key's zoom
const STILL = 5; // CSS pixels that a click may move

export class Lens {
  // `size()` gives {width, height} of the image shown, or null; `changed()` is called when it is to be drawn anew.
  constructor(view, size, changed) {
    this.view = view;
    this.size = size;
    this.changed = changed;
    this.fingers = new Map();
    this.moved = 0; // CSS pixels since the pointer went down
    view.lens = { zoom: 1, x: 0.5, y: 0.5 }; // what share of the image lies in the middle
    const { canvas } = view;
    canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const end of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(end, (event) => this.fingers.delete(event.pointerId));
    }
  }

  get dragged() {
    return this.moved > STILL;
  }

  // The whole image again.
  reset() {
    if (this.view.lens.zoom === 1) return;
    this.view.lens = { zoom: 1, x: 0.5, y: 0.5 };
    this.changed();
  }

  closer(factor) {
    this.zoom(factor, this.view.canvas.width / 2, this.view.canvas.height / 2);
  }

  nearer() {
    this.closer(STEP);
  }

  farther() {
    this.closer(1 / STEP);
  }

  // Pan by shares of the view.
  step(right, down) {
    this.pan(-right * 0.2 * this.view.canvas.width, -down * 0.2 * this.view.canvas.height);
  }

  // Pan, if need be, so that a pixel of the image is in sight.
  follow(x, y) {
    const shown = this.size();
    if (!shown || this.view.lens.zoom === 1) return;
    const { scale, left, top } = fit(this.view, shown.width, shown.height);
    const { width, height } = this.view.canvas;
    const [u, v] = [left + (x + 0.5) * scale, top + (y + 0.5) * scale];
    if (u > 0.1 * width && u < 0.9 * width && v > 0.1 * height && v < 0.9 * height) return;
    this.pan(width / 2 - u, height / 2 - v);
  }

  // Zoom so that what lies at device pixel (u, v) of the canvas stays there.
  zoom(factor, u, v) {
    const shown = this.size();
    if (!shown) return;
    const { zoom } = this.view.lens;
    const { scale, left, top } = fit(this.view, shown.width, shown.height);
    const most = Math.max(1, (LARGEST_PIXEL * zoom) / scale);
    const next = Math.min(most, Math.max(1, zoom * factor));
    const after = (scale * next) / zoom;
    this.set(next, after, u - ((u - left) / scale) * after, v - ((v - top) / scale) * after, shown);
  }

  // Pan by device pixels of the canvas.
  pan(du, dv) {
    const shown = this.size();
    if (!shown) return;
    const { scale, left, top } = fit(this.view, shown.width, shown.height);
    this.set(this.view.lens.zoom, scale, left + du, top + dv, shown);
  }

  set(zoom, scale, left, top, shown) {
    // The image may leave the view's edges, but never its middle.
    const middle = (side, whole, start) => Math.min(1, Math.max(0, (side / 2 - start) / whole));
    const { width, height } = this.view.canvas;
    this.view.lens = zoom < 1.001 ? { zoom: 1, x: 0.5, y: 0.5 } : {
      zoom, x: middle(width, shown.width * scale, left), y: middle(height, shown.height * scale, top),
    };
    this.changed();
  }

  at(event) {
    const { canvas } = this.view;
    const box = canvas.getBoundingClientRect();
    return {
      u: ((event.clientX - box.left) * canvas.width) / box.width,
      v: ((event.clientY - box.top) * canvas.height) / box.height,
    };
  }

  wheel(event) {
    event.preventDefault();
    const { u, v } = this.at(event);
    const lines = event.deltaMode === 0 ? event.deltaY / 100 : event.deltaY;
    this.zoom(1.2 ** -Math.max(-4, Math.min(4, event.ctrlKey ? 5 * lines : lines)), u, v);
  }

  down(event) {
    if (!this.fingers.size) this.moved = 0;
    this.fingers.set(event.pointerId, { ...this.at(event), clientX: event.clientX, clientY: event.clientY });
    this.view.canvas.setPointerCapture(event.pointerId);
  }

  move(event) {
    const before = this.fingers.get(event.pointerId);
    if (!before) return;
    const now = { ...this.at(event), clientX: event.clientX, clientY: event.clientY };
    this.moved += Math.hypot(now.clientX - before.clientX, now.clientY - before.clientY);
    const other = [...this.fingers].find(([id]) => id !== event.pointerId)?.[1];
    this.fingers.set(event.pointerId, now);
    if (other) {
      const apart = (one) => Math.max(1, Math.hypot(one.u - other.u, one.v - other.v));
      this.pan((now.u - before.u) / 2, (now.v - before.v) / 2);
      this.zoom(apart(now) / apart(before), (now.u + other.u) / 2, (now.v + other.v) / 2);
    } else if (this.dragged) {
      this.pan(now.u - before.u, now.v - before.v);
    }
  }
}
