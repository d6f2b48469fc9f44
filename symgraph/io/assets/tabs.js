// Pages behind tabs, which the keyboard reaches.

import { el } from "assets/dom.js";

/** Pages behind tabs, `{key: [title, element]}`; `chosen(key)` is told which one is seen. */
export class Tabs {
  constructor(name, pages, seen = () => {}) {
    Object.assign(this, { pages, seen });
    const buttons = Object.entries(pages).map(([key, [title, element]]) => {
      element.id = `page-${key}`;
      element.setAttribute("role", "tabpanel");
      return el(
        "button",
        {
          type: "button",
          role: "tab",
          "data-tab": key,
          "aria-controls": element.id,
          onclick: () => this.show(key),
        },
        title,
      );
    });
    this.buttons = el(
      "div",
      { class: "tabs", role: "tablist", "aria-label": name, onkeydown: (event) => this.#keys(event) },
      buttons,
    );
    this.element = el(
      "div",
      { class: "tabbed" },
      this.buttons,
      Object.values(pages).map(([, element]) => element),
    );
    this.show(Object.keys(pages)[0]);
  }

  show(wanted) {
    for (const [key, [, element]] of Object.entries(this.pages)) element.hidden = key !== wanted;
    for (const button of this.buttons.children) {
      const here = button.dataset.tab === wanted;
      button.setAttribute("aria-selected", here);
      button.tabIndex = here ? 0 : -1;
    }
    this.seen(wanted);
  }

  #keys(event) {
    const step = { ArrowRight: "nextElementSibling", ArrowLeft: "previousElementSibling" }[event.key];
    const next = step && event.target[step];
    if (!next) return;
    this.show(next.dataset.tab);
    next.focus();
    event.preventDefault();
  }
}
