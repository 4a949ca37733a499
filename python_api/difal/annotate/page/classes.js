// Classes: colours with patterns, keys, buttons.

export let classes = [];

export function setClasses(list) {
  const changed = JSON.stringify(list) !== JSON.stringify(classes);
  classes = list;
  return changed;
}

export function open() {
  return classes.filter((one) => one.merged === null);
}

export function nameOf(id) {
  return id === null || id === undefined ? "" : classes[id]?.name ?? `class ${id}`;
}

// Where the answers of a class go now; null where its adding was taken back.
export function resolve(id) {
  let now = id;
  while (classes[now] && classes[now].merged !== null) now = classes[now].merged;
  return classes[now] ? now : null;
}

export function byKey(key) {
  return open().find((one) => one.key === key);
}

export function rgb(hex) {
  return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
}

// Whether the pattern is drawn at a pixel: what tells classes apart without their colours.
const PATTERN = {
  solid: () => false,
  diagonal: (x, y) => (x + y) % 8 < 2,
  dots: (x, y) => x % 6 < 2 && y % 6 < 2,
  horizontal: (x, y) => y % 7 < 2,
  vertical: (x) => x % 7 < 2,
  cross: (x, y) => (x + y) % 9 < 2 || (((x - y) % 9) + 9) % 9 < 2,
  "back-diagonal": (x, y) => (((x - y) % 8) + 8) % 8 < 2,
  grid: (x, y) => x % 9 < 2 || y % 9 < 2,
};

export function patternAt(name, x, y) {
  return PATTERN[name](x, y);
}

export function swatch(one) {
  const canvas = document.createElement("canvas");
  canvas.className = "swatch";
  canvas.width = canvas.height = 22;
  const context = canvas.getContext("2d");
  const image = context.createImageData(22, 22);
  const color = rgb(one.color);
  for (let y = 0, at = 0; y < 22; y += 1) {
    for (let x = 0; x < 22; x += 1, at += 4) {
      const dark = patternAt(one.pattern, x, y) ? 0.35 : 1;
      for (let part = 0; part < 3; part += 1) image.data[at + part] = color[part] * dark;
      image.data[at + 3] = 255;
    }
  }
  context.putImageData(image, 0, 0);
  canvas.setAttribute("aria-hidden", "true");
  return canvas;
}

// What a button shows of a class, so that a long name breaks or is cut before its key is.
export function label(one, text = one.name) {
  const name = document.createElement("span");
  name.className = "class-name";
  name.textContent = text;
  return [swatch(one), name];
}

// Draw the class buttons into `box`; `choose(id)` on a click.
export function drawButtons(box, choose) {
  box.replaceChildren(
    ...open().map((one) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "answer";
      button.dataset.classId = one.class_id;
      button.append(...label(one));
      if (one.key) {
        const key = document.createElement("kbd");
        key.textContent = one.key;
        button.append(key);
        button.setAttribute("aria-keyshortcuts", one.key);
      }
      button.addEventListener("click", () => choose(one.class_id));
      return button;
    }),
  );
}
