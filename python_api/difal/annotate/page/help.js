// The help overlay: every key.

import { open } from "./classes.js";

const COMMANDS = [
  ["Space", "confirm the model's guess"],
  ["-", "no class fits: the pixel is none of them"],
  [",", "can't tell: the picture does not say"],
  [".", "ask this one later"],
  ["Backspace", "undo: take the last answer back and ask it again"],
  ["←  →", "back to earlier answers, and forward; another answer replaces the earlier one"],
  ["/", "find a class by its name"],
  ["o", "show or hide the prediction over the image"],
  ["u", "show or hide where the model is unsure"],
  ["h", "hide both while held"],
  ["PageUp  PageDown", "closer and farther, as the wheel or two fingers do over the whole image"],
  ["Shift + arrows", "pan, as dragging does"],
  ["Home", "the whole image again"],
  ["i", "all images"],
  ["b", "brightness and contrast as in the file"],
  ["m", "light or dark"],
  ["?", "this list"],
  ["Esc", "close, or back to the questions"],
];

function table(head, rows) {
  const box = document.createElement("table");
  const first = box.insertRow();
  for (const text of head) {
    const cell = document.createElement("th");
    cell.scope = "col";
    cell.textContent = text;
    first.append(cell);
  }
  for (const row of rows) {
    const line = box.insertRow();
    const [name, ...others] = row;
    const key = document.createElement("kbd");
    key.textContent = name;
    line.insertCell().append(key);
    for (const text of others) line.insertCell().textContent = text;
  }
  return box;
}

function paragraph(text) {
  const box = document.createElement("p");
  box.textContent = text;
  return box;
}

export function fillHelp(box) {
  box.replaceChildren(
    paragraph("Which class is the pixel in the frame? Press its key. The ring and the frame lie around the pixel and "
      + "never on it. Every answer is kept at once; closing the page loses nothing."),
    paragraph("A screen reader is told where each pixel is: x and y count from 0 at the top left, as in the label files."),
    table(["Key", "Class"], open().map((one) => [one.key ?? "/", one.name])),
    table(["Key", "What it does"], COMMANDS),
    paragraph("With the prediction shown, click where it is wrong and give the class; with the image in focus, the "
      + "arrow keys move the frame (with Shift by ten pixels) and Enter marks the pixel."),
  );
}
