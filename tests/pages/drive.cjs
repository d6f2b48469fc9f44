// Drives pages in headless Chromium and prints what was seen, as JSON.
//
// node drive.cjs CHROMIUM FOLDER PAGE...    pictures go into FOLDER; playwright-core is found by NODE_PATH

const { fits, paint, run, stops: reached, text, themes } = require("./browser.cjs");

async function look(open, picture) {
  const page = await open("light");
  await page.screenshot({ path: `${picture}-light.png` });
  const seen = {
    paint: await paint(open, page),
    fits: await fits(page),
    headline: await text(page, ".details"),
  };
  Object.assign(seen, { drawn: await drawn(page), clicks: await clicks(page), folding: await folding(page) });
  Object.assign(seen, {
    search: await search(page),
    keyboard: await keyboard(page),
    themes: await themes(page),
  });
  const dark = await open("dark", "#space=residual");
  seen.pointed = await text(dark, ".details h2").catch(() => "");
  await dark.screenshot({ path: `${picture}-dark.png` });
  return seen;
}

/** What is drawn: the nodes by their kinds, and the labels of links. */
function drawn(page) {
  return page.evaluate(() => {
    const cy = document.querySelector(".canvas")._cyreg.cy;
    const of = (kind) => cy.nodes(`[kind = '${kind}']`).map((node) => node.data("label"));
    const links = cy.edges("[kind = 'link']").map((link) => link.data("label"));
    return { spaces: of("space"), open: of("open"), closed: of("closed"), links };
  });
}

/** Where an element of the drawing is on the screen; a link is met at its middle. */
function placeOf(page, kind, label) {
  return page.evaluate(
    ([kind, label]) => {
      const box = document.querySelector(".canvas");
      const { x, y } = box.getBoundingClientRect();
      const cy = box._cyreg.cy;
      const one = cy
        .elements(`[kind = '${kind}']`)
        .filter((element) => (element.data("label") ?? "").includes(label))[0];
      if (!one) return null;
      if (one.isEdge()) return { x: x + one.renderedMidpoint().x, y: y + one.renderedMidpoint().y };
      const at = one.renderedBoundingBox({ includeLabels: kind === "open" });
      return { x: x + (at.x1 + at.x2) / 2, y: y + (kind === "open" ? at.y1 + 4 : (at.y1 + at.y2) / 2) };
    },
    [kind, label],
  );
}

async function click(page, kind, label) {
  const at = await placeOf(page, kind, label);
  if (!at) return false;
  await page.mouse.click(at.x, at.y);
  return true;
}

async function clicks(page) {
  const { spaces, links } = await drawn(page);
  const found = {};
  const space = spaces.find((label) => label.startsWith("residual")) ?? spaces[0];
  await click(page, "space", space);
  found.space = { details: await text(page, ".details"), hash: await page.evaluate(() => location.hash) };
  const matrix = links.find(
    (label) => /proj|query|fc|memory|0/.test(label) && !label.includes(",") && !label.includes("vector"),
  );
  if (matrix && (await click(page, "link", matrix)))
    found.link = { label: matrix, details: await text(page, ".details") };
  await page.locator(".details .term").first().click();
  found.glossary = await text(page, "#glossary");
  await page.keyboard.press("Escape");
  found.closed = await page.locator("#glossary").isHidden();
  return found;
}

async function folding(page) {
  const before = await drawn(page);
  if (!before.open.length) return null;
  await page.getByRole("button", { name: "Fold all" }).click();
  const folded = await drawn(page);
  await page.getByRole("button", { name: "Open all" }).click();
  const opened = await drawn(page);
  const many = opened.open.find((label) => label.includes("\u00d7"));
  if (!many) return { before, folded, opened };
  await click(page, "open", many);
  const closed = await drawn(page);
  const one = page.locator(".module select");
  if (await one.count()) await one.selectOption({ index: 2 });
  else await page.getByRole("button", { name: /show each of the/ }).click();
  const apart = await drawn(page);
  await page.getByRole("button", { name: "Fit" }).click();
  await click(page, "closed", apart.closed.at(-1).split(" \u00b7")[0].split("\n")[0]);
  await page.getByRole("button", { name: /as one/ }).click();
  return { before, folded, opened, closed, apart, again: await drawn(page) };
}

async function search(page) {
  await page.getByRole("tab", { name: "Spaces" }).click();
  const rows = () => page.locator("#page-space tbody tr").allInnerTexts();
  const every = await rows();
  await page.locator("#page-space input").fill("identity");
  const found = await rows();
  await page.locator("#page-space input").fill("");
  await page.locator("#page-space select").selectOption({ index: 1 });
  const filtered = await rows();
  await page.locator("#page-space select").selectOption({ index: 0 });
  await page.locator("#page-space th button", { hasText: "size" }).click();
  const sizes = await page.locator("#page-space tbody td:nth-child(2)").allInnerTexts();
  return { every, found, filtered, sizes };
}

/** What the keyboard alone reaches. */
async function keyboard(page) {
  const stops = await reached(page);
  await page.locator(".canvas").focus();
  for (const key of ["ArrowRight", "ArrowUp", "ArrowDown"]) await page.keyboard.press(key);
  const first = await text(page, ".said");
  await page.keyboard.press("Enter");
  const details = await text(page, ".details");
  await page.keyboard.press("l");
  const link = await text(page, ".said");
  await page.locator("#page-space tbody tr[tabindex='0']").first().focus();
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("Enter");
  const row = await page.locator("#page-space tr[aria-selected='true'] td").first().innerText();
  const chosen = await text(page, ".details h2");
  await page.getByRole("tab", { selected: true }).focus();
  await page.keyboard.press("ArrowRight");
  const tab = await page.getByRole("tab", { selected: true }).innerText();
  return { stops, first, details, link, row, chosen, tab };
}

run(look);
