// What all drivers of pages share: pages opened in headless Chromium, and what is looked at on each of them.

const { chromium } = require("playwright-core");
const { basename, join } = require("node:path");

const SIZE = { width: 1280, height: 800 };

/** Looks at every page that the command line names, and prints what was seen as JSON. */
exports.run = (look) => {
  const [executablePath, folder, ...pages] = process.argv.slice(2);
  const main = async () => {
    const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
    const found = {};
    for (const file of pages) {
      const name = basename(file, ".html");
      const said = [];
      found[name] = { ...(await look(opener(browser, file, said), join(folder, name))), said };
    }
    await browser.close();
    console.log(JSON.stringify(found));
  };
  main().catch((error) => {
    console.error(error);
    process.exit(1);
  });
};

function opener(browser, file, said) {
  return async (theme, hash = "") => {
    const page = await browser.newPage({ viewport: SIZE, colorScheme: theme });
    page.on("console", (message) => said.push(`${message.type()}: ${message.text()}`));
    page.on("pageerror", (error) => said.push(`error: ${error.message}`));
    page.on("request", (request) => {
      if (!/^(data|file):/.test(request.url())) said.push(`request: ${request.url()}`);
    });
    await page.goto(`file://${file}${hash}`);
    page.setDefaultTimeout(60000);
    await page.waitForFunction(() => document.documentElement.dataset.drawn);
    return page;
  };
}

/** The first paint of the fastest of three times: other programs may run beside the browser. */
exports.paint = async (open, page) => {
  const pages = [page, await open("light"), await open("light")];
  const times = pages.map((one) =>
    one.evaluate(() => performance.getEntriesByName("first-contentful-paint")[0].startTime),
  );
  const fastest = Math.min(...(await Promise.all(times)));
  await Promise.all(pages.slice(1).map((one) => one.close()));
  return fastest;
};

exports.text = (page, selector) => page.locator(selector).first().innerText({ timeout: 2000 });

/** What the Tab key reaches, from the view on. */
exports.stops = async (page, most = 40) => {
  const stops = [];
  await page.locator("#view").focus();
  for (let at = 0; at < most; at += 1) {
    await page.keyboard.press("Tab");
    const stop = await page.evaluate(() => {
      const { tagName, classList, textContent } = document.activeElement;
      return { tag: tagName, kind: classList[0] ?? "", text: textContent.slice(0, 30) };
    });
    if (stop.tag === "BODY") break;
    stops.push(stop);
  }
  return stops;
};

exports.themes = async (page) => {
  const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const found = [];
  for (let turn = 0; turn < 3; turn += 1) {
    found.push([await page.locator("#theme").innerText(), await ground()]);
    await page.locator("#theme").click();
  }
  return found;
};

/** Whether nothing is wider or higher than the window. */
exports.fits = (page) =>
  page.evaluate(
    () =>
      document.documentElement.scrollWidth <= innerWidth &&
      document.documentElement.scrollHeight <= innerHeight,
  );
