// What is said of one space, parameter, family or link.

import { counted, dottedName, el, several } from "assets/dom.js";
import { formula } from "assets/formula.js";
import { term } from "assets/glossary.js";
import { filled } from "assets/repeated.js";
import { slug } from "assets/symmetry-classes.js";

const PLACE = /^(.*) \(([^(),]+), ([^()]+)\)$/;

/** A class as a chip of its colour, with its meaning behind it. */
export function chip(name, shown = name) {
  return el(
    "span",
    { class: "chip", style: `--chip: var(--class-${slug(name)}, var(--class-other))` },
    term(name, shown),
  );
}

/** A space; `go(kind, name)` leads to something else. */
export function spaceDetails(one, rows, go) {
  const said = filled(one.record, rows);
  return [
    title(one, rows, "space", go),
    el("p", { class: "lead" }, chip(said.class, said.group), ` ${said.meaning}`),
    facts([
      [term("size"), counted(said.size)],
      [
        term("fibred over"),
        said.fibre.length
          ? listed(
              said.fibre.map((outer) => [
                link(outer.name, "space", go),
                ` (${outer.size}): another map for each position there`,
              ]),
            )
          : "",
      ],
      [
        term("dimension"),
        said.kind === "rigid"
          ? ""
          : [
              counted(said.dimension),
              said.formula ? ` = ${said.formula}` : "",
              one.rows.length > 1 && rows.length > 1 ? " in each" : "",
            ],
      ],
      [term("scales", "free positive scales"), said.scales],
      [term("signs", "free signs"), said.signs],
      [
        term("splits/merges"),
        said.splits ? "positions may also be split and merged, which changes the size" : "",
      ],
    ]),
    section(said.kind === "rigid" ? "What made it rigid" : "Why this class", evidence(said)),
    section(
      "What would make it larger",
      el(
        "ul",
        {},
        said.larger.map((text) => el("li", {}, text)),
      ),
    ),
    section(`Axes on it (${said.tensors})`, touched(said, go)),
    ...said.absorbed.map((gains) =>
      section(
        `Gains absorbed into the weights that ${gains.readers ? "read from it" : "write into it"}`,
        el(
          "ul",
          {},
          gains.gains.map((name) => el("li", {}, link(name, "parameter", go))),
        ),
      ),
    ),
  ];
}

/** A parameter or buffer. */
export function parameterDetails(one, rows, go) {
  const said = filled(one.record, rows);
  return [
    title(one, rows, said.kind, go),
    el(
      "p",
      { class: "lead law" },
      formula(said.formula),
      el("small", {}, " ", term("law", "how to read this")),
    ),
    said.letters.length || said.remarks.length ? letters(said, go) : el("p", {}, "No axis of it is moved."),
    section("Axes", axes(said, go)),
    said.families.length
      ? section(
          "Families on it",
          el(
            "ul",
            {},
            said.families.map((member) =>
              el("li", {}, term(member.family), `: ${member.sentence} `, link(member.member, "family", go)),
            ),
          ),
        )
      : "",
    said.tied.length ? section("Also known as", el("p", {}, said.tied.join(", "))) : "",
  ];
}

/** A member of a family without a space. */
export function familyDetails(one, rows, go) {
  const said = filled(one.record, rows);
  return [
    title(one, rows, "family", go),
    el("p", { class: "lead" }, term(said.family), `: ${said.sentence}`),
    facts([[term("dimension"), [counted(said.dimension), said.formula ? ` = ${said.formula}` : ""]]]),
    section(
      "Tensors in it",
      el(
        "ul",
        {},
        said.tensors.map((name) => el("li", {}, link(name, "parameter", go))),
      ),
    ),
  ];
}

/** Several parameters between the same spaces. */
export function linkDetails(members, go) {
  const rows = members.map(([one, held]) =>
    el("li", {}, link(filled(one.record.name, held.rows), "parameter", go), " ", formula(one.record.formula)),
  );
  return [el("h2", {}, several(members.length, "parameter")), el("ul", { class: "parameters" }, rows)];
}

function title(one, rows, kind, go) {
  const every = one.rows.length;
  const name = filled(one.record.name, rows);
  const option = (row) =>
    el(
      "option",
      { value: filled(one.record.name, [row]), selected: rows.length === 1 && rows[0] === row },
      filled(one.record.name, [row]),
    );
  const select = el(
    "select",
    {
      "aria-label": "which of them",
      onchange: (event) => go(kind === "space" || kind === "family" ? kind : "parameter", event.target.value),
    },
    el("option", { value: one.name, selected: rows.length > 1 }, `all ${every} alike`),
    one.rows.map(option),
  );
  return el(
    "div",
    { class: "title" },
    el("small", {}, kind),
    el("h2", {}, dottedName(name)),
    every > 1 ? select : "",
  );
}

function facts(list) {
  const kept = list.filter(([, value]) => value !== "" && value !== null);
  return kept.length
    ? el(
        "dl",
        { class: "facts" },
        kept.map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]),
      )
    : "";
}

function section(name, ...body) {
  return el("section", {}, el("h3", {}, name), body);
}

function listed(items) {
  return items.flatMap((item, at) => (at ? [", ", item] : [item]));
}

function link(name, kind, go) {
  return el("button", { type: "button", class: "link", onclick: () => go(kind, name) }, dottedName(name));
}

function evidence(said) {
  if (!said.evidence.length)
    return el("p", {}, "No rule lowers its class: every operator that touches it is linear along it.");
  const steps = said.evidence.map((step) => {
    const [, module, operator, source] = PLACE.exec(step.where) ?? [null, step.where, "", ""];
    return el(
      "li",
      {},
      el(
        "div",
        {},
        term("rule"),
        " ",
        el("b", {}, step.rule),
        " admits ",
        chips(step.admits),
        step.partly ? " on the axes it touches" : "",
      ),
      el(
        "div",
        { class: "place" },
        operator ? [term("operator"), ` ${operator} in `] : "",
        el("code", {}, module),
        source ? [" at ", el("code", {}, source)] : "",
      ),
      el("div", { class: "because" }, step.because),
    );
  });
  const further = said.further ? el("p", {}, `and ${said.further} more of the same`) : "";
  return [el("ol", { class: "evidence" }, steps), further];
}

function chips(admits) {
  return admits.split(" + ").flatMap((name, at) => (at ? [" + ", chip(name)] : [chip(name)]));
}

function letters(said, go) {
  const over = (names) =>
    names.length
      ? [", another for each position of ", listed(names.map((name) => link(name, "space", go)))]
      : "";
  const items = said.letters.map(({ letter, group, space, over: names }) =>
    el("li", {}, formula(letter), ": ", chip(group), " on ", link(space, "space", go), over(names)),
  );
  return el(
    "ul",
    { class: "letters" },
    items,
    said.remarks.map((text) => el("li", {}, text)),
  );
}

function touched(said, go) {
  const rows = said.touched.map((one) =>
    el(
      "tr",
      {},
      el("td", {}, link(one.parameters, "parameter", go)),
      el("td", { class: "short" }, one.shape.join("\u00d7")),
      el("td", {}, `axis ${one.axis}${one.place ? `, ${one.place}` : ""}`),
      el("td", {}, variance(one.variance)),
    ),
  );
  return el("table", { class: "plain" }, el("tbody", {}, rows));
}

function variance(text) {
  const [word, ...rest] = text.split(",");
  return [term(word), rest.length ? `,${rest.join(",")}` : ""];
}

function axes(said, go) {
  const rows = said.axes.map((axis, at) =>
    el(
      "tr",
      {},
      el("td", { class: "short" }, `axis ${at}`),
      el("td", { class: "number" }, counted(axis.size)),
      el("td", {}, axis.spaces.length ? dottedName(axis.term) : "stays"),
      el(
        "td",
        {},
        axis.spaces.map((name, place) =>
          el("div", {}, link(name, "space", go), " ", chip(axis.classes[place])),
        ),
      ),
    ),
  );
  return el("table", { class: "plain" }, el("tbody", {}, rows));
}
