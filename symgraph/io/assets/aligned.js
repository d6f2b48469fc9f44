// An alignment: what it did, whether it helped, which space carries the loss barrier, and how sure it is.

import { curvePicture, resultTable } from "assets/barrier-curves.js";
import { figure, histogram, lineChart, rankedBars, within } from "assets/chart.js";
import { counted, dottedName, el } from "assets/dom.js";
import { setGlossary, term, wholeGlossary } from "assets/glossary.js";
import { point, pointed } from "assets/page.js";
import { Picture, card, facts } from "assets/report.js";
import { spaceDetails } from "assets/aligned-space.js";
import { Table } from "assets/table.js";
import { Tabs } from "assets/tabs.js";

const MOST_BARS = 14;

export function show(data, place) {
  setGlossary(data.glossary);
  place.classList.add("report");
  const barrier = data.results.length
    ? [
        card(
          "Loss between the models",
          { name: "curves" },
          curvePicture("Loss between the models", data.results),
        ),
      ]
    : [];
  const sweeps = card("Objective", { name: "objective" }, objective(data));
  place.append(
    card("What it did", { name: "summary" }, summary(data)),
    ...(barrier.length ? barrier : [sweeps]),
    ...(data.by_space?.spaces.length
      ? [
          card(
            "Which space carries the loss barrier",
            { name: "carried", wide: true },
            carried(data.by_space),
          ),
        ]
      : []),
    ...spaces(data),
    card("Parameters", { name: "parameters", wide: true }, parameters(data)),
    card("Least certain units", { name: "doubtful" }, doubtful(data)),
    ...(barrier.length ? [sweeps] : [card("Norms", { name: "growth" }, growth(data))]),
    ...(barrier.length
      ? [
          card("Norms", { name: "growth" }, growth(data)),
          card("Loss barriers", { name: "results" }, resultTable(data.results).element),
        ]
      : []),
    card("How it was made", { name: "how", wide: true }, how(data)),
  );
  document.documentElement.dataset.drawn = "true";
}

// -- what it did ------------------------------------------------------------------------------------------------------

function summary(data) {
  const worst = ranked(data.by_space?.spaces ?? [])[0];
  const unsure = data.spaces
    .filter((space) => space.assigned)
    .sort((a, b) => a.assigned.median - b.assigned.median)[0];
  const pairs = [
    [
      term("canonical form", "distance"),
      `${figure(data.before)} \u2192 ${figure(data.after)} in canonical form, over the norm of ${data.models[0]}${mixed(data)}`,
    ],
    ["found by", data.method],
    ["spaces", `${counted(data.spaces.length)} on which more than the identity acts`],
  ];
  if (worst)
    pairs.push([
      "carries the barrier",
      `${worst.space}: left as it was, the highest point between the models is ${overChord(highest(worst))} (${overChord(highest(data.by_space.aligned))} with all aligned)`,
    ]);
  if (unsure)
    pairs.push([
      "least sure",
      `${unsure.name}: median gap ${figure(unsure.assigned.median, 3)} to the second best`,
    ]);
  return [verdict(data.helped), facts(pairs), said([...data.notes, ...data.remarks]), certainty(data.spaces)];
}

/** What distances are mixed with where activations count. */
function mixed({ matching }) {
  return matching === "activations" ? ", mixed with that of activations" : "";
}

function verdict(helped) {
  if (!helped)
    return el(
      "p",
      { class: "verdict" },
      "Whether it helped is not known: no data was given to measure the loss barrier on.",
    );
  const mood = helped.better === null ? "" : helped.better ? " good" : " bad";
  return el(
    "p",
    { class: `verdict${mood}`, "data-helped": String(helped.better) },
    helped.said[0].toUpperCase() + helped.said.slice(1),
    ".",
  );
}

/** How sure all assignments are, of every space together. */
function certainty(every) {
  const counts = new Map();
  for (const { low, high, count } of every.flatMap(({ assigned }) => assigned?.bars ?? []))
    counts.set(low, { from: low, to: high, count: (counts.get(low)?.count ?? 0) + count });
  if (!counts.size) return "";
  const sorted = [...counts.values()].sort((a, b) => a.from - b.from);
  const picture = new Picture("Gaps of all units", (say) =>
    histogram({
      name: "gap to the second best of all units",
      bars: filledIn(sorted),
      x: { title: "gap to the second best, all units" },
      y: { title: "units" },
      height: 180,
      say,
    }),
  );
  return picture.element;
}

/** Bars beside each other, with empty ones where there are none between. */
function filledIn(bars) {
  return bars.flatMap((bar, i) => {
    const width = bar.to - bar.from;
    const missing = i ? Math.round((bar.from - bars[i - 1].to) / width) : 0;
    const empty = [...Array(missing).keys()].map((k) => ({
      from: bars[i - 1].to + k * width,
      to: bars[i - 1].to + (k + 1) * width,
      count: 0,
    }));
    return [...empty, bar];
  });
}

function said(lines) {
  const every = [...new Set(lines)];
  return every.length
    ? el(
        "details",
        { open: every.length < 4 },
        el("summary", {}, "Remarks"),
        el(
          "ul",
          {},
          every.map((line) => el("li", {}, line)),
        ),
      )
    : "";
}

// -- which space carries the barrier ----------------------------------------------------------------------------------

/** The highest point between the models: its distance from the chord, which may be below it, and the error of that. */
function highest({ barriers, standard_errors: errors, places }) {
  const inside = barriers.slice(1, -1);
  const at = inside.indexOf(Math.max(...inside)) + 1;
  return { value: barriers[at], error: errors[at], at: places[at] };
}

function overChord({ value, error }) {
  return `${within(Math.abs(value), error)} ${value < 0 ? "below" : "above"} the chord`;
}

function ranked(spaces) {
  return [...spaces].sort((a, b) => highest(b).value - highest(a).value);
}

function carried({ aligned, spaces }) {
  const sorted = ranked(spaces);
  const least = highest(aligned).value;
  const picture = new Picture("Loss barrier without a space", (say) =>
    rankedBars({
      name: "highest point with one space left as it was",
      rows: sorted.slice(0, MOST_BARS).map((row) => ({ label: row.space, ...highest(row), hue: 1 })),
      title: "highest point above the chord",
      rule: { value: least, label: "all aligned" },
      width: 620,
      say,
    }),
  );
  const table = new Table({
    name: "loss barrier without a space",
    rows: sorted,
    key: (row) => row.space,
    columns: [
      { title: "space left as it was", value: (row) => row.space, cell: (row) => dottedName(row.space) },
      {
        title: "barrier",
        number: true,
        value: (row) => row.barrier,
        cell: (row) => within(row.barrier, row.standard_error),
      },
      {
        title: "highest point",
        number: true,
        value: (row) => highest(row).value,
        cell: (row) => within(highest(row).value, highest(row).error),
      },
      {
        title: "more than aligned",
        number: true,
        value: (row) => highest(row).value - least,
        cell: (row) => figure(highest(row).value - least, 3),
      },
    ],
  });
  const lambdas = aligned.places
    .slice(1, -1)
    .map((x) => figure(x, 3))
    .join(", ");
  const words = `Measured at \u03bb = ${lambdas}: one space after the other, with what is fibred over it, is left as it was, all others as they were aligned. The higher the loss then rises above the chord, the more the alignment of that space matters.`;
  return [
    el("p", {}, el("small", {}, words)),
    el("div", { class: "halves" }, picture.element, table.element),
  ];
}

// -- spaces -----------------------------------------------------------------------------------------------------------

function spaces(data) {
  if (!data.spaces.length) {
    const why =
      "No space of these models admits more than the identity: there is nothing to align. Their page (`symgraph inspect MODEL --html FILE`) says why.";
    return [card("Spaces", { name: "spaces", wide: true }, el("p", {}, why))];
  }
  const details = el("div", { class: "one", "aria-live": "polite" });
  const without = new Map(data.by_space?.spaces.map((row) => [row.space, highest(row).value]) ?? []);
  const table = spaceTable(data.spaces, without, (row) => choose(row));
  const choose = (row) => {
    point("space", row.name);
    table.mark(row.name);
    details.replaceChildren(...spaceDetails(row));
  };
  const follow = () => {
    const [kind, name] = pointed() ?? [];
    const row = kind === "space" && data.spaces.find((one) => one.name === name);
    if (row) choose(row);
    return Boolean(row);
  };
  if (!follow()) {
    table.mark(data.spaces[0].name);
    details.replaceChildren(...spaceDetails(data.spaces[0]));
  }
  addEventListener("hashchange", follow);
  return [card("Spaces", { name: "spaces" }, table.element), card("One space", { name: "space" }, details)];
}

function spaceTable(rows, without, choose) {
  const columns = [
    { title: "space", value: (row) => row.name, cell: (row) => dottedName(row.name) },
    { title: "class", short: true, value: (row) => row.group, cell: (row) => term(row.group) },
    { title: "size", number: true, value: (row) => row.size, cell: (row) => counted(row.size) },
    {
      title: "before",
      number: true,
      value: (row) => row.before ?? Infinity,
      cell: (row) => figure(row.before, 3),
    },
    {
      title: "after",
      number: true,
      value: (row) => row.after ?? Infinity,
      cell: (row) => figure(row.after, 3),
    },
    {
      title: "gap",
      number: true,
      value: (row) => row.assigned?.median ?? -Infinity,
      cell: (row) => figure(row.assigned?.median, 2),
    },
    {
      title: "angle",
      number: true,
      value: (row) => row.turned?.median ?? -Infinity,
      cell: (row) => (row.turned ? `${row.turned.median.toFixed(0)}\u00b0` : figure(null)),
    },
  ];
  if (without.size)
    columns.push({
      title: "without",
      number: true,
      value: (row) => without.get(row.name) ?? -Infinity,
      cell: (row) => figure(without.get(row.name), 3),
    });
  return new Table({
    name: "spaces",
    rows,
    columns,
    key: (row) => row.name,
    filter: { title: "class", value: (row) => row.group },
    choose,
  });
}

// -- parameters -------------------------------------------------------------------------------------------------------

function parameters(data) {
  const table = new Table({
    name: "parameters",
    rows: data.parameters,
    key: (row) => row.name,
    filter: { title: "kind", value: (row) => row.name.split(".").at(-1) },
    columns: [
      { title: "parameter", value: (row) => row.name, cell: (row) => dottedName(row.name) },
      { title: "shape", short: true, value: (row) => row.shape.join(" \u00d7 ") || "1" },
      {
        title: "distance before",
        number: true,
        value: (row) => row.before ?? Infinity,
        cell: (row) => figure(row.before),
      },
      {
        title: "distance after",
        number: true,
        value: (row) => row.after ?? Infinity,
        cell: (row) => figure(row.after),
      },
      {
        title: "share of what is left",
        number: true,
        value: (row) => row.share,
        cell: (row) => `${(100 * row.share).toFixed(1)} %`,
      },
      {
        title: "norm grows",
        number: true,
        value: (row) => row.growth ?? -Infinity,
        cell: (row) => times(row.growth),
      },
    ],
  });
  const words = "Distances are taken in canonical form, over the norm of the tensor of the first model.";
  return [el("p", {}, el("small", {}, words)), table.element];
}

function times(growth) {
  return growth === null ? figure(null) : `\u00d7 ${figure(growth, 3)}`;
}

// -- confidence -------------------------------------------------------------------------------------------------------

function doubtful({ spaces: every }) {
  const rows = every.flatMap((space) =>
    (space.assigned?.doubtful ?? []).map((unit) => ({ space: space.name, ...unit })),
  );
  if (!rows.length) return el("p", {}, "No space has units that could change places.");
  rows.sort((a, b) => a.gap - b.gap);
  const place = (at) => at.join(" / ");
  const table = new Table({
    name: "least certain units",
    rows,
    key: (row) => `${row.space} ${place(row.place)}`,
    filter: { title: "space", value: (row) => row.space },
    columns: [
      { title: "space", value: (row) => row.space, cell: (row) => dottedName(row.space) },
      { title: "place", number: true, value: (row) => row.place.at(-1), cell: (row) => place(row.place) },
      { title: "unit", number: true, value: (row) => row.unit.at(-1), cell: (row) => place(row.unit) },
      { title: "cosine", number: true, value: (row) => row.cosine, cell: (row) => figure(row.cosine, 3) },
      {
        title: "second best",
        number: true,
        value: (row) => row.other.at(-1),
        cell: (row) => `${place(row.other)}: ${figure(row.second, 3)}`,
      },
      { title: "gap", number: true, value: (row) => row.gap, cell: (row) => figure(row.gap, 2) },
    ],
  });
  const words = [
    "The ",
    term("confidence", "gap"),
    " of a unit is how much nearer it is to its place than the next best unit; below zero that one is nearer, and was needed elsewhere.",
  ];
  return [el("p", {}, el("small", {}, words)), table.element];
}

// -- objective and norms ----------------------------------------------------------------------------------------------

function objective(data) {
  const { objective: values, learned } = data;
  const parts = [];
  if (values.length > 1) {
    const points = values.map((y, x) => ({ x, y, name: x ? `sweep ${x}` : "the start" }));
    const x = {
      title: "sweep",
      ticks: points.length < 12 ? points.map(({ x: at }) => [at, String(at)]) : undefined,
    };
    parts.push(
      el(
        "p",
        {},
        el(
          "small",
          {},
          `The weighted squared distance${mixed(data)}, after the start and after every sweep; no sweep raises it.`,
        ),
      ),
      new Picture("Objective by sweep", (say) =>
        lineChart({
          name: "objective by sweep",
          curves: [{ label: "objective", hue: 0, points }],
          x,
          y: { title: "objective" },
          height: 260,
          say,
        }),
      ).element,
    );
  }
  if (learned) {
    const points = learned.history.map(({ step, barrier }) => ({
      x: step,
      y: barrier,
      name: `step ${step}`,
    }));
    const what = learned.worst ? "of the worst mixture" : "of the even mixture";
    parts.push(
      el(
        "p",
        {},
        el(
          "small",
          {},
          `The barrier ${what} on validation data while it was learned (${learned.ended}; step ${learned.kept} is kept).`,
        ),
      ),
      new Picture("Barrier while learning", (say) =>
        lineChart({
          name: "barrier while learning",
          curves: [{ label: "validation", hue: 2, points }],
          x: { title: "step" },
          y: { title: "validation barrier" },
          height: 260,
          say,
        }),
      ).element,
    );
  }
  return parts.length ? parts : el("p", {}, "Nothing was swept: the models are as the start left them.");
}

function growth(data) {
  if (!data.growth.length) return el("p", {}, "No tensor of the second model has a norm.");
  const table = new Table({
    name: "norms that grow most",
    rows: data.growth,
    key: (row) => row.name,
    columns: [
      { title: "tensor", value: (row) => row.name, cell: (row) => dottedName(row.name) },
      { title: "grows", number: true, value: (row) => row.growth, cell: (row) => times(row.growth) },
    ],
  });
  const words = `Norms of ${data.models[1]} as it is used over those that it had: far above one, digits are lost and half precision may end.`;
  return [el("p", {}, el("small", {}, words)), table.element];
}

function how(data) {
  const pages = {
    program: ["Program", el("div", { class: "page" }, el("pre", {}, data.program))],
    words: ["Glossary", el("div", { class: "page" }, wholeGlossary())],
  };
  return new Tabs("How it was made", pages).element;
}
