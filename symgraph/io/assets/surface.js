// A quantity over mixtures of three models: a triangle in barycentric coordinates, or the plane through them.

import { figure, placed, svg } from "assets/chart.js";

const CORNERS = [
  [0, 0],
  [1, 0],
  [0.5, Math.sqrt(0.75)],
];
const PARTS = 7;
const FINER = 6;
const AROUND = [
  [33, 102, 172],
  [146, 197, 222],
  [247, 247, 247],
  [244, 165, 130],
  [178, 24, 43],
];
const UPWARDS = [
  [253, 231, 37],
  [94, 201, 98],
  [33, 145, 140],
  [59, 82, 139],
  [68, 1, 84],
];

/** A colour of a scale, by a share from 0 to 1. */
function colour(stops, share) {
  const at = Math.min(Math.max(share, 0), 1) * (stops.length - 1);
  const i = Math.min(Math.floor(at), stops.length - 2);
  const mixed = stops[i].map((value, k) => Math.round(value + (at - i) * (stops[i + 1][k] - value)));
  return `rgb(${mixed.join(",")})`;
}

/** How far above (red) or below (blue) the mean of the models each mixture lies, all over the simplex of three. */
export function triangle({ name, measured, triangles, models, say }) {
  const [width, height, side] = [560, 440, 400];
  const { mixtures, barriers, values, standard_errors: errors } = measured;
  const places = mixtures.map((weights) =>
    [0, 1].map((k) => weights.reduce((sum, weight, i) => sum + weight * CORNERS[i][k], 0)),
  );
  const on = ([x, y]) => [60 + x * side, 390 - y * side];
  const most = Math.max(...barriers.map(Math.abs)) || 1;
  const shade = (value) => colour(AROUND, 0.5 + (0.5 * value) / most);
  const root = svg("svg", {
    class: "chart",
    viewBox: `0 0 ${width} ${height}`,
    role: "img",
    "aria-label": name,
    tabindex: "0",
  });
  root.append(
    ...triangles.flatMap((three) =>
      shaded(
        three.map((i) => [on(places[i]), barriers[i]]),
        shade,
      ),
    ),
  );
  const dots = mixtures.map((weights, i) => {
    const [x, y] = on(places[i]);
    return svg("circle", {
      class: "spot",
      cx: x,
      cy: y,
      r: 5,
      style: `fill:${shade(barriers[i])}`,
      "data-mixture": weights.join(" "),
    });
  });
  root.append(...dots, ...corners(models, measured.ends, on), ...scale(most, shade, width));
  const text = (i) =>
    `${models.map((model, k) => `${figure(mixtures[i][k], 3)} ${model}`).join(" + ")}: ${measured.name} ${figure(values[i])}, barrier ${figure(barriers[i])} \u00b1 ${figure(errors[i], 2)}`;
  reads(root, dots, (i) => say(text(i)));
  return root;
}

/** A triangle as small ones of one colour each. */
function shaded(corners, shade) {
  const at = (i, j) => {
    const weights = [1 - (i + j) / PARTS, i / PARTS, j / PARTS];
    const mix = (pick) => corners.reduce((sum, corner, k) => sum + weights[k] * pick(corner), 0);
    return { x: mix(([[x]]) => x), y: mix(([[, y]]) => y), value: mix(([, value]) => value) };
  };
  const found = [];
  for (let i = 0; i < PARTS; i += 1)
    for (let j = 0; i + j < PARTS; j += 1) {
      found.push([at(i, j), at(i + 1, j), at(i, j + 1)]);
      if (i + j + 1 < PARTS) found.push([at(i + 1, j), at(i + 1, j + 1), at(i, j + 1)]);
    }
  return found.map((three) => {
    const fill = shade(three.reduce((sum, { value }) => sum + value / 3, 0));
    const points = three.map(({ x, y }) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" ");
    return svg("polygon", { points, style: `fill:${fill};stroke:${fill};stroke-width:0.6` });
  });
}

function corners(models, ends, on) {
  return models.flatMap((model, i) => {
    const [x, y] = on(CORNERS[i]);
    const shift = i === 2 ? [0, -24] : [0, 24];
    const text = (words, down) =>
      svg("text", { x: x + shift[0], y: y + shift[1] + down, "text-anchor": "middle" }, words);
    return [text(model, 0), text(figure(ends[i]), 13)];
  });
}

function scale(most, shade, width) {
  const parts = [...Array(41).keys()].map((i) =>
    svg("rect", {
      x: width - 40,
      y: 60 + i * 6,
      width: 14,
      height: 6.5,
      style: `fill:${shade(most * (1 - i / 20))}`,
    }),
  );
  const labels = [
    [most, 60],
    [0, 183],
    [-most, 306],
  ].map(([value, y]) =>
    svg("text", { class: "tick", x: width - 44, y: y + 4, "text-anchor": "end" }, figure(value, 3)),
  );
  return [
    ...parts,
    ...labels,
    svg("text", { class: "axis", x: width - 14, y: 46, "text-anchor": "end" }, "barrier"),
  ];
}

/** Lets the pointer and the arrow keys read points. */
function reads(root, dots, show) {
  let at = -1;
  const here = (next) => {
    at = next;
    dots.forEach((dot, i) => dot.classList.toggle("here", i === at));
    show(at);
  };
  dots.forEach((dot, i) => dot.addEventListener("pointerenter", () => here(i)));
  root.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    here((at + step + dots.length) % dots.length);
  });
}

/** The plane through three models, coloured by levels, with the path from one to the next. */
export function planeMap({ name, quantity, plane, say }) {
  const [columns, rows] = plane.axes;
  const [wide, high] = [columns.at(-1) - columns[0], rows.at(-1) - rows[0]];
  const unit = Math.min(430 / wide, 380 / high);
  const [left, top] = [44, 10];
  const [width, height] = [left + wide * unit + 90, top + high * unit + 40];
  const on = ([x, y]) => [left + (x - columns[0]) * unit, top + (rows.at(-1) - y) * unit];
  const levels = [...quantity.levels].sort((a, b) => a - b);
  const rank = (value) => levels.filter((level) => level <= value).length / Math.max(levels.length, 1);
  const shade = (value) =>
    value === null
      ? "var(--line)"
      : colour(UPWARDS, quantity.higher_is_better ? 1 - rank(value) : rank(value));
  const root = svg("svg", {
    class: "chart",
    viewBox: `0 0 ${width} ${height}`,
    role: "img",
    "aria-label": name,
    tabindex: "0",
  });
  root.append(...cells(quantity.grid, on, columns, rows, unit, shade), axes(columns, rows, on, height));
  const way = plane.corners
    .map((corner) =>
      on(corner)
        .map((v) => v.toFixed(1))
        .join(","),
    )
    .join(" ");
  root.append(svg("polyline", { class: "way", points: way }));
  plane.corners.forEach((corner, i) => {
    const [x, y] = on(corner);
    root.append(
      svg("circle", { class: "model", cx: x, cy: y, r: 5 }),
      svg("text", { class: "named", x, y: y - 9, "text-anchor": "middle" }, plane.models[i]),
    );
  });
  root.append(...levelScale(levels, shade, width, top));
  readsGrid(root, { columns, rows, on, quantity, say });
  return root;
}

/** Cells of one colour, finer than the grid, with values between those of the grid. */
function cells(grid, on, columns, rows, unit, shade) {
  const found = [];
  const fine = (count) => (count - 1) * FINER;
  const at = (values, share) => {
    const i = Math.min(Math.floor(share), values.length - 2);
    return values[i] + (share - i) * (values[i + 1] - values[i]);
  };
  const size = [(columns[1] - columns[0]) * (unit / FINER), (rows[1] - rows[0]) * (unit / FINER)];
  for (let row = 0; row < fine(rows.length); row += 1) {
    let run = null;
    for (let column = 0; column < fine(columns.length); column += 1) {
      const [c, r] = [(column + 0.5) / FINER, (row + 0.5) / FINER];
      const fill = shade(between(grid, c, r));
      const [x, y] = on([at(columns, c), at(rows, r)]);
      // Neighbours of one colour are one rectangle.
      if (run?.fill === fill) run.width += size[0];
      else found.push((run = { x: x - size[0] / 2, y: y - size[1] / 2, width: size[0], fill }));
    }
  }
  return found.map(({ x, y, width, fill }) =>
    svg("rect", {
      x: x.toFixed(2),
      y: y.toFixed(2),
      width: (width + 0.4).toFixed(2),
      height: (size[1] + 0.4).toFixed(2),
      style: `fill:${fill}`,
    }),
  );
}

function between(grid, column, row) {
  const [i, j] = [
    Math.min(Math.floor(column), grid[0].length - 2),
    Math.min(Math.floor(row), grid.length - 2),
  ];
  const [u, v] = [column - i, row - j];
  const four = [grid[j][i], grid[j][i + 1], grid[j + 1][i], grid[j + 1][i + 1]];
  if (four.some((value) => value === null)) return null;
  return (1 - v) * ((1 - u) * four[0] + u * four[1]) + v * ((1 - u) * four[2] + u * four[3]);
}

function axes(columns, rows, on, height) {
  const ends = [columns[0], columns.at(-1)];
  const [x0, y0] = on([ends[0], rows[0]]);
  const [x1] = on([ends[1], rows[0]]);
  const label = (x, y, value, anchor) =>
    svg("text", { class: "tick", x, y, "text-anchor": anchor }, figure(value, 3));
  return svg(
    "g",
    {},
    label(x0, y0 + 14, ends[0], "start"),
    label(x1, y0 + 14, ends[1], "end"),
    label(x0 - 5, y0, rows[0], "end"),
    label(x0 - 5, on([0, rows.at(-1)])[1] + 9, rows.at(-1), "end"),
    svg(
      "text",
      { class: "axis", x: (x0 + x1) / 2, y: height - 6, "text-anchor": "middle" },
      "distance of parameters",
    ),
  );
}

function levelScale(levels, shade, width, top) {
  const shown = [...levels].reverse();
  // So many that neighbours are told apart.
  const digits =
    [3, 4, 5, 6].find((n) => new Set(levels.map((level) => figure(level, n))).size === levels.length) ?? 7;
  const boxes = [
    shown[0] === undefined ? 1 : shown[0] + 1e-9 * Math.abs(shown[0]) + 1e-12,
    ...shown.map((level) => level - 1e-9 * Math.abs(level) - 1e-12),
  ];
  return [
    ...boxes.map((value, i) =>
      svg("rect", { x: width - 26, y: top + i * 26, width: 14, height: 26, style: `fill:${shade(value)}` }),
    ),
    ...shown.map((level, i) =>
      svg(
        "text",
        { class: "tick", x: width - 30, y: top + (i + 1) * 26 + 4, "text-anchor": "end" },
        figure(level, digits),
      ),
    ),
  ];
}

/** Lets the pointer and the arrow keys read the grid. */
function readsGrid(root, { columns, rows, on, quantity, say }) {
  const mark = svg("g", { class: "mark", visibility: "hidden" }, svg("circle", { r: 6 }));
  root.append(mark);
  let at = [Math.floor(columns.length / 2), Math.floor(rows.length / 2)];
  const show = (column, row) => {
    at = [column, row];
    const [x, y] = on([columns[column], rows[row]]);
    mark.firstChild.setAttribute("cx", x);
    mark.firstChild.setAttribute("cy", y);
    mark.setAttribute("visibility", "visible");
    say(
      `${quantity.name} ${figure(quantity.grid[row][column])} at (${figure(columns[column], 3)}, ${figure(rows[row], 3)})`,
    );
  };
  const nearest = (values, wanted) => {
    const far = values.map((value) => Math.abs(value - wanted));
    return far.indexOf(Math.min(...far));
  };
  root.addEventListener("pointermove", (event) => {
    const [px, py] = placed(root, event);
    const xs = columns.map((x) => on([x, 0])[0]);
    const ys = rows.map((y) => on([0, y])[1]);
    show(nearest(xs, px), nearest(ys, py));
  });
  root.addEventListener("keydown", (event) => {
    const [dx, dy] = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[
      event.key
    ] ?? [0, 0];
    if (!dx && !dy) return;
    event.preventDefault();
    show((at[0] + dx + columns.length) % columns.length, (at[1] + dy + rows.length) % rows.length);
  });
}
