// A symmetry graph: a drawing, a table beside it, and what is said of the one thing that is chosen.

import { counted, el } from "assets/dom.js";
import { setGlossary, term, wholeGlossary } from "assets/glossary.js";
import { point, pointed } from "assets/page.js";
import { filled, setMarks } from "assets/repeated.js";
import { SHAPES } from "assets/symmetry-classes.js";
import { chip, familyDetails, linkDetails, parameterDetails, spaceDetails } from "assets/symmetry-details.js";
import { familyTable, parameterTable, spaceTable } from "assets/symmetry-tables.js";
import { Tree } from "assets/symmetry-tree.js";
import { Tabs } from "assets/tabs.js";

const KINDS = { space: "spaces", parameter: "parameters", family: "families" };
const DETAILS = { space: spaceDetails, parameter: parameterDetails, family: familyDetails };
// More modules of one kind than this side by side are no longer legible.
const MOST_APART = 16;
const HELP =
  "Arrow keys move, Enter opens, l goes along links, m to the module, + and \u2212 zoom, 0 fits. A click on a module folds it.";

export function show(data, place) {
  setMarks(data.first_mark);
  setGlossary(data.glossary);
  new View(data, place).begin();
}

class View {
  constructor(data, place) {
    this.data = data;
    this.index = Object.fromEntries(Object.entries(KINDS).map(([kind, key]) => [kind, names(data[key])]));
    this.tree = new Tree(data);
    this.go = (kind, name) => this.choose(kind, name);
    this.tables = {
      space: spaceTable(data, this.go),
      parameter: parameterTable(data, this.go),
      family: familyTable(data, this.go),
    };
    this.details = el("section", {
      class: "details",
      "aria-label": "Details",
      "aria-live": "polite",
      tabindex: "0",
    });
    this.said = el("div", { class: "said", role: "status" }, HELP);
    this.canvas = el("div", {
      class: "canvas",
      tabindex: "0",
      role: "application",
      "aria-label": `Drawing. ${HELP}`,
    });
    place.classList.add("symmetry");
    place.append(this.#left(), el("div", { class: "right" }, this.#tabs(), this.details));
  }

  begin() {
    if (this.data.nothing)
      this.details.replaceChildren(
        ...nothing(this.data.nothing),
        ...remarks(this.data.notes, this.data.uncovered),
      );
    else this.#welcome();
    this.#follow();
    addEventListener("hashchange", () => this.#follow());
    // The table is seen while the library of the drawing is still read.
    requestAnimationFrame(() => setTimeout(() => this.#drawn()));
  }

  /** Shows what is known of something in every place. */
  choose(kind, name) {
    const found = this.index[kind]?.get(name);
    if (!found) return;
    const { one, rows } = found;
    point(kind, name);
    this.tabs.show(kind);
    this.tables[kind].mark(one.name);
    this.details.replaceChildren(...DETAILS[kind](one, rows, this.go));
    this.details.scrollTop = 0;
    this.marked =
      kind === "space"
        ? [filled(one.record.name, rows)]
        : kind === "parameter"
          ? [one.name]
          : filled(one.record.tensors, one.rows);
    this.drawing?.mark(this.marked);
  }

  async #drawn() {
    const { Drawing } = await import("assets/symmetry-graph.js");
    const act = (what) => this.#act(what);
    this.drawing = new Drawing({
      tree: this.tree,
      place: this.canvas,
      choose: act,
      say: (text) => (this.said.textContent = text ?? HELP),
    });
    if (this.marked) this.#reveal();
    document.documentElement.dataset.drawn = "true";
  }

  #act({ kind, node, link }) {
    if (kind === "space") this.choose("space", this.index.space.has(node.name) ? node.name : node.space.name);
    else if (kind === "link") this.#link(link);
    else if (node) {
      this.tree.toggle(node.id);
      this.#redraw();
      this.#module(node);
    }
  }

  #link({ members }) {
    const list = [...members];
    if (list.length > 1) {
      this.details.replaceChildren(...linkDetails(list, this.go));
      this.drawing.mark(list.map(([one]) => one.name));
      return;
    }
    const [[one, { rows }]] = list;
    this.choose("parameter", rows.length === 1 ? filled(one.record.name, rows) : one.name);
  }

  #module(node) {
    const shown = [el("h2", {}, node.id)];
    const again = (act) => () => {
      act();
      this.#redraw();
    };
    const button = (text, act) => el("button", { type: "button", onclick: again(act) }, text);
    shown.push(button("fold or open", () => this.tree.toggle(node.id)));
    if (node.times > 1 && node.times <= MOST_APART) {
      shown.push(
        button(`show each of the ${node.times}`, () => this.tree.showApart(node.step, node.numbers)),
      );
    }
    if (node.times > MOST_APART) {
      const one = (event) => again(() => this.tree.showApart(node.step, [Number(event.target.value)]))();
      const numbers = node.numbers.map((number) => el("option", { value: number }, number));
      shown.push(
        el(
          "label",
          {},
          "show one by itself: ",
          el("select", { onchange: one }, el("option", {}, ""), numbers),
        ),
      );
    }
    if (this.tree.apart.has(node.step))
      shown.push(button("show all that are alike as one", () => this.tree.showAsOne(node.step)));
    this.details.replaceChildren(el("div", { class: "module" }, shown));
  }

  #redraw() {
    this.drawing?.draw();
    if (this.marked) this.drawing?.mark(this.marked);
  }

  #reveal() {
    const rigid = (name) => this.index.space.get(name)?.one.record.kind === "rigid";
    this.tree.rigid ||= this.marked.some(rigid);
    this.rigid.checked = this.tree.rigid;
    this.marked.forEach((name) => this.tree.reveal(name));
    this.#redraw();
  }

  #follow() {
    const [kind, name] = pointed() ?? [];
    if (!kind) return;
    this.choose(kind, name);
    if (this.drawing && this.marked) this.#reveal();
  }

  #welcome() {
    const { headline, formula: total, sizes, notes, uncovered } = this.data;
    const where = sizes.map(({ name, size }) => `${name} = ${counted(size)}`).join(", ");
    this.details.replaceChildren(
      el("p", { class: "lead" }, headline),
      el(
        "p",
        {},
        "Choose a ",
        term("space"),
        ", a ",
        term("parameter"),
        " or a ",
        term("family"),
        " in the drawing or in the table.",
      ),
      el(
        "details",
        {},
        el("summary", {}, "The dimension as a formula"),
        el("p", {}, el("code", {}, total)),
        where ? el("p", {}, `with ${where}`) : "",
      ),
      ...remarks(notes, uncovered),
    );
  }

  #left() {
    const redraw = (act) => () => {
      act();
      this.#redraw();
    };
    this.rigid = el("input", {
      type: "checkbox",
      checked: this.tree.rigid,
      onchange: (event) => redraw(() => (this.tree.rigid = event.target.checked))(),
    });
    const tools = el(
      "div",
      { class: "tools" },
      el("button", { type: "button", onclick: redraw(() => this.tree.closeAll(true)) }, "Fold all"),
      el("button", { type: "button", onclick: redraw(() => this.tree.closeAll(false)) }, "Open all"),
      el("button", { type: "button", onclick: () => this.drawing?.fit() }, "Fit"),
      el("label", {}, this.rigid, " ", term("rigid"), " spaces"),
    );
    return el(
      "section",
      { class: "left", "aria-label": "Drawing" },
      tools,
      this.canvas,
      legend(this.data),
      this.said,
    );
  }

  #tabs() {
    this.tabs = new Tabs("Tables", {
      space: ["Spaces", this.tables.space.element],
      parameter: ["Parameters", this.tables.parameter.element],
      family: ["Families", this.tables.family.element],
      notes: ["Remarks", el("div", { class: "page" }, remarks(this.data.notes, this.data.uncovered, true))],
      words: ["Glossary", el("div", { class: "page" }, wholeGlossary())],
    });
    return this.tabs.element;
  }
}

/** Everything that a name may stand for: all that are alike, or one of them. */
function names(list) {
  const found = new Map();
  for (const one of list) {
    for (const row of one.rows) found.set(filled(one.record.name, [row]), { one, rows: [row] });
    found.set(one.name, { one, rows: one.rows });
  }
  return found;
}

function legend(data) {
  const kinds = new Map(data.spaces.map(({ record }) => [record.class, record.kind]));
  const known = Object.keys(SHAPES).reverse();
  const sorted = [...kinds].sort((a, b) => known.indexOf(a[1]) - known.indexOf(b[1]));
  return el(
    "div",
    { class: "legend", "aria-label": "Legend" },
    sorted.map(([name]) => chip(name)),
    el("span", { class: "dotted" }, term("fibred over", "dotted: fibred over")),
  );
}

function remarks(notes, uncovered, always = false) {
  const shown = [];
  if (uncovered.length)
    shown.push(
      el("h3", {}, term("uncovered operator", "Operators without a rule")),
      el("pre", {}, uncovered.join("\n")),
    );
  if (notes.length)
    shown.push(
      el("h3", {}, "Notes"),
      el(
        "ul",
        {},
        notes.map((note) => el("li", {}, note)),
      ),
    );
  return shown.length || !always
    ? shown
    : [el("p", {}, "Every operator has a rule, and there is nothing to remark.")];
}

function nothing({ text, causes }) {
  const items = causes.map(({ rule, because, places }) =>
    el(
      "li",
      {},
      el("b", {}, rule),
      `: ${because}`,
      el(
        "ul",
        {},
        places.map((place) => el("li", {}, el("code", {}, place))),
      ),
    ),
  );
  const why = items.length
    ? [el("p", {}, "These rules leave nothing but the ", term("identity"), ":"), el("ul", {}, items)]
    : [el("p", {}, "No parameter is read by an operator that a rule speaks about.")];
  return [el("h2", {}, text[0].toUpperCase() + text.slice(1)), ...why];
}
