// Loss barriers of two models, of several results in one picture; other pages show them as well.

import { figure, legend, lineChart, within } from "assets/chart.js";
import { el } from "assets/dom.js";
import { Picture, choice } from "assets/report.js";
import { Table } from "assets/table.js";

const FORMS = { values: "as measured", barriers: "above the chord" };

/** The curves of results, with a choice of what is shown. */
export function curvePicture(name, results) {
  const wanted = { quantity: "0", form: "values" };
  const hidden = new Set();
  const shown = () =>
    results.map((result, hue) => curve(result, hue, wanted)).filter((one) => one && !hidden.has(one.label));
  const picture = new Picture(name, (say) => {
    const quantity = results[0].quantities[wanted.quantity];
    const [first, second] = results[0].models;
    const x = { title: `\u03bb (0 is ${first}, 1 is ${second})`, from: 0, to: 1 };
    const title = wanted.form === "values" ? quantity.name : `${quantity.name} above the chord`;
    return lineChart({
      name: `${name}: ${title}`,
      curves: shown(),
      x,
      y: { title, include: wanted.form === "barriers" ? [0] : [] },
      say,
    });
  });
  const keys = el("div", {});
  const redraw = () => {
    const notes = results.map((result, hue) => {
      const found = result.quantities[wanted.quantity];
      return found
        ? { label: result.label, hue, note: `barrier ${within(found.barrier, found.standard_error)}` }
        : null;
    });
    keys.replaceChildren(legend(notes.filter(Boolean), hidden, redraw));
    picture.draw();
  };
  const change = (key) => (value) => {
    wanted[key] = value;
    redraw();
  };
  const names = Object.fromEntries(results[0].quantities.map((quantity, at) => [at, quantity.name]));
  const choices = [choice("shown", FORMS, "values", change("form"))];
  if (results[0].quantities.length > 1) choices.unshift(choice("quantity", names, "0", change("quantity")));
  redraw();
  return el("div", {}, el("div", { class: "choices" }, choices), keys, picture.element);
}

function curve(result, hue, { quantity: at, form }) {
  const quantity = result.quantities.find((one) => one.name === result.quantities[at]?.name);
  if (!quantity) return null;
  const errors = form === "values" ? quantity.value_errors : quantity.standard_errors;
  const points = quantity.places.map((x, i) => ({ x, y: quantity[form][i], error: errors[i] }));
  return { label: result.label, hue, points, chord: form === "values" };
}

/** One row for each result and quantity. */
export function resultTable(results) {
  const rows = results.flatMap(({ label, quantities }) =>
    quantities.map((quantity) => ({ label, ...quantity })),
  );
  return new Table({
    name: "results",
    rows,
    key: (row) => `${row.label} ${row.name}`,
    filter: results[0].quantities.length > 1 ? { title: "quantity", value: (row) => row.name } : undefined,
    columns: [
      ...named(results),
      { title: "quantity", value: (row) => row.name },
      {
        title: "barrier",
        number: true,
        value: (row) => row.barrier,
        cell: (row) => within(row.barrier, row.standard_error),
      },
      { title: "at", short: true, value: (row) => place(row.argmax) },
      {
        title: results[0].models.length === 2 ? "midpoint" : "even mixture",
        number: true,
        value: (row) => row.midpoint ?? -Infinity,
        cell: (row) => figure(row.midpoint),
      },
      {
        title: "least inside",
        number: true,
        value: (row) => row.interior_min,
        cell: (row) => figure(row.interior_min),
      },
    ],
  });
}

/** One row for each mixture that was measured. */
export function pointTable(results) {
  const rows = results.flatMap(({ label, quantities }) =>
    quantities.flatMap((quantity) =>
      quantity.places.map((at, i) => ({
        label,
        name: quantity.name,
        at,
        value: quantity.values[i],
        error: quantity.value_errors[i],
        barrier: quantity.barriers[i],
        within: quantity.standard_errors[i],
      })),
    ),
  );
  return new Table({
    name: "mixtures",
    rows,
    key: (row) => `${row.label} ${row.name} ${row.at}`,
    filter: results.length > 1 ? { title: "result", value: (row) => row.label } : undefined,
    columns: [
      ...named(results),
      {
        title: results[0].models.length === 2 ? "\u03bb" : "mixture",
        short: true,
        value: (row) => place(row.at),
      },
      { title: "quantity", value: (row) => row.name },
      {
        title: "value",
        number: true,
        value: (row) => row.value,
        cell: (row) => within(row.value, row.error),
      },
      {
        title: "barrier",
        number: true,
        value: (row) => row.barrier,
        cell: (row) => within(row.barrier, row.within),
      },
    ],
  });
}

/** What results are called, where there are several. */
function named(results) {
  return results.length > 1 ? [{ title: "result", value: (row) => row.label }] : [];
}

function place(at) {
  return Array.isArray(at) ? at.map((weight) => figure(weight, 3)).join(" ") : figure(at, 3);
}
