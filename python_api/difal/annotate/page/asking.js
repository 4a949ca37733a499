// The question shown, those decoded ahead, and those answered before.

import { get, picture, post } from "./net.js";
import { keep, pending } from "./store.js";
import { windowAt } from "./drawing.js";

const AHEAD = 5;
const OVERVIEW_SIDE = 1280; // as in images.py: larger images come reduced, with a window as it is
const KEPT_OVERVIEWS = 10;
const KEPT_HISTORY = 40;

const overviews = new Map();

export function overview(image, urgent = true) {
  if (overviews.has(image)) {
    const found = overviews.get(image);
    overviews.delete(image);
    overviews.set(image, found); // used last
    return found;
  }
  const found = picture(`overview?image=${image}`, urgent).then((one) => one.bitmap);
  found.catch(() => overviews.delete(image));
  overviews.set(image, found);
  if (overviews.size > KEPT_OVERVIEWS) overviews.delete(overviews.keys().next().value);
  return found;
}

// Have everything drawn of a pixel decoded: {whole, exact, origin}.
export async function prepare(place) {
  const { image, x, y, width, height } = place;
  if (Math.max(width, height) <= OVERVIEW_SIDE) {
    const whole = await overview(image);
    return { whole, exact: whole, origin: { x: 0, y: 0 } };
  }
  const box = windowAt(x, y, width, height);
  const [whole, near] = await Promise.all([overview(image), picture(`window?image=${image}&x=${x}&y=${y}`)]);
  return { whole, exact: near.bitmap, origin: { x: box.left, y: box.top } };
}

export class Asking {
  // `changed()` is called whenever something else is to be shown.
  constructor(changed) {
    this.changed = changed;
    this.queue = []; // the first one is asked
    this.history = []; // answered: {question, entry}
    this.at = 0; // where in the history; its length: the question asked
    this.filling = false;
    this.shownAt = null; // when the question shown was painted
    this.idle = false; // whether the page was hidden meanwhile
    document.addEventListener("visibilitychange", () => {
      this.idle = true;
    });
  }

  get current() {
    return this.at < this.history.length ? this.history[this.at].question : this.queue[0] ?? null;
  }

  get earlier() {
    return this.at < this.history.length ? this.history[this.at].entry : null;
  }

  // Get more questions, if there is room.
  async fill() {
    if (this.filling || this.queue.length > AHEAD) return;
    this.filling = true;
    try {
      const have = this.queue.map((one) => one.id);
      for (const entry of pending()) if (entry.question) have.push(entry.question);
      const { questions } = await post("next", { have: have.slice(0, 100) });
      const known = new Set(this.queue.map((one) => one.id));
      for (const entry of pending()) known.add(entry.question);
      for (const one of questions) {
        if (known.has(one.id) || this.justAnswered(one)) continue;
        this.load(one);
        this.queue.push(one);
      }
    } catch { /* the server is away; asked again with the next news */ } finally {
      this.filling = false;
    }
    this.changed();
  }

  // An answer that was acknowledged after the server had made its list of questions.
  justAnswered(one) {
    return one.kind !== "repeat" && this.history.slice(-AHEAD - 1).some((done) => done.question.id === one.id
      && done.entry);
  }

  load(one) {
    if (one.pictures || one.loading) return;
    one.loading = true;
    prepare(one).then((pictures) => {
      one.pictures = pictures;
      one.loading = false;
      this.changed();
    }, () => {
      one.loading = false;
      setTimeout(() => this.load(one), 500);
    });
  }

  // Called when the current question was painted.
  painted() {
    this.shownAt = performance.now();
    this.idle = document.hidden;
  }

  // Answer what is shown: {class_id} or {reason}. `seen` says what she saw of the model's opinion.
  answer(said, seen) {
    const question = this.current;
    if (!question || !question.pictures) return false;
    const seconds = this.shownAt === null || this.idle ? null : (performance.now() - this.shownAt) / 1000;
    const entry = keep({
      type: "answer",
      question: question.id,
      kind: question.kind,
      image: question.image,
      x: question.x,
      y: question.y,
      round: question.round,
      rank: question.rank,
      class_id: said.class_id ?? null,
      reason: said.reason ?? null,
      seconds,
      guess: question.guess?.class_id ?? null,
      ...seen,
    });
    if (this.at < this.history.length) {
      this.history[this.at].entry = entry;
      this.at += 1;
    } else {
      this.queue.shift();
      this.history.push({ question, entry });
      this.at = this.history.length;
      const old = this.history[this.history.length - 1 - KEPT_HISTORY];
      if (old) old.question.pictures = null;
    }
    this.shownAt = null;
    this.changed();
    this.fill();
    return true;
  }

  // Take the last answer back and ask it again.
  undo() {
    const last = this.history.pop();
    if (!last) return false;
    keep({ type: "retract", of: last.entry.id });
    this.load(last.question);
    this.queue.unshift(last.question);
    this.at = this.history.length;
    this.shownAt = null;
    this.changed();
    return true;
  }

  move(step) {
    const to = Math.min(this.history.length, Math.max(0, this.at + step));
    if (to === this.at) return false;
    this.at = to;
    this.shownAt = null;
    if (this.current) this.load(this.current);
    this.changed();
    return true;
  }

  // Have the server ask the current question after the others.
  later() {
    if (this.at < this.history.length || this.queue.length < 2) return false;
    const one = this.queue.shift();
    keep({ type: "later", kind: one.kind, image: one.image, x: one.x, y: one.y });
    this.shownAt = null;
    this.changed();
    this.fill();
    return true;
  }

  // Answers given before this page was opened, so that she can go back to them.
  async recall() {
    const { recent } = await get("recent");
    if (this.history.length) return;
    this.history = recent.map((one) => ({ question: one.question, entry: one.entry }));
    this.at = this.history.length;
  }

  // The guesses of a new head, for the questions at hand.
  async refreshGuesses() {
    if (!this.queue.length) return;
    const { guesses } = await post("guesses", { have: this.queue.map((one) => one.id) });
    for (const one of this.queue) if (guesses[one.id]) one.guess = guesses[one.id];
    this.changed();
  }
}
