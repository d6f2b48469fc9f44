// What of a symmetry graph is drawn: spaces inside modules, some of which are folded, and the links between what is seen.

import { filled, markIn } from "assets/repeated.js";

const MOST_SEEN = 40;

/**
 * The modules of a graph and which of them are open.
 *
 * Repeated modules are one (`layers.{0..79}`) but for the numbers that `apart` has for their path; a module in
 * `closed` is one node.
 */
export class Tree {
  constructor(data) {
    this.data = data;
    this.apart = new Map();
    this.closed = new Set();
    const moves = ({ record }) => record.kind !== "rigid";
    this.moving = data.spaces.filter(moves);
    const used = linkedTo(data.parameters, new Set(this.moving.flatMap(everyName)));
    this.drawn = data.spaces.filter(
      (space) => moves(space) || everyName(space).some((name) => used.has(name)),
    );
    this.rigid = this.drawn.length <= MOST_SEEN || !this.moving.length;
    this.#closeDeep();
  }

  /** Nodes and links as they are seen now. */
  seen() {
    const places = this.#places();
    const groups = this.#groups(places);
    const nodeOf = new Map();
    const nodes = new Map();
    for (const place of places) {
      const path = place.path.filter((id) => groups.has(id));
      const shut = path.find((id) => this.closed.has(id));
      const inside = shut ? path.slice(0, path.indexOf(shut)) : path;
      inside.forEach((id, at) =>
        nodes.set(id, { ...groups.get(id), id, kind: "open", parent: inside[at - 1] }),
      );
      const node = shut
        ? { ...groups.get(shut), id: shut, kind: "closed" }
        : { ...place, kind: "space", label: this.#label(place, inside.at(-1)) };
      nodes.set(node.id, { ...node, parent: inside.at(-1) });
      for (const row of place.rows) nodeOf.set(filled(place.space.record.name, [row]), node.id);
    }
    return { nodes: [...nodes.values()], links: this.#links(nodeOf), fibres: this.#fibres(nodeOf) };
  }

  /** Opens a module, or closes it. */
  toggle(id) {
    if (!this.closed.delete(id)) this.closed.add(id);
  }

  /** Shows those of the modules that are alike by themselves, closed, whose numbers these are. */
  showApart(path, numbers) {
    this.apart.set(path, new Set([...(this.apart.get(path) ?? []), ...numbers]));
    for (const { path: ids, steps } of this.#places()) {
      steps.forEach((step, at) => step === path && this.closed.add(ids[at]));
    }
  }

  /** Shows all modules that are alike as one again. */
  showAsOne(path) {
    this.apart.delete(path);
  }

  /** Closes every module, or opens every one. */
  closeAll(close) {
    this.closed.clear();
    if (close) for (const id of this.#groups(this.#places()).keys()) this.closed.add(id);
  }

  /** Opens what hides a space. */
  reveal(name) {
    for (const { path, space, rows } of this.#places()) {
      const here = space.name === name || rows.some((row) => filled(space.record.name, [row]) === name);
      if (here) path.forEach((id) => this.closed.delete(id));
    }
  }

  /** What a space is called inside of a module: with the modules between, of which it is the only part. */
  #label({ name, path }, module) {
    const between = below(path.at(-1) ?? "", module ?? this.whole);
    return between ? `${between}.${dotted(name).at(-1)}` : short(name);
  }

  #closeDeep() {
    const deep = Math.max(0, ...this.#places().map(({ path }) => path.length));
    for (let level = deep; level > 0 && this.seen().nodes.length > MOST_SEEN; level -= 1) {
      for (const { path } of this.#places()) if (path.length >= level) this.closed.add(path[level - 1]);
    }
  }

  /** Every space that is drawn, each as often as the modules around it are shown apart. */
  #places() {
    return (this.rigid ? this.drawn : this.moving).flatMap((space) => {
      const steps = prefixes(space.record.home);
      let parts = [space.rows];
      for (const step of steps.filter((path) => this.apart.has(path))) {
        const [mark, apart] = [markIn(lastOf(step)), this.apart.get(step)];
        parts = parts.flatMap((rows) =>
          grouped(rows, (row) => (apart.has(row[mark]) ? row[mark] : "others")),
        );
      }
      return parts.map((rows) => ({
        id: `space ${filled(space.record.name, rows)}`,
        name: filled(space.record.name, rows),
        path: steps.map((step) => filled(step, rows)),
        steps,
        rows,
        space,
      }));
    });
  }

  /** Modules that hold more than one thing, or stand for more than one. */
  #groups(places) {
    const groups = new Map();
    for (const { path, steps, rows, id } of places) {
      path.forEach((group, at) => {
        const mark = markIn(lastOf(steps[at]));
        const numbers = mark < 0 ? [] : [...new Set(rows.map((row) => row[mark]))];
        const times = Math.max(numbers.length, 1);
        const found = groups.get(group) ?? {
          step: steps[at],
          numbers,
          times,
          children: new Set(),
          spaces: 0,
        };
        found.children.add(path[at + 1] ?? id);
        found.spaces += 1;
        groups.set(group, found);
      });
    }
    // A module that holds everything says nothing; the names inside leave it out.
    this.whole = "";
    for (const [id, group] of groups) {
      const all = group.spaces === places.length;
      if ((group.children.size > 1 && !all) || group.times > 1 || this.apart.has(group.step)) continue;
      if (all) this.whole = id;
      groups.delete(id);
    }
    return groups;
  }

  #links(nodeOf) {
    const links = new Map();
    for (const parameter of this.data.parameters) {
      for (const row of parameter.rows) {
        for (const end of ends(filled(parameter.record.link, [row]), nodeOf))
          addTo(links, parameter, row, end);
      }
    }
    return [...links.values()];
  }

  #fibres(nodeOf) {
    const found = new Map();
    for (const { record, rows } of this.data.spaces) {
      for (const row of rows) {
        const target = nodeOf.get(filled(record.name, [row]));
        for (const outer of filled(record.fibre, [row])) {
          const source = nodeOf.get(outer.name);
          const id = `fibre ${source} | ${target}`;
          if (source && target && source !== target) found.set(id, { id, source, target });
        }
      }
    }
    return [...found.values()];
  }
}

/**
 * The pairs of nodes that a parameter leads between: one for each pair of spaces on its two axes.
 *
 * `main` is the pair of the innermost spaces, which bears the name. Inside of a folded module nothing is seen.
 */
function* ends({ source, target, directed }, nodeOf) {
  const vector = !target.length;
  for (const from of source) {
    for (const to of vector ? [from] : target) {
      const [start, stop] = [nodeOf.get(from), nodeOf.get(to)];
      const hidden = start === stop && !start?.startsWith("space ");
      const main = vector || (from === source.at(-1) && to === target.at(-1));
      if (start && stop && !hidden) yield { source: start, target: stop, directed, vector, main };
    }
  }
}

/** Adds one of the parameters of a record to the link between two nodes. */
function addTo(links, parameter, row, { main, ...end }) {
  const id = `link ${Object.values(end).join(" | ")}`;
  const link = links.get(id) ?? { id, ...end, members: new Map(), named: false };
  const held = link.members.get(parameter) ?? { rows: [], main };
  held.rows.push(row);
  link.members.set(parameter, held);
  link.named ||= main;
  links.set(id, link);
}

/** The part of a path that lies inside of a module; all of it where that is the whole model. */
function below(path, module) {
  if (!module) return path;
  return path.startsWith(`${module}.`) ? path.slice(module.length + 1) : "";
}

/** A name in its parts; the dots of a range are none of its own. */
export function dotted(name) {
  return name.split(/\.(?![^{]*\})/);
}

/** The last words of a name, as far as they tell what it is. */
export function short(name) {
  const words = dotted(name.replace(/\.weight$/, ""));
  const last = words.at(-1);
  return words.length > 1 && /^(\d|\{|weight|bias)/.test(last) ? words.slice(-2).join(".") : last;
}

function everyName({ record, rows }) {
  return rows.map((row) => filled(record.name, [row]));
}

/** The spaces at the ends of links that lead to one of these, or of every link where these are none. */
function linkedTo(parameters, wanted) {
  const ends = parameters.flatMap(({ record, rows }) =>
    rows.map((row) => filled([...record.link.source, ...record.link.target], [row])),
  );
  return new Set(ends.filter((names) => !wanted.size || names.some((name) => wanted.has(name))).flat());
}

/** `a.layers.3.b` as its modules from the outside: a, a.layers.3, a.layers.3.b. */
function prefixes(home) {
  const words = home ? home.split(".") : [];
  const found = [];
  words.forEach((word, at) => {
    const next = words[at + 1];
    if (next === undefined || !(/^\d+$/.test(next) || markIn(next) >= 0))
      found.push(words.slice(0, at + 1).join("."));
  });
  return found;
}

function lastOf(path) {
  return path.split(".").at(-1);
}

function grouped(items, key) {
  const found = new Map();
  for (const item of items) found.set(key(item), [...(found.get(key(item)) ?? []), item]);
  return [...found.values()];
}
