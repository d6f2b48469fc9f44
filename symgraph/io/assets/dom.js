// Making elements.

/** An element with attributes (`on...` are listeners, `null` and `false` are left out) and children. */
export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(
    ...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== ""),
  );
  return made;
}

/** A whole number with its thousands apart. */
export function counted(number) {
  return number.toLocaleString("en-US");
}

/** `1 space`, `2 spaces`. */
export function several(number, word) {
  return `${counted(number)} ${word}${number === 1 ? "" : "s"}`;
}

/** A dotted name that may be broken behind its dots. */
export function dottedName(name) {
  return name.split(/(?<=\.)(?![^{]*\})/).flatMap((part) => [part, el("wbr")]);
}
