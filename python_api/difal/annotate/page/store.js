// What the server has not acknowledged yet: kept in the browser's store, sent until it is, each entry with its own id.

import { newId, post, Refused, sleep, storage, storeName } from "./net.js";

const NAME = `${storeName}-outbox`;
const AT_ONCE = 100;

let outbox = JSON.parse(storage.getItem(NAME) || "[]");
let sending = false;
const listeners = [];

function save() {
  storage.setItem(NAME, JSON.stringify(outbox));
  for (const listener of listeners) listener(outbox.length);
}

export function onChange(listener) {
  listeners.push(listener);
  listener(outbox.length);
}

export function pending() {
  return outbox;
}

// Keep an entry and have it sent; returns it with its id. Never waits.
export function keep(entry) {
  const whole = { id: newId(), ...entry };
  outbox.push(whole);
  save();
  send();
  return whole;
}

let refused = () => {};
export function onRefused(listener) {
  refused = listener;
}

export async function send() {
  if (sending) return;
  sending = true;
  let pause = 250;
  let alone = false; // one entry of a refused batch after the other, so that the others are kept
  while (outbox.length) {
    const batch = outbox.slice(0, alone ? 1 : AT_ONCE);
    try {
      const { kept } = await post("keep", { entries: batch });
      const done = new Set(kept);
      outbox = outbox.filter((entry) => !done.has(entry.id));
      save();
      pause = 250;
    } catch (error) {
      if (error instanceof Refused && error.status === 400) {
        if (batch.length > 1) {
          alone = true;
          continue;
        }
        outbox = outbox.filter((entry) => entry.id !== batch[0].id);
        save();
        refused(batch[0], error.message);
        continue;
      }
      await sleep(pause); // the server is away: it may come back
      pause = Math.min(2 * pause, 3000);
    }
  }
  sending = false;
}
