// Drives pages of results in headless Chromium: charts, legends, tables, what is saved.
//
// node drive_results.cjs CHROMIUM FOLDER PAGE...    pictures go into FOLDER; playwright-core is found by NODE_PATH

const { readFileSync } = require("node:fs");
const { fits, paint, run, stops, text, themes } = require("./browser.cjs");

async function look(open, picture) {
  const page = await open("light");
  await page.screenshot({ path: `${picture}-light.png` });
  const seen = { paint: await paint(open, page), fits: await fits(page), cards: await cards(page) };
  Object.assign(seen, { charts: await charts(page), legend: await legend(page), saved: await saved(page) });
  Object.assign(seen, { choices: await choices(page), tables: await tables(page), space: await space(page) });
  Object.assign(seen, { stops: await stops(page, 60), themes: await themes(page) });
  const dark = await open("dark", "#space=residual");
  seen.pointed = await text(dark, "[data-card='space'] .name").catch(() => "");
  await dark.screenshot({ path: `${picture}-dark.png` });
  const tall = await dark.evaluate(() => document.querySelector("main").scrollHeight);
  await dark.setViewportSize({ width: 1280, height: Math.min(tall + 60, 5000) });
  await dark.screenshot({ path: `${picture}-whole.png` });
  return seen;
}

function cards(page) {
  return page.evaluate(() =>
    Object.fromEntries(
      [...document.querySelectorAll(".card")].map((card) => [card.dataset.card, card.innerText]),
    ),
  );
}

/** What the arrow keys and the pointer read of every picture, and whether all letters are inside of it. */
async function charts(page) {
  const found = [];
  for (const figure of await page.locator("figure").all()) {
    const chart = figure.locator("svg.chart");
    await chart.focus();
    for (const key of ["ArrowRight", "ArrowDown"]) await page.keyboard.press(key);
    const keys = await figure.locator(".said").innerText();
    await chart.scrollIntoViewIfNeeded();
    const spots = figure.locator(".point, .spot, .model");
    await ((await spots.count()) ? spots.last() : chart).hover({ force: true });
    const outside = await chart.evaluate((svg) => {
      const box = svg.getBoundingClientRect();
      const letters = [...svg.querySelectorAll("text")].map((text) => [
        text.textContent,
        text.getBoundingClientRect(),
      ]);
      return letters
        .filter(([, at]) => at.left < box.left - 2 || at.right > box.right + 2)
        .map(([words]) => words);
    });
    const name = await chart.getAttribute("aria-label");
    found.push({ name, keys, pointer: await figure.locator(".said").innerText(), outside });
  }
  return found;
}

/** Curves before and after one of them is hidden, and shown again. */
async function legend(page) {
  const buttons = page.locator(".curves button");
  if (!(await buttons.count())) return null;
  const card = page.locator(".card", { has: page.locator(".curves") }).first();
  const drawn = () => card.locator("figure [data-label]").count();
  const every = await drawn();
  await buttons.first().click();
  const fewer = await drawn();
  const pressed = await buttons.first().getAttribute("aria-pressed");
  await buttons.first().click();
  return { every, fewer, pressed, again: await drawn() };
}

async function saved(page) {
  const found = {};
  for (const kind of ["SVG", "PNG"]) {
    const waiting = page.waitForEvent("download");
    await page
      .locator("figure")
      .first()
      .getByRole("button", { name: new RegExp(`as ${kind}`) })
      .click();
    const download = await waiting;
    const content = readFileSync(await download.path());
    found[kind] = {
      name: download.suggestedFilename(),
      size: content.length,
      text: kind === "SVG" ? String(content) : content.subarray(1, 4).toString(),
    };
  }
  return found;
}

/** What is drawn after each choice of the first picture. */
async function choices(page) {
  const found = {};
  const selects = page.locator(".card").first().locator(".choices select");
  const curve = page.locator("figure").first().locator("svg.chart");
  for (const select of await selects.all()) {
    const name = await select.getAttribute("aria-label");
    const options = await select.locator("option").count();
    found[name] = [await curve.getAttribute("aria-label")];
    if (options > 1) await select.selectOption({ index: 1 });
    found[name].push(await curve.getAttribute("aria-label"));
    await select.selectOption({ index: 0 });
  }
  return found;
}

/** Every table: its rows, sorted by its last column, searched for the first word of its last row, and filtered. */
async function tables(page) {
  const found = {};
  for (const table of await page.locator(".card .table").all()) {
    if (!(await table.isVisible())) continue;
    const name = await table.locator("table").getAttribute("aria-label");
    const rows = () => table.locator("tbody tr").allInnerTexts();
    const every = await rows();
    const last = table.locator("th button").last();
    await last.click();
    const sorted = await table.locator("tbody td:last-child").allInnerTexts();
    const direction = await table.locator("th").last().getAttribute("aria-sort");
    const word = (every.at(-1) ?? "").split(/\s/)[0];
    await table.locator("input").fill(word);
    const searched = await rows();
    await table.locator("input").fill("");
    const filter = table.locator("select");
    let filtered = null;
    if (await filter.count()) {
      await filter.selectOption({ index: 1 });
      filtered = await rows();
      await filter.selectOption({ index: 0 });
    }
    found[name] = { every, sorted, direction, word, searched, filtered };
  }
  return found;
}

/** What is said of the second space, by a click, and of the next one, by the keyboard. */
async function space(page) {
  const rows = page.locator("[data-card='spaces'] tbody tr");
  if ((await rows.count()) < 2) return null;
  const details = () => text(page, "[data-card='space'] .one");
  await rows.nth(1).click();
  const clicked = { row: await rows.nth(1).locator("td").first().innerText(), details: await details() };
  const hash = await page.evaluate(() => location.hash);
  await rows.nth(1).focus();
  await page.keyboard.press("ArrowUp");
  await page.keyboard.press("Enter");
  return {
    clicked,
    hash,
    reached: await details(),
    first: await rows.first().locator("td").first().innerText(),
  };
}

run(look);
