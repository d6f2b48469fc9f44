// What is said of one space of an alignment: how sure its assignment is, by which angles it was turned.

import { figure, histogram } from "assets/chart.js";
import { counted, el, several } from "assets/dom.js";
import { term } from "assets/glossary.js";
import { Picture, facts } from "assets/report.js";

export function spaceDetails(space) {
  const parts = [
    el("h3", { class: "name" }, space.name),
    facts([
      ["class", term(space.group)],
      ["size", counted(space.size)],
      ["distance", `${figure(space.before)} \u2192 ${figure(space.after)}, of all that stands on it`],
    ]),
  ];
  if (space.assigned) parts.push(...assigned(space.assigned));
  if (space.turned) parts.push(...turned(space.turned));
  if (!space.assigned && !space.turned)
    parts.push(el("p", {}, "It was left as it was, or is too large to compare every pair of its units."));
  return parts;
}

function assigned({ units, moved, flipped, median, least, bars }) {
  const signs = flipped ? `, ${several(flipped, "sign")} turned` : "";
  const said = el(
    "p",
    {},
    `${counted(moved)} of ${several(units, "unit")} changed place${signs}; the `,
    term("confidence", "gap to the second best"),
    ` is ${figure(median, 3)} in the median and ${figure(least, 3)} at least.`,
  );
  const picture = new Picture("Gap to the second best", (say) =>
    histogram({
      name: "gap to the second best",
      bars: named(bars),
      x: { title: "gap to the second best" },
      y: { title: "units" },
      say,
    }),
  );
  return [said, picture.element];
}

function turned({ matrices, median, largest, bars, nearest }) {
  const of = matrices > 1 ? `${counted(matrices)} rotations` : "The rotation";
  const said = el(
    "p",
    {},
    `${of} by `,
    term("principal angle", "principal angles"),
    ` of ${median.toFixed(1)}\u00b0 in the median and ${largest.toFixed(1)}\u00b0 at most`,
    nearest ? ": those of the rotation that is nearest, since the map stretches as well." : ".",
  );
  const ticks = [0, 45, 90, 135, 180].map((at) => [at, `${at}\u00b0`]);
  const picture = new Picture("Principal angles", (say) =>
    histogram({
      name: "principal angles",
      bars: named(bars),
      x: { title: "principal angle", ticks },
      y: { title: "directions" },
      hue: 3,
      say,
    }),
  );
  return [said, picture.element];
}

function named(bars) {
  return bars.map(({ low, high, count }) => ({ from: low, to: high, count }));
}
