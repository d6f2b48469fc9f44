// The drawing of a symmetry graph.

import cytoscape from "assets/vendor/cytoscape.min.mjs";
import dagre from "assets/vendor/cytoscape-dagre.min.mjs";
import { counted, el, several } from "assets/dom.js";
import { onTheme } from "assets/page.js";
import { filled } from "assets/repeated.js";
import { SHAPES, slug } from "assets/symmetry-classes.js";
import { dotted, short } from "assets/symmetry-tree.js";

cytoscape.use(dagre);

const LABELS = 3;
const LONGEST = 24;
const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** Draws a tree into a place; `choose` is called with what is clicked, `say` with what the keyboard has come to. */
export class Drawing {
  constructor({ tree, place, choose, say }) {
    Object.assign(this, { tree, place, choose, say });
    this.cy = cytoscape({ container: place, minZoom: 0.1, maxZoom: 3, boxSelectionEnabled: false });
    this.cy.on("tap", "node, edge", (event) => this.#act(event.target));
    place.addEventListener("keydown", (event) => this.#keys(event));
    onTheme(() => this.cy.style(style()));
    this.draw();
  }

  draw() {
    const { nodes, links, fibres } = this.tree.seen();
    this.cy.elements().remove();
    this.cy.add([...nodes.map(nodeElement), ...fibres.map(fibreElement), ...links.map(linkElement)]);
    this.cy.style(style());
    this.#lay("LR");
    const across = this.#zoom();
    this.#lay("TB");
    if (this.#zoom() < across) this.#lay("LR");
    this.fit();
  }

  #lay(rankDir) {
    this.cy.edges().toggleClass("beside", rankDir === "TB");
    this.cy
      .layout({
        name: "dagre",
        rankDir,
        nodeSep: 22,
        rankSep: rankDir === "LR" ? 90 : 60,
        edgeSep: 12,
        animate: false,
        fit: false,
      })
      .run();
  }

  /** How large the drawing can be shown. */
  #zoom() {
    const { w, h } = this.cy.elements().boundingBox();
    return Math.min(this.cy.width() / w, this.cy.height() / h);
  }

  fit() {
    this.cy.resize();
    this.cy.fit(undefined, 24);
    if (this.cy.zoom() > 1.15)
      this.cy.zoom({ level: 1.15, renderedPosition: { x: this.cy.width() / 2, y: this.cy.height() / 2 } });
  }

  /** Marks spaces and parameters by their names. */
  mark(names) {
    const wanted = new Set(names);
    this.cy.elements().removeClass("chosen");
    this.cy
      .elements()
      .filter((one) => one.data("names")?.some((name) => wanted.has(name)))
      .addClass("chosen");
  }

  #act(element) {
    const kind = element.data("kind");
    this.#focus(element);
    this.choose({ kind, id: element.id(), node: element.data("node"), link: element.data("link") });
  }

  #focus(element) {
    this.cy.elements().removeClass("focused");
    element.addClass("focused");
    this.focused = element.id();
    this.say(element.data("said"));
  }

  #keys(event) {
    const at = this.cy.getElementById(this.focused ?? "");
    if (STEPS[event.key]) this.#step(at, STEPS[event.key]);
    else if (event.key === "Enter" && at.nonempty()) this.#act(at);
    else if (event.key === "l") this.#nextLink(at);
    else if (event.key === "m" && at.isNode?.() && at.parent().nonempty()) this.#focus(at.parent());
    else if (event.key === "+" || event.key === "-")
      this.cy.zoom({
        level: this.cy.zoom() * (event.key === "+" ? 1.25 : 0.8),
        renderedPosition: { x: this.cy.width() / 2, y: this.cy.height() / 2 },
      });
    else if (event.key === "0") this.fit();
    else return;
    event.preventDefault();
  }

  /** To the nearest node in a direction. */
  #step(at, [right, down]) {
    const nodes = this.cy.nodes().filter((node) => node.data("kind") !== "open");
    const from = at.nonempty() && at.isEdge() ? at.target() : at;
    if (from.empty()) {
      if (nodes.nonempty()) this.#focus(nodes[0]);
      return;
    }
    const here = from.position();
    const far = (node) => {
      const [x, y] = [node.position("x") - here.x, node.position("y") - here.y];
      const [ahead, aside] = right ? [x * right, y] : [y * down, x];
      return ahead > 1 ? ahead + 2 * Math.abs(aside) : Infinity;
    };
    const next = nodes.filter((node) => node.id() !== from.id() && far(node) < Infinity).min(far).ele;
    if (next) this.#focus(next);
  }

  #nextLink(at) {
    if (at.empty()) return;
    this.around = at.isNode() ? at.id() : this.around;
    const links = this.cy.getElementById(this.around).connectedEdges("[kind = 'link']");
    if (links.empty()) return;
    const place = at.isEdge() ? links.toArray().findIndex((link) => link.id() === at.id()) : -1;
    this.#focus(links[(place + 1) % links.length]);
  }
}

function nodeElement(node) {
  if (node.kind !== "space") return moduleElement(node);
  const { record } = node.space;
  const times = node.rows.length > 1 && !node.parent ? ` \u00d7${node.rows.length}` : "";
  const label = `${broken(node.label)}${times}\n${counted(record.size)} \u00b7 ${record.class}`;
  const said = `space ${node.name}, ${record.class}, size ${counted(record.size)}`;
  const names = [node.name, node.space.name, ...node.rows.map((row) => filled(record.name, [row]))];
  return {
    data: {
      id: node.id,
      parent: node.parent,
      kind: "space",
      label,
      said,
      names,
      node,
      class: record.class,
      shape: SHAPES[record.kind],
      ...room(label),
    },
  };
}

/** A long name in two lines. */
function broken(name) {
  const words = dotted(name);
  return name.length > LONGEST && words.length > 1
    ? `${words.slice(0, -1).join(".")}\n${words.at(-1)}`
    : name;
}

function moduleElement(node) {
  const times = node.times > 1 ? ` \u00d7${node.times}` : "";
  const open = node.kind === "open";
  const name =
    node.parent && node.id.startsWith(`${node.parent}.`) ? node.id.slice(node.parent.length + 1) : node.id;
  const label = open ? `\u25be ${name}${times}` : `\u25b8 ${name}${times}\n${several(node.spaces, "space")}`;
  const said = `module ${node.id}${times}, ${open ? "open" : "folded"}`;
  return { data: { id: node.id, parent: node.parent, kind: node.kind, label, said, node, ...room(label) } };
}

function fibreElement({ id, source, target }) {
  return { data: { id, source, target, kind: "fibre" } };
}

function linkElement(link) {
  const main = [...link.members].filter(([, held]) => held.main).map(([parameter]) => parameter);
  const words = [...new Set(main.map(({ name }) => short(name)))];
  const more = words.length > LABELS ? `, +${words.length - LABELS + 1}` : "";
  const label = link.vector
    ? several(link.members.size, "vector")
    : words.slice(0, more ? LABELS - 1 : LABELS).join(", ") + more;
  const names = [...link.members.keys()].map(({ name }) => name);
  const said = `link ${names.join(", ")}`;
  return {
    data: { id: link.id, source: link.source, target: link.target, kind: "link", label, said, names, link },
    classes: [link.directed ? "directed" : "", link.named ? "" : "aside"].filter(Boolean),
  };
}

const probe = document.body.appendChild(el("i", { hidden: true }));

/** The colours of the theme by their names, as the browser computes them. */
function palette() {
  const known = new Map();
  return (name, other = "ink") => {
    if (!known.has(name)) {
      probe.style.color = `var(--${name}, var(--${other}))`;
      known.set(name, getComputedStyle(probe).color);
    }
    return known.get(name);
  };
}

const measure = document.createElement("canvas").getContext("2d");

/** How much room a label takes. */
function room(label) {
  measure.font = "12px system-ui, sans-serif";
  const lines = label.split("\n");
  return {
    width: Math.ceil(Math.max(...lines.map((line) => measure.measureText(line).width))) + 4,
    height: 15 * lines.length,
  };
}

function style() {
  const colour = palette();
  const ofClass = (node) => colour(`class-${slug(node.data("class"))}`, "class-other");
  const text = {
    color: colour("ink"),
    "font-family": "system-ui, sans-serif",
    "font-size": 12,
    "text-wrap": "wrap",
    "min-zoomed-font-size": 6,
  };
  return [
    {
      selector: "node",
      style: { ...text, label: "data(label)", "text-valign": "center", "text-halign": "center" },
    },
    {
      selector: "node[kind = 'space']",
      style: {
        shape: "data(shape)",
        width: "data(width)",
        height: "data(height)",
        padding: 11,
        "background-color": ofClass,
        "border-width": 1.5,
        "border-color": colour("line-strong"),
      },
    },
    { selector: "node[shape = 'rectangle']", style: { "border-style": "dashed" } },
    {
      selector: "node[kind = 'open']",
      style: {
        shape: "round-rectangle",
        padding: 16,
        "background-color": colour("module"),
        "background-opacity": 0.6,
        "border-color": colour("line"),
        "border-width": 1,
        "text-valign": "top",
        "text-events": "yes",
        color: colour("ink-soft"),
      },
    },
    {
      selector: "node[kind = 'closed']",
      style: {
        shape: "round-rectangle",
        width: "data(width)",
        height: "data(height)",
        padding: 14,
        "background-color": colour("module"),
        "border-color": colour("line-strong"),
        "border-width": 1.5,
        "border-style": "double",
      },
    },
    {
      selector: "edge",
      style: {
        ...text,
        "font-size": 11,
        "curve-style": "bezier",
        width: 1.6,
        "line-color": colour("line-strong"),
        "target-arrow-color": colour("line-strong"),
        color: colour("ink-soft"),
        "text-background-color": colour("ground"),
        "text-background-opacity": 0.85,
        "text-background-padding": 1,
      },
    },
    // Where no links arrive: above a node, or beside it where links come from above.
    {
      selector: "edge:loop",
      style: { "loop-direction": "0deg", "loop-sweep": "50deg", "control-point-step-size": 64 },
    },
    {
      selector: "edge.beside:loop",
      style: { "loop-direction": "90deg", "loop-sweep": "24deg", "control-point-step-size": 150 },
    },
    { selector: "edge[label]", style: { label: "data(label)" } },
    { selector: "edge.aside", style: { width: 1, opacity: 0.6 } },
    { selector: "edge.directed", style: { "target-arrow-shape": "triangle" } },
    {
      selector: "edge[kind = 'fibre']",
      style: {
        "line-style": "dotted",
        width: 2,
        "target-arrow-shape": "diamond",
        "line-color": colour("accent"),
        "target-arrow-color": colour("accent"),
      },
    },
    {
      selector: ".chosen",
      style: {
        "border-width": 4,
        "border-color": colour("accent"),
        "line-color": colour("accent"),
        "target-arrow-color": colour("accent"),
        "z-index": 9,
      },
    },
    { selector: "edge.chosen", style: { width: 3.5 } },
    {
      selector: ".focused",
      style: {
        "outline-width": 3,
        "outline-color": colour("accent"),
        "outline-offset": 3,
        "underlay-color": colour("accent"),
        "underlay-opacity": 0.25,
        "underlay-padding": 5,
      },
    },
  ];
}
