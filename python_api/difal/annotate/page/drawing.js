// The three views. Each canvas has one pixel a device pixel, whatever the page's zoom, so that nothing is resampled twice.

export const WINDOW = 320; // as in images.py
const NEAR = 75; // pixels across the shorter side of the neighbourhood
const CELLS = 11; // pixels across the shorter side of the magnified view

// Left, top, width and height of the window around a pixel; as in images.py.
export function windowAt(x, y, width, height) {
  const left = Math.max(0, Math.min(x - Math.floor(WINDOW / 2), width - WINDOW));
  const top = Math.max(0, Math.min(y - Math.floor(WINDOW / 2), height - WINDOW));
  return { left, top, width: Math.min(WINDOW, width), height: Math.min(WINDOW, height) };
}

export class View {
  constructor(canvas, redraw) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { alpha: false });
    this.observer = new ResizeObserver((entries) => {
      const box = entries.at(-1);
      const exact = box.devicePixelContentBoxSize?.[0];
      const side = (counted, length) => {
        const computed = length * devicePixelRatio; // where a page's scale is emulated, the box counts other pixels
        return counted !== undefined && Math.abs(counted - computed) <= 1 ? counted : Math.round(computed);
      };
      const width = side(exact?.inlineSize, box.contentRect.width);
      const height = side(exact?.blockSize, box.contentRect.height);
      if (width && height && (width !== canvas.width || height !== canvas.height)) {
        canvas.width = width;
        canvas.height = height;
        redraw();
      }
    });
    try {
      this.observer.observe(canvas, { box: "device-pixel-content-box" });
    } catch {
      this.observer.observe(canvas);
    }
  }

  clear() {
    const { context, canvas } = this;
    context.fillStyle = "#777";
    context.fillRect(0, 0, canvas.width, canvas.height);
  }
}

// A line that shows on any ground: white within black.
function outline(context, draw, width) {
  for (const [color, wide] of [["#000", 3 * width], ["#fff", width]]) {
    context.strokeStyle = color;
    context.lineWidth = wide;
    context.beginPath();
    draw();
    context.stroke();
  }
}

function ring(context, u, v, radius, unit) {
  outline(context, () => {
    context.arc(u, v, radius, 0, 2 * Math.PI);
    for (const [du, dv] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      context.moveTo(u + du * radius, v + dv * radius);
      context.lineTo(u + du * (radius + 9 * unit), v + dv * (radius + 9 * unit));
    }
  }, 1.5 * unit);
}

// Where the image lies in the view of the whole, `scale` device pixels a pixel of the image: in its middle, or as far
// as the lens has gone into it.
export function fit(view, width, height) {
  const { zoom, x, y } = view.lens ?? { zoom: 1, x: 0.5, y: 0.5 };
  const scale = zoom * Math.min(view.canvas.width / width, view.canvas.height / height);
  const start = (side, whole, middle) => (zoom === 1 ? Math.floor((side - whole) / 2)
    : Math.round(side / 2 - middle * whole));
  const left = start(view.canvas.width, width * scale, x);
  const top = start(view.canvas.height, height * scale, y);
  return { scale, left, top };
}

// The whole image; `layer` is drawn over it, `points` are answered pixels.
export function drawWhole(view, shown, layer, points) {
  view.clear();
  if (!shown.whole) return;
  const { context } = view;
  const { scale, left, top } = fit(view, shown.width, shown.height);
  context.imageSmoothingEnabled = scale < 3;
  context.imageSmoothingQuality = "medium";
  const box = [left, top, shown.width * scale, shown.height * scale];
  context.drawImage(shown.whole, ...box);
  if (shown.exact !== shown.whole && scale > shown.whole.width / shown.width) { // the whole comes reduced
    const { exact, origin } = shown;
    context.drawImage(exact, left + origin.x * scale, top + origin.y * scale, exact.width * scale, exact.height * scale);
  }
  if (layer) {
    context.globalAlpha = layer.opacity;
    context.imageSmoothingEnabled = false;
    context.drawImage(layer.canvas, ...box);
    context.globalAlpha = 1;
  }
  const unit = Math.max(1, devicePixelRatio);
  for (const point of points) {
    const u = left + (point.x + 0.5) * scale;
    const v = top + (point.y + 0.5) * scale;
    context.fillStyle = point.color;
    context.beginPath();
    context.arc(u, v, 4 * unit, 0, 2 * Math.PI);
    context.fill();
    outline(context, () => context.arc(u, v, 4 * unit, 0, 2 * Math.PI), 0.7 * unit);
  }
  if (shown.x !== null) ring(context, left + (shown.x + 0.5) * scale, top + (shown.y + 0.5) * scale, 13 * unit, unit);
}

// The image around the asked pixel, `size` device pixels each, as much as the canvas holds; returns where the pixel lies.
function drawAround(view, shown, size) {
  const { context, canvas } = view;
  const at = { x: Math.floor((canvas.width - size) / 2), y: Math.floor((canvas.height - size) / 2) };
  context.imageSmoothingEnabled = false;
  const [before, above] = [Math.ceil(at.x / size), Math.ceil(at.y / size)];
  const from = { x: Math.max(shown.origin.x, shown.x - before), y: Math.max(shown.origin.y, shown.y - above) };
  const to = {
    x: Math.min(shown.origin.x + shown.exact.width, shown.x + before + 2),
    y: Math.min(shown.origin.y + shown.exact.height, shown.y + above + 2),
  };
  context.drawImage(
    shown.exact,
    from.x - shown.origin.x, from.y - shown.origin.y, to.x - from.x, to.y - from.y,
    at.x + (from.x - shown.x) * size, at.y + (from.y - shown.y) * size,
    (to.x - from.x) * size, (to.y - from.y) * size,
  );
  return at;
}

function pixelSize(view, across) {
  return Math.max(1, Math.floor(Math.min(view.canvas.width, view.canvas.height) / across));
}

export function drawNeighbourhood(view, shown) {
  view.clear();
  if (!shown.exact || shown.x === null) return;
  const size = pixelSize(view, NEAR);
  const at = drawAround(view, shown, size);
  const unit = Math.max(1, devicePixelRatio);
  ring(view.context, at.x + size / 2, at.y + size / 2, Math.max(10 * unit, 2.5 * size), unit);
}

// The pixel itself stays as it is: the frame lies around it.
export function drawMagnified(view, shown) {
  view.clear();
  if (!shown.exact || shown.x === null) return;
  const size = pixelSize(view, CELLS);
  const at = drawAround(view, shown, size);
  const unit = Math.max(1, Math.round(1.5 * devicePixelRatio));
  for (const [color, away, wide] of [["#fff", unit, unit], ["#000", 2 * unit, unit]]) {
    view.context.fillStyle = color;
    const [x, y, side] = [at.x - away, at.y - away, size + 2 * away];
    view.context.fillRect(x, y, side, wide);
    view.context.fillRect(x, y + side - wide, side, wide);
    view.context.fillRect(x, y, wide, side);
    view.context.fillRect(x + side - wide, y, wide, side);
  }
  view.canvas.dataset.pixel = JSON.stringify({ x: at.x, y: at.y, size });
  view.canvas.dataset.at = `${shown.x},${shown.y}`;
}
