// superset.mjs URL FOLDER NUMBER…: looks at charts of a Superset with a browser; each must be drawn. Leaves pictures.

import assert from "node:assert/strict";
import { createRequire } from "node:module";

const require = createRequire(`${process.env.MILLPOND_NODE}/package.json`);
const { chromium } = require("playwright-core");

const [url, folder, ...charts] = process.argv.slice(2);
assert.ok(charts.length > 0, "no charts");
const browser = await chromium.launch({
  executablePath: "/usr/bin/chromium",
  args: ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});
try {
  const page = await browser.newPage({ viewport: { width: 1280, height: 800 } });
  // Nothing but this machine is asked.
  await page.route((asked) => asked.hostname !== "127.0.0.1", (route) => route.abort());
  await page.goto(`${url}/login/`);
  await page.locator("input[type=password]").waitFor({ timeout: 60_000 });
  await page.locator("input:not([type=password]):not([type=hidden])").first().fill("admin");
  await page.locator("input[type=password]").fill("admin");
  await page.locator("button[type=submit], input[type=submit]").first().click();
  await page.waitForURL((now) => !now.pathname.includes("/login"), { timeout: 60_000 });
  for (const chart of charts) {
    await page.goto(`${url}/explore/?slice_id=${chart}`);
    const drawn = page.locator(".chart-container canvas, .chart-container svg.echarts").first();
    const failed = page.locator(".chart-container [role=alert], .chart-container .ant-alert-error").first();
    await Promise.race([drawn.waitFor({ timeout: 90_000 }), failed.waitFor({ timeout: 90_000 })]);
    const words = (await failed.count()) > 0 ? await failed.innerText() : "";
    // Lines move into place for a second.
    const colours = await page.waitForFunction(() => {
      const canvas = document.querySelector(".chart-container canvas");
      if (!canvas) return 0;
      const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      let coloured = 0;
      for (let i = 0; i < data.length; i += 4) {
        const [red, green, blue, alpha] = data.subarray(i, i + 4);
        if (alpha > 200 && Math.max(red, green, blue) - Math.min(red, green, blue) > 40) coloured += 1;
      }
      // A line across the picture, and more.
      return coloured > 800 && coloured;
    }, null, { timeout: 30_000 }).catch(() => null);
    await page.screenshot({ path: `${folder}/superset-${chart}.png` });
    assert.equal(words, "", `chart ${chart}: ${words}`);
    assert.ok(colours, `chart ${chart} is empty: see ${folder}/superset-${chart}.png`);
    console.log(`chart ${chart}: ${await colours.jsonValue()} coloured points`);
  }
} finally {
  await browser.close();
}
