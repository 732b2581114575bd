/** `npm run screenshot`: docs/images/explorer.png, the built page with the example's model. */

import { fileURLToPath, pathToFileURL } from "node:url";

import { chromium } from "playwright-core";

import { BUILT } from "./build.mjs";

const path = (relative) => fileURLToPath(new URL(relative, import.meta.url));

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox"],
});
const page = await browser.newPage({ viewport: { width: 1280, height: 800 }, colorScheme: "light" });
await page.goto(pathToFileURL(BUILT).href);
await page.locator("body[data-ready]").waitFor({ state: "attached" });
await page.setInputFiles("#file", path("../digits.onnx"));
await page.locator("#directions input").first().waitFor();
for (const [control, value] of Object.entries({ "#seed": "9", "#to-seed": "4", "#position": "0.4" })) {
  await page.locator(control).fill(value);
}
await page.locator('#explorer[aria-busy="false"]').waitFor();
await page.locator("h1").click(); // takes the focus ring away from the last control
await page.screenshot({ path: path("../../docs/images/explorer.png") });
await browser.close();
