// Words with their meaning behind them.

import { el } from "assets/dom.js";

let entries = new Map();

/** Sets the entries of the page: `term`, `words`, `example`, `also`, `see`. */
export function setGlossary(list) {
  entries = new Map(
    list.flatMap((entry) => [entry.term, ...entry.also].map((word) => [word.toLowerCase(), entry])),
  );
}

/** A word that opens its entry, or the word alone where there is none. */
export function term(word, shown = word) {
  if (!entries.has(word.toLowerCase())) return document.createTextNode(shown);
  const button = el(
    "button",
    { type: "button", class: "term", "data-term": word, "aria-haspopup": "dialog" },
    shown,
  );
  button.addEventListener("click", (event) => {
    event.stopPropagation();
    open(word, button);
  });
  return button;
}

/** The whole glossary as a list. */
export function wholeGlossary() {
  const list = [...new Set(entries.values())];
  return el(
    "dl",
    { class: "glossary" },
    list.map((entry) => [el("dt", {}, entry.term), el("dd", {}, body(entry))]),
  );
}

function open(word, beside) {
  const entry = entries.get(word.toLowerCase());
  const box = document.getElementById("glossary");
  box.replaceChildren(el("h2", {}, entry.term), ...body(entry), see(entry, beside));
  if (!box.matches(":popover-open")) box.showPopover();
  const at = beside.getBoundingClientRect();
  const room = box.getBoundingClientRect();
  box.style.left = `${Math.max(8, Math.min(at.left, innerWidth - room.width - 8))}px`;
  const below = at.bottom + 6;
  box.style.top = `${below + room.height > innerHeight ? Math.max(8, at.top - room.height - 6) : below}px`;
}

function body(entry) {
  return [el("p", {}, entry.words), entry.example ? el("p", { class: "example" }, entry.example) : ""];
}

function see(entry, beside) {
  if (!entry.see.length) return "";
  const links = entry.see.map((word) => {
    const button = el("button", { type: "button", class: "term" }, word);
    button.addEventListener("click", () => open(word, beside));
    return button;
  });
  return el(
    "p",
    { class: "see" },
    "see also: ",
    links.flatMap((link, at) => (at ? [", ", link] : [link])),
  );
}
