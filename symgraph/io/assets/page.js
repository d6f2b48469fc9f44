// What every page has: its data, its theme, and what its address points at.

const THEMES = ["system", "light", "dark"];

/** Shows the data of the page by a view. */
export function start(show) {
  themes(document.getElementById("theme"));
  const place = document.getElementById("view");
  place.replaceChildren();
  show(JSON.parse(document.getElementById("data").textContent), place);
}

/** What stands behind `#` in the address: `#space=residual` is ["space", "residual"], or null. */
export function pointed() {
  const [, kind, name] = /^#(\w+)=(.+)$/.exec(location.hash) ?? [];
  return kind ? [kind, decodeURIComponent(name)] : null;
}

/** Lets the address point at something, so that it can be sent to others. */
export function point(kind, name) {
  history.replaceState(null, "", `#${kind}=${encodeURIComponent(name)}`);
}

/** Calls back whenever the theme changes. */
export function onTheme(act) {
  document.addEventListener("theme", act);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", act);
}

function themes(button) {
  const set = (theme) => {
    document.documentElement.dataset.theme = theme;
    button.textContent = `Theme: ${theme}`;
    remember(theme);
    document.dispatchEvent(new Event("theme"));
  };
  button.addEventListener("click", () => {
    const at = THEMES.indexOf(document.documentElement.dataset.theme);
    set(THEMES[(at + 1) % THEMES.length]);
  });
  set(remembered() ?? "system");
}

// Pages that are opened from disk may have no storage.
function remember(theme) {
  try {
    localStorage.setItem("symgraph-theme", theme);
  } catch {}
}

function remembered() {
  try {
    return localStorage.getItem("symgraph-theme");
  } catch {
    return null;
  }
}
