// Charts as SVG: what stands in a file is what stands on the page.

import { el } from "assets/dom.js";

const SVG = "http://www.w3.org/2000/svg";
const INSETS = { left: 54, right: 14, top: 10, bottom: 40 };
/** How many colours and dashes tell curves apart (see report.css). */
export const HUES = 7;
export const DASHES = ["", "6 3", "7 3 2 3", "2 3"];
const MARKERS = 5;

/** An SVG element with attributes and children; `on...` are listeners. */
export function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(
    ...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== ""),
  );
  return made;
}

/** A number with so many digits that count, as readers write it. */
export function figure(value, digits = 4) {
  if (value === null || value === undefined) return "\u2013";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e5 || size < 1e-4) return value.toExponential(2).replace("-", "\u2212");
  return Number(value.toPrecision(digits)).toString().replace("-", "\u2212");
}

/** A value beside its standard error, to the digits that this leaves. */
export function within(value, error) {
  if (!error || !Number.isFinite(value)) return figure(value);
  const places = Math.min(Math.max(1 - Math.floor(Math.log10(error)), 0), 12);
  const least = Math.max(Math.abs(value), error);
  if (least >= 1e5 || least < 1e-4) return `${figure(value, 3)} \u00b1 ${figure(error, 2)}`;
  return `${value.toFixed(places).replace("-", "\u2212")} \u00b1 ${error.toFixed(places)}`;
}

/** Round numbers between two, about so many. */
export function ticks(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((k) => k * power).find((size) => size >= rough * 0.999);
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9) * step; at <= high + step * 1e-9; at += step)
    found.push(Math.abs(at) < step * 1e-9 ? 0 : Number(at.toPrecision(12)));
  return found;
}

/** The room that values need, with some air; `log` for a logarithmic scale. */
function span(values, log) {
  const known = values.filter((v) => Number.isFinite(v) && (!log || v > 0));
  if (!known.length) return log ? [0.1, 1] : [0, 1];
  const [low, high] = [Math.min(...known), Math.max(...known)];
  if (log) return [low / 1.2, high * 1.2 || 1];
  const air = (high - low || Math.abs(high) || 1) * 0.07;
  return [low - air, high + air];
}

/**
 * A line chart.
 *
 * curves: {label, hue, points: [{x, y, error?}], faint?}. `error` is half of a band.
 * x, y: {title, from?, to?, ticks?: [[at, text]], log?}.
 * say(text): called with what the pointer or the keyboard has come to.
 */
export function lineChart({ name, curves, x, y, width = 560, height = 320, say = () => {} }) {
  const every = curves.flatMap((curve) => curve.points);
  const ys = every.flatMap(({ y: v, error = 0 }) => (y.log ? [v] : [v - error, v + error]));
  const [low, high] = span([...ys, ...(y.include ?? [])], y.log);
  const xs = every.map((point) => point.x);
  const [left, right] = [x.from ?? Math.min(...xs), x.to ?? Math.max(...xs)];
  const inner = { w: width - INSETS.left - INSETS.right, h: height - INSETS.top - INSETS.bottom };
  const onX = (v) => INSETS.left + ((v - left) / (right - left || 1)) * inner.w;
  const share = (v) => (y.log ? Math.log(v / low) / Math.log(high / low) : (v - low) / (high - low));
  const onY = (v) => INSETS.top + (1 - share(y.log ? Math.max(v, low) : v)) * inner.h;
  const root = frame(name, width, height);
  root.append(axisY(y, low, high, onY, width), axisX(x, left, right, onX, height));
  for (const curve of curves) root.append(drawnCurve(curve, onX, onY));
  const mark = svg("g", { class: "mark", visibility: "hidden" });
  root.append(mark);
  readable(root, curves, { onX, onY, mark, say, x, y });
  return root;
}

function frame(name, width, height) {
  return svg("svg", {
    class: "chart",
    viewBox: `0 0 ${width} ${height}`,
    role: "img",
    "aria-label": name,
    tabindex: "0",
  });
}

function axisY(y, low, high, onY, width) {
  const at = y.log ? decades(low, high) : (y.ticks ?? ticks(low, high, 5));
  const lines = at.map((v) => [
    svg("line", { class: "grid", x1: INSETS.left, x2: width - INSETS.right, y1: onY(v), y2: onY(v) }),
    svg("text", { class: "tick", x: INSETS.left - 6, y: onY(v) + 3.5, "text-anchor": "end" }, figure(v)),
  ]);
  const middle = (onY(low) + onY(high)) / 2;
  const title = svg(
    "text",
    { class: "axis", transform: `translate(13 ${middle}) rotate(-90)`, "text-anchor": "middle" },
    y.title,
  );
  return svg("g", {}, lines, title);
}

function axisX(x, left, right, onX, height) {
  const bottom = height - INSETS.bottom;
  const at = x.ticks ?? ticks(left, right, 6).map((v) => [v, figure(v)]);
  const labels = at.map(([v, text], i) => [
    svg("line", { class: "rule", x1: onX(v), x2: onX(v), y1: bottom, y2: bottom + 4 }),
    svg(
      "text",
      { class: "tick", x: onX(v), y: bottom + 15, "text-anchor": anchor(x.ticks, i, at.length) },
      text,
    ),
  ]);
  const line = svg("line", { class: "rule", x1: onX(left), x2: onX(right), y1: bottom, y2: bottom });
  const middle = (onX(left) + onX(right)) / 2;
  return svg(
    "g",
    {},
    line,
    labels,
    svg("text", { class: "axis", x: middle, y: height - 6, "text-anchor": "middle" }, x.title),
  );
}

/** Names at the ends of an axis stay inside of the chart. */
function anchor(named, at, count) {
  if (!named || count < 2) return "middle";
  return at === 0 ? "start" : at === count - 1 ? "end" : "middle";
}

function decades(low, high) {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1)
    for (const k of [1, 2, 5])
      if (k * 10 ** power >= low && k * 10 ** power <= high) found.push(k * 10 ** power);
  return found.length > 6 ? found.filter((v) => Math.abs(Math.log10(v) % 1) < 1e-9) : found;
}

function drawnCurve({ label, hue, points, faint, chord }, onX, onY) {
  const path = (list) =>
    list.map(({ x, y }, i) => `${i ? "L" : "M"}${onX(x).toFixed(2)} ${onY(y).toFixed(2)}`).join("");
  const parts = [];
  if (points.some((point) => point.error)) {
    const [above, below] = [1, -1].map((side) =>
      points.map(({ x, y, error = 0 }) => ({ x, y: y + side * error })),
    );
    parts.push(
      svg("path", { class: "band", d: `${path(above)}${path(below.reverse()).replace("M", "L")}Z` }),
    );
  }
  if (chord) parts.push(svg("path", { class: "chord", d: path([points[0], points.at(-1)]) }));
  parts.push(
    svg("path", { class: "curve", d: path(points), "stroke-dasharray": DASHES[hue % DASHES.length] || null }),
  );
  if (!faint) parts.push(points.map(({ x, y }) => marker(hue, onX(x), onY(y))));
  return svg("g", { class: `series hue-${hue % HUES}`, "data-label": label }, parts);
}

/** A point of a curve: shapes differ as well as colours. */
export function marker(hue, x, y, size = 3) {
  const shape = hue % MARKERS;
  if (shape === 0) return svg("circle", { class: "point", cx: x, cy: y, r: size });
  if (shape === 1)
    return svg("rect", { class: "point", x: x - size, y: y - size, width: 2 * size, height: 2 * size });
  const turns = { 2: [3, -90], 3: [4, 0], 4: [3, 90] }[shape];
  const [corners, first] = turns;
  const at = [...Array(corners).keys()].map((k) => {
    const angle = ((first + (360 / corners) * k) * Math.PI) / 180;
    return `${x + 1.35 * size * Math.cos(angle)},${y + 1.35 * size * Math.sin(angle)}`;
  });
  return svg("polygon", { class: "point", points: at.join(" ") });
}

/** Where the pointer is in a drawing, whose middle is that of its element. */
export function placed(root, event) {
  const box = root.getBoundingClientRect();
  const { width, height } = root.viewBox.baseVal;
  const factor = Math.min(box.width / width, box.height / height);
  const from = [box.left + (box.width - width * factor) / 2, box.top + (box.height - height * factor) / 2];
  return [(event.clientX - from[0]) / factor, (event.clientY - from[1]) / factor];
}

/** Lets the pointer and the arrow keys read the points of curves. */
function readable(root, curves, { onX, onY, mark, say, x, y }) {
  const all = curves.flatMap((curve) => curve.points.map((point) => ({ curve, point })));
  if (!all.length) return;
  let at = -1;
  const show = (next) => {
    at = next;
    const { curve, point } = all[at];
    mark.replaceChildren(svg("circle", { cx: onX(point.x), cy: onY(point.y), r: 6 }));
    mark.setAttribute("visibility", "visible");
    const where = point.name ?? `${x.title.split(" (")[0]} ${figure(point.x)}`;
    say(`${curve.label}: ${y.title} ${within(point.y, point.error)} at ${where}`);
  };
  root.addEventListener("pointermove", (event) => {
    const [px, py] = placed(root, event);
    const far = all.map(({ point }) => Math.hypot(onX(point.x) - px, onY(point.y) - py));
    const nearest = far.indexOf(Math.min(...far));
    if (far[nearest] < 40) show(nearest);
  });
  root.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const jump = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step && !jump) return;
    event.preventDefault();
    if (step) show((at + step + all.length) % all.length);
    else show(otherCurve(all, at, jump));
  });
}

/** The point of the next curve that is nearest across. */
function otherCurve(all, at, jump) {
  const curves = [...new Set(all.map((one) => one.curve))];
  const here = all[Math.max(at, 0)];
  const wanted = curves[(curves.indexOf(here.curve) + jump + curves.length) % curves.length];
  const far = all.map(({ curve, point }) => (curve === wanted ? Math.abs(point.x - here.point.x) : Infinity));
  return far.indexOf(Math.min(...far));
}

/**
 * Bars of counts between edges.
 *
 * bars: {from, to, count, name?}; x: {title, ticks?}.
 */
export function histogram({ name, bars, x, y, width = 560, height = 220, hue = 0, say = () => {} }) {
  const [left, right] = [bars[0].from, bars.at(-1).to];
  const most = Math.max(1, ...bars.map((bar) => bar.count));
  const inner = { w: width - INSETS.left - INSETS.right, h: height - INSETS.top - INSETS.bottom };
  const onX = (v) => INSETS.left + ((v - left) / (right - left)) * inner.w;
  const onY = (v) => INSETS.top + (1 - v / most) * inner.h;
  const root = frame(name, width, height);
  const whole = ticks(0, most, 4).filter((v) => Number.isInteger(v) || y.share);
  root.append(axisY({ ...y, ticks: whole }, 0, most, onY, width), axisX(x, left, right, onX, height));
  const drawn = bars.map((bar) =>
    svg("rect", {
      class: `bar hue-${hue % HUES}`,
      x: onX(bar.from) + 0.5,
      y: onY(bar.count),
      width: Math.max(onX(bar.to) - onX(bar.from) - 1, 0.5),
      height: onY(0) - onY(bar.count),
    }),
  );
  root.append(...drawn);
  let at = -1;
  const show = (next) => {
    at = next;
    drawn.forEach((bar, i) => bar.classList.toggle("here", i === at));
    const { from, to, count } = bars[at];
    say(`${figure(from)} to ${figure(to)}: ${figure(count)} ${y.title}`);
  };
  // Bars of nothing have no height that could be met.
  root.addEventListener("pointermove", (event) => {
    const [px] = placed(root, event);
    const here = bars.findIndex(({ from, to }) => onX(from) <= px && px < onX(to));
    if (here >= 0) show(here);
  });
  root.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    show((at + step + bars.length) % bars.length);
  });
  return root;
}

/**
 * Bars beside each other's names, from the first row down, with their errors.
 *
 * rows: {label, value, error?, hue?}; rule: {value, label} is a line across all of them.
 */
export function rankedBars({ name, rows, title, rule, width = 560, say = () => {} }) {
  const [line, top] = [22, rule ? 24 : 8];
  const left = Math.min(Math.max(...rows.map(({ label }) => label.length)) * 6.3 + 14, width * 0.5);
  const height = top + rows.length * line + 40;
  const [low, high] = span([
    0,
    rule?.value ?? 0,
    ...rows.flatMap(({ value, error = 0 }) => [value - error, value + error]),
  ]);
  const onX = (v) => left + ((v - low) / (high - low)) * (width - left - 16);
  const root = frame(name, width, height);
  const bottom = height - 34;
  for (const at of ticks(low, high, 5))
    if (onX(at) >= left && onX(at) <= width - 8)
      root.append(
        svg("line", { class: "grid", x1: onX(at), x2: onX(at), y1: top - 4, y2: bottom }),
        svg("text", { class: "tick", x: onX(at), y: bottom + 13, "text-anchor": "middle" }, figure(at)),
      );
  const drawn = rows.map(({ label, value, error, hue = 0 }, i) => {
    const y = top + i * line;
    const [from, to] = [Math.min(onX(0), onX(value)), Math.max(onX(0), onX(value))];
    const bar = svg("rect", {
      class: `bar hue-${hue % HUES}`,
      x: from,
      y: y + 3,
      width: Math.max(to - from, 1),
      height: line - 7,
      "data-label": label,
    });
    const spread = error
      ? svg("line", {
          class: "error",
          x1: onX(value - error),
          x2: onX(value + error),
          y1: y + line / 2,
          y2: y + line / 2,
        })
      : "";
    root.append(
      svg(
        "text",
        { class: "tick", x: left - 6, y: y + line / 2 + 4, "text-anchor": "end" },
        shortened(label, left),
      ),
      bar,
      spread,
    );
    return bar;
  });
  if (rule)
    root.append(
      svg("line", { class: "ruled", x1: onX(rule.value), x2: onX(rule.value), y1: top - 6, y2: bottom }),
      svg(
        "text",
        {
          class: "tick",
          x: onX(rule.value),
          y: top - 10,
          "text-anchor": onX(rule.value) > width - 90 ? "end" : "middle",
        },
        rule.label,
      ),
    );
  root.append(
    svg("text", { class: "axis", x: (left + width) / 2, y: height - 4, "text-anchor": "middle" }, title),
  );
  let at = -1;
  const show = (next) => {
    at = next;
    drawn.forEach((bar, i) => bar.classList.toggle("here", i === at));
    say(`${rows[at].label}: ${title} ${within(rows[at].value, rows[at].error)}`);
  };
  root.addEventListener("pointermove", (event) => {
    const here = Math.floor((placed(root, event)[1] - top) / line);
    if (here >= 0 && here < rows.length) show(here);
  });
  root.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    show((at + step + rows.length) % rows.length);
  });
  return root;
}

/** The end of a name tells more than its beginning. */
function shortened(label, room) {
  const most = Math.floor((room - 10) / 6.3);
  return label.length > most ? `\u2026${label.slice(1 - most)}` : label;
}

/** The names of curves with their marks, which show and hide them. */
export function legend(curves, hidden, change) {
  const buttons = curves.map(({ label, hue, note }) => {
    const sample = svg(
      "svg",
      { class: `sample hue-${hue % HUES}`, viewBox: "0 0 34 12", "aria-hidden": "true" },
      svg("line", {
        class: "curve",
        x1: 1,
        x2: 33,
        y1: 6,
        y2: 6,
        "stroke-dasharray": DASHES[hue % DASHES.length] || null,
      }),
      marker(hue, 17, 6),
    );
    const toggle = () => {
      if (!hidden.delete(label)) hidden.add(label);
      change();
    };
    return el(
      "button",
      { type: "button", "aria-pressed": String(!hidden.has(label)), onclick: toggle },
      sample,
      label,
      note ? el("small", {}, ` ${note}`) : "",
    );
  });
  return el("div", { class: "curves", role: "group", "aria-label": "curves, shown or hidden" }, buttons);
}
