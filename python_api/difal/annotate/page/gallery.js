// All images with their predictions: sketches of them, which are there at once, and then the predictions themselves.

import { picture } from "./net.js";
import { colored, load } from "./overlay.js";

const WIDTH = 240;
const AT_ONCE = 2;

export class Gallery {
  constructor(box, choose) {
    this.box = box;
    this.choose = choose;
    this.tiles = [];
    this.shownVersion = -1;
    this.closed = true;
    // A page of thousands of images draws those in sight first.
    this.sight = new IntersectionObserver((entries) => {
      for (const entry of entries) entry.target.tile.inSight = entry.isIntersecting;
    });
  }

  // Make a tile for each image and fill those in sight first.
  open(names, version) {
    this.closed = false;
    if (this.tiles.length !== names.length) {
      this.tiles = names.map((name, image) => {
        const button = document.createElement("button");
        button.type = "button";
        const canvas = document.createElement("canvas");
        canvas.width = WIDTH;
        canvas.height = Math.round(0.75 * WIDTH);
        const text = document.createElement("span");
        text.textContent = name;
        button.append(canvas, text);
        button.setAttribute("aria-label", `Image ${name}: look at it and correct it`);
        button.addEventListener("click", () => this.choose(image));
        button.tile = { button, canvas, image, drawn: -1, exact: -1, inSight: false };
        this.sight.observe(button);
        return button.tile;
      });
      this.box.replaceChildren(...this.tiles.map((tile) => tile.button));
    }
    this.refresh(version);
  }

  // Draw all tiles by the head of `version`: roughly, then as the head predicts them.
  async refresh(version) {
    if (this.shownVersion === version && this.working) return;
    this.shownVersion = version;
    this.working = true;
    const current = () => this.shownVersion === version && !this.closed;
    await this.all((tile) => tile.drawn !== version, (tile) => this.draw(tile, version), current);
    if (current()) this.box.dataset.version = version;
    await this.all((tile) => version && tile.exact !== version, (tile) => this.refine(tile, version), current);
    if (!current()) return;
    this.box.dataset.exact = version;
    this.working = false;
  }

  // Do something with each tile of which it is `wanted`, those in sight first, a few at a time, while it is `current`.
  async all(wanted, act, current) {
    const left = this.tiles.filter(wanted);
    const worker = async () => {
      while (left.length && current()) {
        const at = Math.max(0, left.findIndex((tile) => tile.inSight));
        const [tile] = left.splice(at, 1);
        try {
          await act(tile);
        } catch { /* the server is away; drawn again with the next head */ }
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, worker));
  }

  async draw(tile, version) {
    tile.thumbnail ??= (await picture(`thumbnail?image=${tile.image}`, false)).bitmap;
    if (tile.drawn < 0) this.paint(tile, null);
    if (version) {
      const { bitmap, version: got, exact } = await picture(`sketch?image=${tile.image}`, false);
      this.paint(tile, bitmap);
      if (exact) tile.exact = got;
    }
    tile.drawn = version;
    tile.button.dataset.version = version;
  }

  async refine(tile, version) {
    const layer = await load(tile.image, "classes", version, false);
    if (!layer) return;
    this.paint(tile, layer.bitmap);
    tile.exact = version;
  }

  paint({ canvas, thumbnail }, bitmap) {
    if (canvas.width !== thumbnail.width) canvas.width = thumbnail.width;
    if (canvas.height !== thumbnail.height) canvas.height = thumbnail.height;
    const context = canvas.getContext("2d");
    context.drawImage(thumbnail, 0, 0);
    if (!bitmap) return;
    const ids = new OffscreenCanvas(canvas.width, canvas.height);
    const scaled = ids.getContext("2d", { willReadFrequently: true });
    scaled.imageSmoothingEnabled = false; // class ids have no mean
    scaled.drawImage(bitmap, 0, 0, ids.width, ids.height);
    context.globalAlpha = 0.55;
    context.drawImage(colored(ids), 0, 0);
    context.globalAlpha = 1;
  }

  close() {
    this.closed = true;
    this.working = false;
  }
}
