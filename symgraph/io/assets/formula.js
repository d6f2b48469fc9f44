// Laws such as `W -> P W O^T` as they are printed in papers.

import { el } from "assets/dom.js";

const POWER = /\^(-?\w+)|_(\w+)/g;

/** A formula with arrows, powers and indices set. */
export function formula(text) {
  const shown = text.replace(" -> ", " \u2192 ").replace(/\bx_(\d)/g, "\u00d7_$1");
  const parts = [];
  let at = 0;
  for (const found of shown.matchAll(POWER)) {
    parts.push(shown.slice(at, found.index));
    parts.push(found[1] ? el("sup", {}, found[1].replace("-", "\u2212")) : el("sub", {}, found[2]));
    at = found.index + found[0].length;
  }
  return el("span", { class: "formula", "aria-label": text }, parts, shown.slice(at));
}
