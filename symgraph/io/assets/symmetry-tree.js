// What of a symmetry graph is drawn: spaces inside modules, some of which are folded, and the links between what is seen.

import { filled, markIn } from "assets/repeated.js";

const MOST_SEEN = 40;

/**
 * The modules of a graph and which of them are open.
 *
 * Repeated modules are one (`layers.{0..79}`) but for the numbers that `apart` has for their path; a module in `closed` is
 * one node.
 */
export class Tree {
  constructor(data) {
    this.data = data;
    this.apart = new Map();
    this.closed = new Set();
    this.moving = data.spaces.filter(({ record }) => record.kind !== "rigid");
    const used = linkedTo(data.parameters, new Set(this.moving.flatMap(everyName)));
    this.drawn = data.spaces.filter((space) => this.moving.includes(space) || everyName(space).some((name) => used.has(name)));
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
      inside.forEach((id, at) => nodes.set(id, { ...groups.get(id), id, kind: "open", parent: inside[at - 1] }));
      const node = shut ? { ...groups.get(shut), id: shut, kind: "closed" } : { ...place, kind: "space", label: this.#label(place, inside.at(-1)) };
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
    for (const place of this.#places()) {
      if (!place.rows.some((row) => filled(place.space.record.name, [row]) === name) && place.space.name !== name) continue;
      if (place.space.record.kind === "rigid") this.rigid = true;
      place.path.forEach((id) => this.closed.delete(id));
    }
  }

  /** What a space is called inside of a module: with the modules between, of which it is the only part. */
  #label({ name, path }, module) {
    const home = path.at(-1) ?? "";
    const around = module ?? this.whole;
    const between = home.startsWith(`${around}.`) ? home.slice(around.length + 1) : around || home === around ? "" : home;
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
        parts = parts.flatMap((rows) => grouped(rows, (row) => (apart.has(row[mark]) ? row[mark] : "others")));
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
        const found = groups.get(group) ?? { step: steps[at], numbers, times, children: new Set(), spaces: 0 };
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
        const { source, target, directed } = filled(parameter.record.link, [row]);
        const vector = !target.length;
        for (const from of source) {
          for (const to of vector ? [from] : target) {
            const ends = [nodeOf.get(from), nodeOf.get(to)];
            if (!ends[0] || !ends[1] || (ends[0] === ends[1] && !ends[0].startsWith("space "))) continue;
            const id = `link ${ends.join(" | ")} ${vector} ${directed}`;
            const link = links.get(id) ?? { id, source: ends[0], target: ends[1], vector, directed, members: new Map(), named: false };
            const main = vector || (from === source.at(-1) && to === target.at(-1));
            link.named ||= main;
            const held = link.members.get(parameter) ?? { rows: [], main };
            held.rows.push(row);
            link.members.set(parameter, held);
            links.set(id, link);
          }
        }
      }
    }
    return [...links.values()];
  }

  #fibres(nodeOf) {
    const found = new Map();
    for (const { record, rows } of this.data.spaces) {
      for (const row of rows) {
        for (const outer of filled(record.fibre, [row])) {
          const ends = [nodeOf.get(outer.name), nodeOf.get(filled(record.name, [row]))];
          if (ends[0] && ends[1] && ends[0] !== ends[1]) found.set(ends.join(" | "), { id: `fibre ${ends.join(" | ")}`, source: ends[0], target: ends[1] });
        }
      }
    }
    return [...found.values()];
  }
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
  const ends = parameters.flatMap(({ record, rows }) => rows.map((row) => filled([...record.link.source, ...record.link.target], [row])));
  return new Set(ends.filter((names) => !wanted.size || names.some((name) => wanted.has(name))).flat());
}

/** `a.layers.3.b` as its modules from the outside: a, a.layers.3, a.layers.3.b. */
function prefixes(home) {
  const words = home ? home.split(".") : [];
  const found = [];
  words.forEach((word, at) => {
    const next = words[at + 1];
    if (next === undefined || !(/^\d+$/.test(next) || markIn(next) >= 0)) found.push(words.slice(0, at + 1).join("."));
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
