// Requests to the server. All addresses are relative, so that the page works behind any proxy.

const token = location.hash.slice(1);
const PICTURES_AT_ONCE = 3; // a browser has six connections: the rest are for answers, questions and news

// Not crypto.randomUUID: behind a proxy without TLS browsers do not have it.
export function newId() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((one) => one.toString(16).padStart(2, "0")).join("");
}

// The browser's store; a page in a frame may be denied it, and then forgets with its closing.
export const storage = (() => {
  try {
    localStorage.getItem("difal-browser");
    return localStorage;
  } catch {
    const values = new Map();
    return { getItem: (name) => values.get(name) ?? null, setItem: (name, value) => values.set(name, value) };
  }
})();

export const page = newId();
export const storeName = `difal-${token.slice(0, 16)}`;

// This browser, and whether no other page of it is at this run: then the page that the server knows has crashed.
export const browser = storage.getItem("difal-browser") ?? newId();
storage.setItem("difal-browser", browser);
export function alone() {
  if (!navigator.locks) return Promise.resolve(false);
  return new Promise((tell) => {
    navigator.locks.request(storeName, { ifAvailable: true }, (lock) => {
      tell(Boolean(lock));
      return lock && new Promise(() => {}); // held as long as the page is there
    }).catch(() => tell(false));
  });
}

export class Refused extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

async function checked(response) {
  if (response.ok) return response;
  let text = response.statusText;
  try {
    text = (await response.json()).error;
  } catch { /* a proxy's page */ }
  throw new Refused(response.status, text);
}

export async function post(path, body, options = {}) {
  const response = await fetch(`api/${path}`, {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-Difal-Token": token },
    body: JSON.stringify(body),
    ...options,
  });
  return (await checked(response)).json();
}

export async function get(path) {
  return (await checked(await fetch(`api/${path}`, { headers: { "X-Difal-Token": token } }))).json();
}

let atWork = 0;
const waiting = [];

// A picture, decoded. `urgent` ones go before those that wait.
export async function picture(path, urgent = true) {
  if (atWork >= PICTURES_AT_ONCE) {
    await new Promise((go) => (urgent ? waiting.unshift(go) : waiting.push(go)));
  }
  atWork += 1;
  try {
    const response = await checked(await fetch(`api/${path}`, { headers: { "X-Difal-Token": token } }));
    const bitmap = await createImageBitmap(await response.blob(), {
      colorSpaceConversion: "none",
      premultiplyAlpha: "none",
    });
    const said = (name) => Number(response.headers.get(`X-Difal-${name}`) || 0);
    return { bitmap, version: said("Version"), exact: said("Exact") === 1 };
  } finally {
    atWork -= 1;
    waiting.shift()?.();
  }
}

export function sleep(milliseconds) {
  return new Promise((go) => setTimeout(go, milliseconds));
}
