// The tables beside a drawing.

import { counted, dottedName } from "assets/dom.js";
import { formula } from "assets/formula.js";
import { term } from "assets/glossary.js";
import { chip } from "assets/symmetry-details.js";
import { Table } from "assets/table.js";

function count(one) {
  return one.rows.length;
}

const TIMES = {
  title: "count",
  number: true,
  value: count,
  cell: (one) => (count(one) > 1 ? `\u00d7${count(one)}` : ""),
};

/** The spaces; those that move stand first. */
export function spaceTable(data, go) {
  const still = (one) => (one.record.kind === "rigid" ? 1 : 0);
  return new Table({
    name: "spaces",
    rows: [...data.spaces].sort((a, b) => still(a) - still(b)),
    key: (one) => one.name,
    choose: (one) => go("space", one.name),
    filter: { title: "class", value: (one) => one.record.class },
    columns: [
      { title: "space", value: (one) => one.name, cell: (one) => dottedName(one.name) },
      {
        title: "size",
        number: true,
        value: (one) => one.record.size,
        cell: (one) => counted(one.record.size),
      },
      {
        title: "class",
        value: (one) => one.record.group,
        cell: (one) => chip(one.record.class, one.record.group),
      },
      {
        title: "dim",
        number: true,
        value: (one) => one.record.dimension,
        cell: (one) => counted(one.record.dimension),
      },
      TIMES,
    ],
  });
}

/** The parameters and buffers with their laws. */
export function parameterTable(data, go) {
  return new Table({
    name: "parameters",
    rows: data.parameters,
    key: (one) => one.name,
    choose: (one) => go("parameter", one.name),
    filter: { title: "kind", value: (one) => one.record.kind },
    columns: [
      { title: "parameter", value: (one) => one.name, cell: (one) => dottedName(one.name) },
      { title: "shape", short: true, value: (one) => one.record.shape.join("\u00d7") },
      { title: "law", value: (one) => one.record.formula, cell: (one) => formula(one.record.formula) },
      TIMES,
    ],
  });
}

/** The members of families without a space. */
export function familyTable(data, go) {
  return new Table({
    name: "families",
    rows: data.families,
    key: (one) => one.name,
    choose: (one) => go("family", one.name),
    filter: { title: "family", value: (one) => one.record.family },
    columns: [
      { title: "family", value: (one) => one.record.family, cell: (one) => term(one.record.family) },
      { title: "member", value: (one) => one.name, cell: (one) => dottedName(one.name) },
      {
        title: "dim",
        number: true,
        value: (one) => one.record.dimension,
        cell: (one) => counted(one.record.dimension),
      },
      TIMES,
    ],
  });
}
