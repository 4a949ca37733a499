// All images with their predictions.

import { overview } from "./asking.js";
import { colored, load } from "./overlay.js";

const WIDTH = 240;

export class Gallery {
  constructor(box, choose) {
    this.box = box;
    this.choose = choose;
    this.tiles = [];
    this.shownVersion = -1;
  }

  // Make a tile for each image and fill those in sight first.
  open(names, version) {
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
        return { button, canvas, drawn: -1 };
      });
      this.box.replaceChildren(...this.tiles.map((tile) => tile.button));
    }
    this.refresh(version);
  }

  async refresh(version) {
    if (this.shownVersion === version && this.tiles.every((tile) => tile.drawn === version)) return;
    this.shownVersion = version;
    const tiles = this.tiles.map((tile, image) => ({ tile, image }));
    const worker = async () => {
      while (tiles.length && this.shownVersion === version && !this.closed) {
        const { tile, image } = tiles.shift();
        try {
          await this.draw(tile, image, version);
        } catch { /* the server is away; drawn again with the next head */ }
      }
    };
    this.closed = false;
    await Promise.all([worker(), worker()]);
    this.box.dataset.version = this.shownVersion;
  }

  async draw(tile, image, version) {
    if (tile.drawn === version) return;
    const whole = await overview(image, false);
    const scale = Math.min(1, WIDTH / whole.width);
    tile.canvas.width = Math.max(1, Math.round(whole.width * scale));
    tile.canvas.height = Math.max(1, Math.round(whole.height * scale));
    const context = tile.canvas.getContext("2d");
    context.drawImage(whole, 0, 0, tile.canvas.width, tile.canvas.height);
    if (version) {
      const layer = await load(image, "classes", version, false);
      if (layer) {
        context.globalAlpha = 0.55;
        context.imageSmoothingEnabled = false;
        context.drawImage(colored(layer.bitmap), 0, 0, tile.canvas.width, tile.canvas.height);
        context.globalAlpha = 1;
      }
    }
    tile.drawn = version;
    tile.button.dataset.version = version;
  }

  close() {
    this.closed = true;
  }
}
