// Loss barriers: curves of two models, the simplex of three, ways to the middle of more, and the plane through three.

import { curvePicture, pointTable, resultTable } from "assets/barrier-curves.js";
import { legend, lineChart } from "assets/chart.js";
import { counted, el } from "assets/dom.js";
import { setGlossary, term } from "assets/glossary.js";
import { Picture, card, choice } from "assets/report.js";
import { planeMap, triangle } from "assets/surface.js";

const NEAR = 1e-9;

export function show(data, place) {
  setGlossary(data.glossary);
  place.classList.add("report");
  place.append(
    card(mainTitle(data), { name: "barrier" }, main(data)),
    card("Results", { name: "results" }, about(data), resultTable(data.results).element),
    ...(data.plane ? plane(data.plane) : []),
    card("Every mixture", { name: "mixtures", wide: true }, pointTable(data.results).element),
  );
  document.documentElement.dataset.drawn = "true";
}

function mainTitle({ models }) {
  if (models.length === 2) return `Between ${models.join(" and ")}`;
  return `Mixtures of ${models.join(", ")}`;
}

function main(data) {
  const { models, triangles } = data;
  if (models.length === 2) return curvePicture("Loss barrier", data.results);
  const [result] = data.results;
  if (!triangles.length) return ways(result.quantities, models);
  return withQuantity("Simplex", result.quantities, (measured, say) =>
    triangle({ name: `${measured.name} over the simplex`, measured, triangles, models, say }),
  );
}

/** A picture of one quantity of several, with what stands above it. */
function withQuantity(name, quantities, draw, above = "") {
  let at = 0;
  const picture = new Picture(name, (say) => draw(quantities[at], say));
  const names = Object.fromEntries(quantities.map((quantity, i) => [i, quantity.name]));
  const change = (value) => {
    at = Number(value);
    picture.draw();
  };
  const choices =
    quantities.length < 2 ? "" : el("div", { class: "choices" }, choice("quantity", names, "0", change));
  return el("div", { onredraw: () => picture.draw() }, choices, above, picture.element);
}

/** The quantity on the way from each model to the even mixture. */
function ways(quantities, models) {
  const hidden = new Set();
  const keys = el("div", {});
  const curves = (quantity) =>
    models.map((label, hue) => ({ label, hue, points: onWay(quantity, hue, 1 / models.length) }));
  const x = { title: "from one model alone (0) to the even mixture (1)", from: 0, to: 1 };
  const draw = (quantity, say) =>
    lineChart({
      name: `${quantity.name} on the ways to the even mixture`,
      curves: curves(quantity).filter(({ label }) => !hidden.has(label)),
      x,
      y: { title: quantity.name },
      say,
    });
  const whole = withQuantity("Ways to the even mixture", quantities, draw, keys);
  const redraw = () => {
    keys.replaceChildren(legend(curves(quantities[0]), hidden, redraw));
    whole.dispatchEvent(new Event("redraw"));
  };
  redraw();
  return whole;
}

function onWay(quantity, model, even) {
  const points = quantity.mixtures.flatMap((weights, i) => {
    const others = weights.filter((_, k) => k !== model);
    const on = Math.max(...others) - Math.min(...others) < NEAR && weights[model] >= others[0] - NEAR;
    return on
      ? [{ x: (1 - weights[model]) / (1 - even), y: quantity.values[i], error: quantity.value_errors[i] }]
      : [];
  });
  return points.sort((a, b) => a.x - b.x);
}

function about({ results, remarks }) {
  const measured = results.map(({ examples, source, split, recalibrated }) =>
    [
      `over ${counted(examples)} examples`,
      source && `of ${source}`,
      split && `split ${split}`,
      recalibrated && `statistics of ${recalibrated}`,
    ]
      .filter(Boolean)
      .join(", "),
  );
  return [
    el(
      "p",
      {},
      "The ",
      term("loss barrier"),
      " is the largest distance of a mixture above the ",
      term("chord"),
      ", with its ",
      term("standard error"),
      "; bands are one standard error of the curve itself.",
    ),
    el("p", {}, el("small", {}, [...new Set(measured)].join("; "))),
    remarks.length
      ? el(
          "ul",
          { class: "remarks" },
          remarks.map((text) => el("li", {}, text)),
        )
      : "",
  ];
}

function plane(data) {
  const map = withQuantity("Plane", data.quantities, (quantity, say) =>
    planeMap({ name: `${quantity.name} on the plane`, quantity, plane: data, say }),
  );
  const way = withQuantity("Path", data.quantities, (quantity, say) => {
    const points = quantity.path.map(([x, y, error]) => ({ x, y, error, name: along(x, data.models) }));
    const x = {
      title: "along the path",
      from: 0,
      to: data.models.length - 1,
      ticks: data.models.map((name, i) => [i, name]),
    };
    return lineChart({
      name: `${quantity.name} along the path`,
      curves: [{ label: "path", hue: 1, points }],
      x,
      y: { title: quantity.name },
      say,
    });
  });
  const shares =
    "The first model is at the origin, the second on the horizontal axis; the path leads through the models in their order.";
  return [
    card(
      `The plane through ${data.models.join(", ")}`,
      { name: "plane" },
      el("p", {}, el("small", {}, shares)),
      map,
    ),
    card("Along the path", { name: "path" }, way),
  ];
}

function along(x, models) {
  const leg = Math.min(Math.floor(x), models.length - 2);
  return `${Math.round(100 * (x - leg))} % of the way from ${models[leg]} to ${models[leg + 1]}`;
}
