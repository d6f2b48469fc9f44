// Records that stand for several, as symgraph/symmetry/repeated.py makes them: marks stand for the numbers of layers.

let first = 0xe000;

/** Sets the first of the marks. */
export function setMarks(code) {
  first = code;
}

/** A text or record with the numbers of some rows in the place of its marks: `layers.3`, or `layers.{0..79}`. */
export function filled(value, rows) {
  if (typeof value === "string") return fillText(value, rows);
  if (Array.isArray(value)) return value.map((item) => filled(item, rows));
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, filled(item, rows)]));
}

/** Which mark, counted from zero, stands in a text first; -1 where there is none. */
export function markIn(text) {
  for (const letter of text) {
    const place = letter.codePointAt(0) - first;
    if (place >= 0 && place < 64) return place;
  }
  return -1;
}

/** Numbers as a terminal writes them: `{0..79}`, `{0..3,7}`, or one alone. */
export function braces(numbers) {
  const values = [...new Set(numbers)].sort((a, b) => a - b);
  if (values.length === 1) return String(values[0]);
  const runs = [];
  for (const value of values) {
    const last = runs.at(-1);
    if (last && value === last[1] + 1) last[1] = value;
    else runs.push([value, value]);
  }
  return `{${runs.map(([from, to]) => (from === to ? from : `${from}..${to}`)).join(",")}}`;
}

function fillText(text, rows) {
  if (markIn(text) < 0) return text;
  return [...text]
    .map((letter) => {
      const place = letter.codePointAt(0) - first;
      return place >= 0 && place < 64 ? braces(rows.map((row) => row[place])) : letter;
    })
    .join("");
}
