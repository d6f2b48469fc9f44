// A table that sorts, filters and searches, and that the keyboard reaches.

import { el, counted } from "assets/dom.js";

/**
 * A table of rows.
 *
 * columns: {title, value(row), cell?(row), number?, short?}: what is sorted and searched, and what is shown.
 * filter: {title, value(row)}: one choice among what the rows have, or none.
 * choose(row): called for a click, or Enter on a row; without it rows are only read.
 */
export class Table {
  constructor({ name, columns, rows, filter, choose, key }) {
    Object.assign(this, { name, columns, rows, filter, choose, key });
    this.sorted = { column: -1, down: false };
    this.words = "";
    this.kept = "";
    this.chosen = null;
    this.body = el("tbody", { onkeydown: (event) => this.#keys(event) });
    this.count = el("span", { class: "count", role: "status" });
    this.head = el(
      "tr",
      {},
      columns.map((column, at) => this.#heading(column, at)),
    );
    const table = el("table", { "aria-label": name }, el("thead", {}, this.head), this.body);
    this.element = el(
      "section",
      { class: choose ? "table chooses" : "table" },
      this.#tools(),
      el("div", { class: "rows" }, table),
    );
    this.draw();
  }

  /** Marks the row of something that is shown elsewhere, and brings it into sight. */
  mark(key) {
    this.chosen = key;
    for (const row of this.body.rows) {
      const here = row.dataset.key === key;
      row.setAttribute("aria-selected", here);
      if (here) row.scrollIntoView({ block: "nearest" });
    }
    this.#reach();
  }

  draw() {
    const shown = this.rows.filter((row) => this.#matches(row));
    const { column, down } = this.sorted;
    if (column >= 0) shown.sort((a, b) => this.#order(this.columns[column], a, b) * (down ? -1 : 1));
    this.body.replaceChildren(...shown.map((row) => this.#row(row)));
    this.#reach();
    this.count.textContent = `${counted(shown.length)} of ${counted(this.rows.length)}`;
  }

  /** One row is reached by the Tab key: the one that is chosen, or the first. */
  #reach() {
    const rows = [...this.body.rows];
    const reached = rows.find((row) => row.dataset.key === this.chosen) ?? rows[0];
    for (const row of rows) row.tabIndex = row === reached ? 0 : -1;
  }

  #tools() {
    const search = el("input", {
      type: "search",
      placeholder: "search",
      "aria-label": `search ${this.name}`,
      oninput: (event) => {
        this.words = event.target.value.toLowerCase();
        this.draw();
      },
    });
    return el("div", { class: "tools" }, search, this.filter ? this.#choices() : "", this.count);
  }

  #choices() {
    const values = [...new Set(this.rows.map(this.filter.value))].sort();
    const change = (event) => {
      this.kept = event.target.value;
      this.draw();
    };
    const every = el("option", { value: "" }, `every ${this.filter.title}`);
    return el(
      "select",
      { "aria-label": `filter by ${this.filter.title}`, onchange: change },
      every,
      values.map((value) => el("option", { value }, value)),
    );
  }

  #heading(column, at) {
    const button = el("button", { type: "button", onclick: () => this.#sort(at) }, column.title);
    return el("th", { scope: "col", class: column.number ? "number" : null }, button);
  }

  #sort(at) {
    const again = this.sorted.column === at;
    // Numbers are wanted from the largest.
    this.sorted = { column: at, down: again ? !this.sorted.down : Boolean(this.columns[at].number) };
    [...this.head.cells].forEach((cell, place) => {
      if (place === at) cell.setAttribute("aria-sort", this.sorted.down ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
    });
    this.draw();
  }

  #order(column, a, b) {
    const [left, right] = [column.value(a), column.value(b)];
    return column.number ? left - right : String(left).localeCompare(String(right), "en", { numeric: true });
  }

  #matches(row) {
    if (this.kept && this.filter.value(row) !== this.kept) return false;
    const text = this.columns
      .map((column) => column.value(row))
      .join(" ")
      .toLowerCase();
    return this.words.split(" ").every((word) => text.includes(word));
  }

  #row(row) {
    const key = this.key(row);
    const cells = this.columns.map((column) =>
      el(
        "td",
        { class: column.number ? "number" : column.short ? "short" : null },
        column.cell?.(row) ?? String(column.value(row)),
      ),
    );
    const made = el(
      "tr",
      { "data-key": key, "aria-selected": String(this.chosen === key), onclick: () => this.choose?.(row) },
      cells,
    );
    // Words in cells are reached elsewhere; here they would stand between one row and the next.
    for (const button of made.querySelectorAll("button")) button.tabIndex = -1;
    return made;
  }

  #keys(event) {
    const row = event.target.closest("tr");
    if (event.target !== row) return;
    const step = { ArrowDown: row.nextElementSibling, ArrowUp: row.previousElementSibling }[event.key];
    const ends = { Home: this.body.firstElementChild, End: this.body.lastElementChild }[event.key];
    const next = step ?? ends;
    if (next) {
      row.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
      event.preventDefault();
    } else if (event.key === "Enter" || event.key === " ") {
      row.click();
      event.preventDefault();
    }
  }
}
