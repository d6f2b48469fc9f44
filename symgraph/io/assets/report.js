// What pages of results share: cards with a picture that can be saved, tabs, facts.

import { el } from "assets/dom.js";

const STYLED = [
  "fill",
  "stroke",
  "stroke-width",
  "stroke-dasharray",
  "opacity",
  "fill-opacity",
  "font-size",
  "font-family",
];
const SCALE = 3;

/** A part of a page under its title; `wide` for the whole width. */
export function card(title, { wide = false, name = "" } = {}, ...children) {
  return el(
    "section",
    { class: wide ? "card wide" : "card", "data-card": name || null, "aria-label": String(title) },
    el("h2", {}, title),
    children,
  );
}

/**
 * A picture with what the pointer has come to below it, and buttons that save it.
 *
 * draw(say): the SVG; called again by `.draw()`.
 */
export class Picture {
  constructor(name, draw) {
    Object.assign(this, { name, make: draw });
    this.place = el("div", { class: "drawing" });
    this.said = el("div", { class: "said", role: "status" });
    const save = (kind, act) =>
      el(
        "button",
        { type: "button", "aria-label": `save ${name} as ${kind}`, onclick: () => act(this.svg, name) },
        kind,
      );
    this.tools = el("div", { class: "saves" }, "save as ", save("SVG", saveSvg), save("PNG", savePng));
    this.element = el(
      "figure",
      { "data-picture": name },
      this.place,
      el("figcaption", {}, this.said, this.tools),
    );
    this.draw();
  }

  draw() {
    this.svg = this.make((text) => (this.said.textContent = text));
    this.place.replaceChildren(this.svg);
  }
}

/** A drawing as text that stands by itself: what the styles of the page make of it is written into it. */
export function standalone(drawing) {
  const copy = drawing.cloneNode(true);
  const [from, to] = [
    [drawing, ...drawing.querySelectorAll("*")],
    [copy, ...copy.querySelectorAll("*")],
  ];
  to.forEach((node, i) => {
    const style = getComputedStyle(from[i]);
    for (const name of STYLED) {
      const value = style.getPropertyValue(name);
      if (value && value !== "none" && value !== "normal") node.setAttribute(name, value);
      else if (value === "none") node.setAttribute(name, "none");
    }
    for (const name of ["class", "tabindex", "role"]) node.removeAttribute(name);
  });
  const { width, height } = drawing.viewBox.baseVal;
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  copy.setAttribute("width", width);
  copy.setAttribute("height", height);
  copy.removeAttribute("visibility");
  return new XMLSerializer().serializeToString(copy);
}

function saveSvg(drawing, name) {
  save(`data:image/svg+xml;charset=utf-8,${encodeURIComponent(standalone(drawing))}`, `${file(name)}.svg`);
}

async function savePng(drawing, name) {
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(standalone(drawing))}`;
  await image.decode();
  const canvas = el("canvas", { width: image.width * SCALE, height: image.height * SCALE });
  const brush = canvas.getContext("2d");
  brush.fillStyle = getComputedStyle(document.body).backgroundColor;
  brush.fillRect(0, 0, canvas.width, canvas.height);
  brush.drawImage(image, 0, 0, canvas.width, canvas.height);
  save(canvas.toDataURL("image/png"), `${file(name)}.png`);
}

function save(address, name) {
  el("a", { href: address, download: name }).click();
}

function file(name) {
  return name
    .toLowerCase()
    .replace(/[^\w]+/g, "-")
    .replace(/^-+|-+$/g, "");
}

/** Pairs of a word and what is known of it. */
export function facts(pairs) {
  return el(
    "dl",
    { class: "facts" },
    pairs.map(([word, ...said]) => [el("dt", {}, word), el("dd", {}, said)]),
  );
}

/** A choice among words: `{value: text}`. */
export function choice(label, values, chosen, change) {
  const options = Object.entries(values).map(([value, text]) =>
    el("option", { value, selected: value === chosen }, text),
  );
  return el(
    "label",
    { class: "choice" },
    label,
    " ",
    el("select", { "aria-label": label, onchange: (event) => change(event.target.value) }, options),
  );
}
