// What the server has not acknowledged yet: kept in the browser's database, sent until it is, each entry with its own id.
// The database, since what it holds outlives a browser that is killed; localStorage is written seconds later.

import { newId, post, Refused, sleep, storeName } from "./net.js";

const AT_ONCE = 100;

let outbox = [];
let sending = false;
let count = 0;
const listeners = [];

// Null where the browser has none for the page.
const database = new Promise((found) => {
  try {
    const request = indexedDB.open(storeName, 1);
    request.onupgradeneeded = () => request.result.createObjectStore("outbox", { keyPath: "id" });
    request.onsuccess = () => found(request.result);
    request.onerror = () => found(null);
    setTimeout(found, 5000, null); // a browser that never says whether it has one
  } catch {
    found(null);
  }
});

async function store(write) {
  const open = await database;
  if (open) write(open.transaction("outbox", "readwrite").objectStore("outbox"));
}

// Resolves when what an earlier page left here is in the outbox.
export const loaded = database.then((open) => open && new Promise((done) => {
  const request = open.transaction("outbox").objectStore("outbox").getAll();
  request.onsuccess = () => {
    const before = request.result.sort((one, other) => one.order - other.order).map((one) => one.entry);
    outbox = [...before, ...outbox];
    done();
  };
  request.onerror = done;
}));

function changed() {
  for (const listener of listeners) listener(outbox.length);
}

function drop(ids) {
  const done = new Set(ids);
  outbox = outbox.filter((entry) => !done.has(entry.id));
  store((box) => ids.forEach((id) => box.delete(id)));
  changed();
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
  count += 1;
  const order = Date.now() + count / 1e6;
  store((box) => box.put({ id: whole.id, order, entry: whole }));
  changed();
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
      drop(kept);
      pause = 250;
    } catch (error) {
      if (error instanceof Refused && error.status === 400) {
        if (batch.length > 1) {
          alone = true;
          continue;
        }
        drop([batch[0].id]);
        refused(batch[0], error.message);
        continue;
      }
      await sleep(pause); // the server is away: it may come back
      pause = Math.min(2 * pause, 3000);
    }
  }
  sending = false;
}
