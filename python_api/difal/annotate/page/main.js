// The page: what is shown, and what keys do.

import { alone, browser, get, page, post, sleep, storage } from "./net.js";
import { keep, loaded, onChange, onRefused, send } from "./store.js";
import { Asking, prepare } from "./asking.js";
import { byKey, classes, drawButtons, label, nameOf, resolve, setClasses, swatch } from "./classes.js";
import { View, drawMagnified, drawNeighbourhood, drawWhole, fit } from "./drawing.js";
import { layerOf, load, overlay, predicted, recolor, visible, wantedPart } from "./overlay.js";
import { Lens } from "./lens.js";
import { Gallery } from "./gallery.js";
import { fillHelp } from "./help.js";
import { manageClasses, search, setUp, showResults, time } from "./panels.js";

const $ = (id) => document.getElementById(id);
const PHASES = {
  setup: "Name the classes first.",
  encoding: "The images are being read by the encoder.",
  working: "The model is learning and choosing what to ask next.",
  asking: "",
  done: "All rounds are done.",
  failed: "The model has stopped.",
};

let state = { version: -1, phase: "", classes: [], images: [], live: 0, mine: true };
let explored = null; // an image that she looks at instead of a question: {image, width, height, x, y, ...}
let overlaySeen = false; // while the current question was shown
let shownQuestion = null;
let guessesFor = 0;
let drawn = []; // what the views show

const redraw = () => draw(true);
const views = {
  whole: new View($("whole"), redraw),
  near: new View($("neighbourhood"), redraw),
  pixel: new View($("magnified"), redraw),
};
const asking = new Asking(() => show());
const gallery = new Gallery($("tiles"), explore);
const lens = new Lens(views.whole, shown, redraw);

// -- what is shown

function shown() {
  if (explored) return explored;
  const one = asking.current;
  return one?.pictures ? { ...one, ...one.pictures } : null;
}

// Draws only what has changed: news of the server come several times an answer.
function draw(again = false) {
  const now = shown();
  const layer = now && layerOf(now.image);
  const parts = [now?.whole, now?.exact, now?.x, now?.y, layer?.canvas, layer?.opacity, explored?.points.length];
  if (!again && parts.every((part, at) => part === drawn[at]) && drawn.length) return;
  drawn = parts;
  $("whole").dataset.head = layer?.version ?? "";
  if (!now) {
    for (const view of Object.values(views)) view.clear();
    return;
  }
  drawWhole(views.whole, now, layer, explored ? explored.points : []);
  drawNeighbourhood(views.near, now);
  drawMagnified(views.pixel, now);
}

function guessOf(question) {
  if (!question?.guess || !$("guesses").checked || asking.earlier) return null;
  const id = resolve(question.guess.class_id);
  return id === null ? null : { class_id: id, chance: question.guess.chance };
}

function show() {
  const one = asking.current;
  draw();
  const ready = Boolean(explored || one?.pictures);
  if (one !== shownQuestion || !ready) overlaySeen = false;
  if (one !== shownQuestion && !explored) lens.reset(); // where the ring is in sight
  if (!explored && one?.pictures && asking.shownAt === null) asking.painted();
  shownQuestion = one;
  overlaySeen ||= visible() && ready;
  document.body.dataset.question = explored ? "" : one?.pictures ? one.id : "";
  document.body.dataset.at = asking.at;
  document.body.dataset.ready = asking.queue.filter((each) => each.pictures).length;
  $("caption").textContent = explored ? state.images[explored.image] ?? "" : one ? one.name : "";
  $("whole").classList.toggle("exploring", Boolean(explored) || visible());
  showWaiting(one);
  showQuestion(one);
  announce(one);
  const guess = explored ? null : guessOf(one);
  $("confirm").hidden = !guess;
  if (guess) showGuess(classes[guess.class_id]);
  $("undo").disabled = !asking.history.length || Boolean(explored);
  $("back").disabled = asking.at === 0 || Boolean(explored);
  $("forward").disabled = asking.at >= asking.history.length || Boolean(explored);
  $("later").disabled = Boolean(explored) || asking.at < asking.history.length || asking.queue.length < 2;
  $("leave").hidden = !explored;
  showLegend();
  const given = explored?.entry ?? asking.earlier;
  const chosen = given && given.class_id !== null ? resolve(given.class_id) : null;
  for (const button of $("classes").children) {
    button.classList.toggle("chosen", chosen !== null && Number(button.dataset.classId) === chosen);
  }
  showWhatIsOpen();
}

function showGuess(one) {
  $("confirm").replaceChildren(...label(one, `${one.name}?`), kbd("Space"));
  $("confirm").title = one.name;
}

// Whether there is a pixel to answer for.
function canAnswer() {
  return explored ? explored.marked : Boolean(asking.current?.pictures);
}

// Buttons that would do nothing look so, but keep the focus: between two questions that lasts a moment.
function showWhatIsOpen() {
  const closed = String(!canAnswer());
  for (const button of [...$("classes").children, $("confirm"), $("none"), $("unsure"), $("search")]) {
    if (button.getAttribute("aria-disabled") !== closed) button.setAttribute("aria-disabled", closed);
  }
}

function kbd(text) {
  const key = document.createElement("kbd");
  key.textContent = text;
  return key;
}

function showQuestion(one) {
  let text = "";
  if (explored) {
    text = explored.marked ? "Which class is the pixel in the frame?"
      : "Click where the prediction is wrong, then give the class.";
  } else if (asking.earlier) {
    const said = asking.earlier.class_id === null ? { none: "no class fits", unsure: "can't tell" }[asking.earlier.reason]
      : nameOf(resolve(asking.earlier.class_id));
    text = `You said: ${said}. Another answer replaces it.`;
  } else if (one) {
    text = one.kind === "settle" ? "Two annotators differ here. Which class is it?" : "Which class is the pixel in the frame?";
  }
  if ($("question").textContent !== text) $("question").textContent = text;
}

// Tells a screen reader of each new question; what else changes at an answer is left unsaid.
let announced = "";
function announce(one) {
  const key = explored || !one?.pictures ? "" : `${one.id}.${asking.at}`;
  if (key === announced) return;
  announced = key;
  if (!key) return;
  const guess = guessOf(one);
  $("announced").textContent = `Pixel at x ${one.x}, y ${one.y} of ${one.name}.`
    + (guess ? ` The model's guess: ${nameOf(guess.class_id)}.` : "");
}

function showWaiting(one) {
  let text = "";
  if (!one && !explored) {
    if (state.phase === "failed") text = `${state.message || "The model has stopped."} Press Enter to try again.`;
    else if (state.phase === "done") text = "All rounds are done. Look at all images (i), correct what is wrong, or see Results.";
    else if (state.second) text = "You have answered everything that was asked so far.";
    else if (state.phase === "encoding") text = `Reading the images: ${state.encoded} of ${state.images.length} done. The first questions come in a moment.`;
    else if (state.phase) text = PHASES[state.phase] || "The next question is on its way.";
  }
  $("waiting").hidden = !text;
  if ($("waiting").textContent !== text) $("waiting").textContent = text;
}

function showState() {
  $("name").textContent = `${state.name} · ${state.annotator}`;
  const done = state.round_size - state.round_open;
  $("bar").max = Math.max(1, state.round_size);
  $("bar").value = done;
  $("counts").textContent = state.round_size
    ? `round ${state.round + 1} of ${state.rounds}: ${done} of ${state.round_size} · ${state.answered} in all`
    : `${state.answered} answered`;
  const left = state.seconds_left === null ? "" : ` · about ${time(state.seconds_left)} left`;
  $("pace").textContent = state.seconds === null ? "" : `${state.seconds.toFixed(1)} s an answer${left}`;
  const learning = state.phase === "encoding" ? `${state.encoded} of ${state.images.length} images read` : PHASES[state.phase] ?? "";
  $("phase").textContent = state.phase === "failed" ? state.message : learning;
  for (const id of ["name", "counts", "phase"]) $(id).title = $(id).textContent; // what a narrow window cuts
  document.body.dataset.phase = state.phase;
  document.body.dataset.live = state.live;
  document.body.dataset.trained = state.trained;
  if ($("results-dialog").open) showResults(state);
}

// -- what she does

function answer(said) {
  if (explored) {
    if (!explored.marked) return;
    const entry = keep({
      type: "answer", kind: "volunteered", image: explored.image, x: explored.x, y: explored.y,
      class_id: said.class_id ?? null, reason: said.reason ?? null, seconds: null,
      overlay_seen: true, guess_seen: false,
    });
    const color = said.class_id === undefined ? "#888" : classes[said.class_id].color;
    explored.points.push({ x: explored.x, y: explored.y, color });
    explored.marked = false;
    explored.entry = entry;
    show();
    return;
  }
  const guess = guessOf(asking.current);
  asking.answer(said, { guess_seen: Boolean(guess), overlay_seen: overlaySeen });
}

function confirm() {
  const guess = explored ? null : guessOf(asking.current);
  if (guess) answer({ class_id: guess.class_id });
}

async function explore(image, at = null) {
  closeGallery();
  const { answers, size } = await get(`answers?image=${image}`);
  const [height, width] = size;
  const place = { image, width, height, x: at?.x ?? Math.floor(width / 2), y: at?.y ?? Math.floor(height / 2) };
  const before = explored?.before ?? { on: overlay.on, unsure: overlay.unsure };
  const points = answers.map((one) => ({ x: one.x, y: one.y,
    color: one.class_id === null ? "#888" : classes[one.class_id]?.color ?? "#888" }));
  if (explored ? explored.image !== image : asking.current?.image !== image) lens.reset();
  explored = { ...place, ...(await prepare(place)), points, marked: at !== null, entry: null, before };
  if (!overlay.on && !overlay.unsure) overlay.on = true;
  await refreshLayer();
  showControls();
  show();
  $("whole").focus();
}

function leaveImage() {
  if (!explored) return;
  if (explored.marked) {
    explored.marked = false;
  } else {
    Object.assign(overlay, explored.before); // hidden again while asking, if it was
    explored = null;
    asking.shownAt = null;
  }
  showControls();
  show();
}

async function mark(x, y) {
  const now = explored;
  if (x < 0 || y < 0 || x >= now.width || y >= now.height) return;
  Object.assign(now, { x, y, marked: true, entry: null });
  const pictures = await prepare(now);
  if (explored === now && now.x === x && now.y === y) Object.assign(now, pictures);
  lens.follow(x, y);
  show();
}

function pointed(event) {
  const now = shown();
  if (!now) return null;
  const { scale, left, top } = fit(views.whole, now.width, now.height);
  const { u, v } = lens.at(event);
  const [x, y] = [Math.floor((u - left) / scale), Math.floor((v - top) / scale)];
  return x >= 0 && y >= 0 && x < now.width && y < now.height ? { x, y } : null;
}

$("whole").addEventListener("click", (event) => {
  const at = lens.dragged ? null : pointed(event);
  if (!at) return;
  if (explored) mark(at.x, at.y);
  else if (visible()) explore(asking.current.image, at);
});

function openGallery() {
  $("work").hidden = true;
  $("gallery").hidden = false;
  gallery.open(state.images, state.live);
  $("gallery-close").focus();
}

function closeGallery() {
  if ($("gallery").hidden) return;
  gallery.close();
  $("gallery").hidden = true;
  $("work").hidden = false;
  show();
}

async function refreshLayer() {
  const now = shown();
  if (!now || !(overlay.on || overlay.unsure)) return;
  try {
    await load(now.image, wantedPart(), state.live);
  } catch { /* no head yet, or the server is away */ }
  show();
}

function toggle(part) {
  overlay[part] = !overlay[part];
  if (overlay[part]) overlay[part === "on" ? "unsure" : "on"] = false;
  showControls();
  refreshLayer();
  show();
}

function showControls() {
  $("overlay").setAttribute("aria-pressed", overlay.on);
  $("uncertainty").setAttribute("aria-pressed", overlay.unsure);
}

// Why nothing lies over the image although it was asked for; "" where something does.
function whyNoPrediction() {
  if (!(overlay.on || overlay.unsure) || overlay.held) return "";
  const now = shown();
  if (!now) return "The prediction is shown with the next image.";
  if (layerOf(now.image)) return "";
  if (state.live) return "The prediction of this image is being drawn.";
  if (!state.answered) return "There is no prediction yet: the model learns from your answers.";
  return state.phase === "encoding"
    ? `There is no prediction yet: ${state.encoded} of ${state.images.length} images are read, and the model learns after the last.`
    : "There is no prediction yet: the model is learning, or no answer names a class so far.";
}

// The classes predicted in the image: names by their colours and patterns, each to be switched off and on.
function showLegend() {
  const why = whyNoPrediction();
  $("legend").hidden = !(overlay.on || why);
  if ($("why").textContent !== why) $("why").textContent = why;
  const box = $("legend-classes");
  box.hidden = !overlay.on || Boolean(why);
  const now = overlay.on ? shown() : null;
  const present = (now && predicted(now.image)) ?? [];
  const key = JSON.stringify(present.map((id) => classes[id]));
  if (box.hidden || box.dataset.key === key) return;
  box.dataset.key = key;
  box.replaceChildren(...present.map((id) => {
    const button = document.createElement("button");
    button.type = "button";
    const mark = () => {
      button.classList.toggle("legend-off", overlay.off.has(id));
      button.setAttribute("aria-pressed", !overlay.off.has(id));
    };
    button.append(swatch(classes[id]), classes[id].name);
    button.addEventListener("click", () => {
      if (!overlay.off.delete(id)) overlay.off.add(id);
      recolor();
      mark();
      show();
    });
    mark();
    return button;
  }));
}

function lightOrDark() {
  const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  document.documentElement.dataset.theme = next;
  storage.setItem("difal-theme", next);
}

function adjust() {
  const [brightness, contrast] = [Number($("brightness").value), Number($("contrast").value)];
  const filter = brightness === 100 && contrast === 100 ? "none" : `brightness(${brightness}%) contrast(${contrast}%)`;
  document.documentElement.style.setProperty("--view-filter", filter);
}

function asInFile() {
  $("brightness").value = $("contrast").value = 100;
  adjust();
}

const COMMANDS = {
  " ": confirm,
  "-": () => answer({ reason: "none" }),
  ",": () => answer({ reason: "unsure" }),
  ".": () => asking.later(),
  Backspace: () => explored || asking.undo(),
  ArrowLeft: () => explored || asking.move(-1),
  ArrowRight: () => explored || asking.move(1),
  "?": () => {
    fillHelp($("help-body"));
    $("help-dialog").showModal();
  },
  "/": () => canAnswer() && search((id) => answer({ class_id: id })),
  o: () => toggle("on"),
  u: () => toggle("unsure"),
  h: () => {
    overlay.held = true;
    show();
  },
  i: openGallery,
  b: asInFile,
  m: lightOrDark,
  PageUp: () => lens.nearer(),
  PageDown: () => lens.farther(),
  Home: () => lens.reset(),
  Escape: () => (explored ? leaveImage() : closeGallery()),
};

const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function movePixel(event) {
  if (!explored || document.activeElement !== $("whole")) return false;
  if (event.key === "Enter") {
    mark(explored.x, explored.y);
    return true;
  }
  const step = STEPS[event.key];
  if (!step) return false;
  const far = event.shiftKey ? 10 : 1;
  mark(Math.min(explored.width - 1, Math.max(0, explored.x + far * step[0])),
    Math.min(explored.height - 1, Math.max(0, explored.y + far * step[1])));
  return true;
}

// With Shift the arrows pan, where they do not move the frame.
function panned(event) {
  const step = event.shiftKey && $("gallery").hidden && STEPS[event.key];
  if (step) lens.step(...step);
  return Boolean(step);
}

// The key that a class or command goes by, whatever the keyboard's layout: digits by their place.
function keyOf(event) {
  const digit = /^(?:Digit|Numpad)([0-9])$/.exec(event.code);
  if (digit && !(event.shiftKey && event.key.length === 1 && !/[0-9]/.test(event.key) && COMMANDS[event.key])) {
    return digit[1];
  }
  return event.key.length === 1 ? event.key.toLowerCase() : event.key;
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey && event.key === "z") {
    event.preventDefault();
    if (!explored) asking.undo();
    return;
  }
  if (event.ctrlKey || event.altKey || event.metaKey || event.repeat) return;
  if (document.querySelector("dialog[open]")) return;
  const typing = event.target.closest?.("input[type=text], textarea, select");
  const onControl = event.target.closest?.("button, input");
  if (typing || (onControl && ["Enter", "Tab"].includes(event.key))) return;
  if (onControl?.type === "range" && /^(Arrow|Page|Home|End)/.test(event.key)) return;
  if (!$("gallery").hidden && !["Escape", "i", "?", "m"].includes(event.key)) return;
  if (movePixel(event) || panned(event)) {
    event.preventDefault();
    return;
  }
  if (event.key === "Enter" && state.phase === "failed") {
    post("again", {});
    return;
  }
  const key = keyOf(event);
  const chosen = byKey(key);
  if (chosen) {
    event.preventDefault();
    answer({ class_id: chosen.class_id });
  } else if (COMMANDS[key]) {
    event.preventDefault();
    if (key === "i" && !$("gallery").hidden) closeGallery();
    else COMMANDS[key]();
  }
});

document.addEventListener("keyup", (event) => {
  if (event.key.toLowerCase() === "h" && overlay.held) {
    overlay.held = false;
    show();
  }
});

const CLICKS = {
  confirm, none: COMMANDS["-"], unsure: COMMANDS[","], later: COMMANDS["."], undo: COMMANDS.Backspace,
  back: COMMANDS.ArrowLeft, forward: COMMANDS.ArrowRight, search: COMMANDS["/"], overlay: COMMANDS.o,
  uncertainty: COMMANDS.u, closer: COMMANDS.PageUp, farther: COMMANDS.PageDown, all: COMMANDS.Home, plain: asInFile, leave: leaveImage, "gallery-close": closeGallery,
  "tool-images": openGallery, "tool-classes": manageClasses, "tool-results": () => showResults(state),
  "tool-theme": lightOrDark, "tool-help": COMMANDS["?"],
  "other-take": () => hello(true), "trouble-close": closeTrouble,
};
for (const [id, act] of Object.entries(CLICKS)) $(id).addEventListener("click", act);
$("opacity").addEventListener("input", () => {
  overlay.opacity = Number($("opacity").value) / 100;
  show();
});
$("guesses").addEventListener("change", show);
$("brightness").addEventListener("input", adjust);
$("contrast").addEventListener("input", adjust);
window.addEventListener("pagehide", () => {
  post("leave", { page }, { keepalive: true }).catch(() => {});
});

// -- news

// What does not work now, and answers that were refused: these stay until she has read it.
let wrong = "";
const refusals = [];
function trouble(text) {
  wrong = text;
  const many = refusals.length > 1 ? `${refusals.length} answers were refused, the last one` : "An answer was refused";
  const lost = refusals.length ? `${many}: ${refusals.at(-1)}` : "";
  const all = [wrong, lost].filter(Boolean).join(" ");
  $("trouble").hidden = !all;
  if ($("trouble-text").textContent !== all) $("trouble-text").textContent = all;
  $("trouble-close").hidden = !lost;
}

function refused(entry, reason) {
  refusals.push(reason);
  trouble(wrong);
}

function closeTrouble() {
  refusals.length = 0;
  trouble(wrong);
}

const survivor = alone();

async function hello(take) {
  take_(await post("hello", { page, take, browser, alone: await survivor }));
}

function take_(news) {
  const live = news.live !== state.live;
  state = news;
  if (setClasses(state.classes)) {
    drawButtons($("classes"), (id) => answer({ class_id: id }));
    recolor();
  }
  if (state.phase === "setup") setUp();
  if (state.mine && $("other-dialog").open) $("other-dialog").close();
  if (!state.mine && !$("other-dialog").open) $("other-dialog").showModal();
  showState();
  if (state.mine && state.phase !== "setup") asking.fill();
  if (live) {
    refreshLayer();
    if (!$("gallery").hidden) gallery.refresh(state.live);
  }
  if (state.live && guessesFor !== state.guessed) {
    guessesFor = state.guessed;
    asking.refreshGuesses().catch(() => {});
  }
  show();
}

async function listen() {
  for (;;) {
    try {
      if (state.version < 0) {
        await hello(false);
        await asking.recall();
      }
      take_(await post("state", { page, seen: state.version }));
      trouble("");
    } catch (error) {
      if (error.status === 401 || error.status === 403 || error.status === 421) {
        trouble(error.message);
        return;
      }
      trouble("The server does not answer. Your answers are kept here and sent when it is back.");
      state.version = -1; // a server that was started again counts anew
      await sleep(700);
    }
  }
}

document.documentElement.dataset.theme = storage.getItem("difal-theme")
  ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
$("other-dialog").addEventListener("cancel", (event) => event.preventDefault());
onRefused(refused);
await loaded;
onChange((count) => {
  $("sent").textContent = count ? `${count} ${count === 1 ? "answer" : "answers"} on the way` : "every answer is kept";
  document.body.dataset.pending = count;
});
send();
adjust();
listen();
setInterval(() => {
  if (state.mine && asking.queue.length < 2) asking.fill();
}, 1000);
