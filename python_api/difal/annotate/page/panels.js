// Dialogs: search, classes, results, setup, another page.

import { post } from "./net.js";
import { keep } from "./store.js";
import { label, nameOf, open, swatch } from "./classes.js";

const $ = (id) => document.getElementById(id);

function element(tag, text, more = {}) {
  const made = document.createElement(tag);
  if (text !== null) made.textContent = text;
  Object.assign(made, more);
  return made;
}

// The search box; `choose(id)` with the class that was chosen.
export function search(choose) {
  const [dialog, input, list] = [$("search-dialog"), $("search-text"), $("search-found")];
  const show = () => {
    const part = input.value.trim().toLowerCase();
    const found = open().filter((one) => one.name.toLowerCase().includes(part));
    list.replaceChildren(...found.map((one) => {
      const line = element("li", null);
      const button = element("button", null, { type: "button" });
      button.append(...label(one));
      button.addEventListener("click", () => {
        dialog.close();
        choose(one.class_id);
      });
      line.append(button);
      return line;
    }));
  };
  input.value = "";
  input.oninput = show;
  input.onkeydown = (event) => {
    if (event.key === "Enter") {
      event.preventDefault();
      list.querySelector("button")?.click();
    }
  };
  show();
  dialog.showModal();
  input.focus();
}

function problem(box, error) {
  box.append(element("p", error.message, { className: "problem" }));
}

// Add, rename, merge, and take any of that back.
export async function manageClasses() {
  const [dialog, box] = [$("classes-dialog"), $("classes-body")];
  const change = (entry) => {
    keep({ type: "class", ...entry });
    setTimeout(manageClasses, 300);
  };
  const add = element("form", null, { className: "row" });
  const name = element("input", null, { type: "text", placeholder: "a new class" });
  name.setAttribute("aria-label", "Name of a new class");
  add.append(name, element("button", "Add"));
  add.addEventListener("submit", (event) => {
    event.preventDefault();
    if (name.value.trim()) change({ op: "add", name: name.value.trim() });
  });
  const rows = open().map((one) => {
    const row = element("div", null, { className: "row" });
    const text = element("input", null, { type: "text", value: one.name });
    text.setAttribute("aria-label", `Name of ${one.name}`);
    const rename = element("button", "Rename", { type: "button" });
    rename.addEventListener("click", () => {
      const now = text.value.trim();
      if (now && now !== one.name) change({ op: "rename", class_id: one.class_id, name: now });
    });
    const into = element("select", null);
    into.setAttribute("aria-label", `Merge ${one.name} into`);
    into.append(element("option", "merge into", { value: "" }));
    for (const other of open()) {
      if (other !== one) into.append(element("option", other.name, { value: other.class_id }));
    }
    into.addEventListener("change", () => {
      if (into.value) change({ op: "merge", class_id: one.class_id, into: Number(into.value) });
    });
    row.append(swatch(one), text, rename, into);
    return row;
  });
  box.replaceChildren(add, ...rows);
  if (!dialog.open) dialog.showModal();
  try {
    const { changes } = await post("changes", {});
    if (!changes.length) return;
    const said = { add: (c) => `added ${c.name}`, rename: (c) => `renamed to ${c.name}`,
      merge: (c) => `merged ${nameOf(c.class_id)} into ${nameOf(c.into)}` };
    const list = element("ul", null);
    for (const one of changes.reverse()) {
      const line = element("li", said[one.op](one), { className: "row" });
      const undo = element("button", "Take back", { type: "button" });
      undo.addEventListener("click", () => {
        keep({ type: "retract", of: one.id });
        setTimeout(manageClasses, 300);
      });
      line.append(undo);
      list.append(line);
    }
    box.append(element("h3", "Changes"), list);
  } catch (error) {
    problem(box, error);
  }
}

export function time(seconds) {
  if (seconds === null) return "";
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

export function showResults(state) {
  const [dialog, box] = [$("results-dialog"), $("results-body")];
  const { agreement } = state;
  const lines = [
    ["Pixels labeled", state.answered - state.skipped],
    ["Pixels skipped", state.skipped],
    ["Your answers", state.given],
    ["of them volunteered", state.volunteered],
    ["Seconds per answer, median of the last 50", state.seconds === null ? "" : state.seconds.toFixed(1)],
    ["Model trained", state.live ? `${state.live} times${state.trained ? ", on every answer" : ""}` : "not yet"],
  ];
  if (agreement.repeats) lines.push(["Repeats answered the same", `${agreement.repeats_agreed} of ${agreement.repeats}`]);
  if (agreement.shared) {
    lines.push(["Two annotators agreed", `${agreement.shared_agreed} of ${agreement.shared}`]);
    lines.push(["Cohen's kappa", agreement.kappa === null ? "not defined" : agreement.kappa.toFixed(3)]);
    lines.push(["Disagreements to settle", agreement.to_settle]);
  }
  const table = element("table", null);
  for (const [name, value] of lines) {
    const row = table.insertRow();
    row.insertCell().textContent = name;
    row.insertCell().textContent = value;
  }
  const write = element("button", "Write everything", { type: "button", id: "export" });
  const out = element("p", state.exported
    ? `${state.exported.labels} labels, ${state.exported.skipped} skipped pixels and ${state.exported.masks} masks are in `
      + state.exported.out : "",
  { id: "exported" });
  out.setAttribute("role", "status");
  write.addEventListener("click", async () => {
    out.textContent = "writing masks of all images ...";
    try {
      await post("export", {});
    } catch (error) {
      problem(box, error);
    }
  });
  const row = element("div", null, { className: "row" });
  row.append(write, element("span", "masks of all images, COCO, Label Studio, CSV and JSONL, in the run's folder"));
  const parts = [table, row, out];
  if (state.phase === "done") {
    const more = element("button", "Ask one more round", { type: "button" });
    more.addEventListener("click", async () => {
      await post("more", { rounds: 1 });
      dialog.close();
    });
    parts.push(element("p", "All rounds are done."), more);
  }
  box.replaceChildren(...parts);
  if (!dialog.open) dialog.showModal();
}

export function setUp() {
  const dialog = $("setup-dialog");
  if (dialog.open) return;
  dialog.addEventListener("cancel", (event) => event.preventDefault());
  $("setup-go").onclick = async () => {
    const names = $("setup-names").value.split("\n").map((line) => line.trim()).filter(Boolean);
    try {
      await post("classes", { classes: names });
      dialog.close();
    } catch (error) {
      $("setup-problem").textContent = error.message;
    }
  };
  dialog.showModal();
}
