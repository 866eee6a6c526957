// The page in a browser, against a program that runs: sim ui is started, steered and saved,
// and the saved experiment is replayed.
//
//     SIM_BIN=../target/release/sim node test/page.mjs [FOLDER FOR SCREENSHOTS]

import { spawn, execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { chromium } from "playwright-core";

const sim = resolve(process.env.SIM_BIN ?? "../target/release/sim");
const shots = process.argv[2];
const place = mkdtempSync(join(tmpdir(), "sim-page-"));
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

function check(holds, what) {
  if (!holds) throw new Error(`does not hold: ${what}`);
  console.log(`ok: ${what}`);
}

async function until(what, probe, seconds = 300) {
  const end = Date.now() + 1000 * seconds;
  let last;
  while (Date.now() < end) {
    if ((last = await probe())) return last;
    await new Promise((done) => setTimeout(done, 100));
  }
  throw new Error(`${what}: not within ${seconds} s`);
}

const servers = [];

/** Starts the program; gives the addresses that it prints. */
function launch(...args) {
  const server = spawn(sim, args, { cwd: place });
  servers.push(server);
  return new Promise((done, failed) => {
    let said = "";
    server.stderr.on("data", (data) => (said += data));
    server.stdout.once("data", (data) => done(String(data).trim()));
    server.once("exit", (code) => failed(new Error(`sim ${args[0]} ended with ${code}: ${said}`)));
  });
}

/** An experiment of so many workers that are quickly simulated. */
function experiment(name, workers, concurrency) {
  const file = join(place, `${name}.toml`);
  writeFileSync(file, `name = "${name}"
[cluster]
workers = ${workers}
[engine]
rules = "vllm"
block_size = 32
num_blocks = 8000
max_num_seqs = 32
max_num_batched_tokens = 8192
max_model_len = 32768
step_time = { kind = "fixed", prefill = "40ms", decode = "20ms" }
[router]
policy = "kv"
[workload]
kind = "conversations"
concurrency = ${concurrency}
starters = 50
starter_tokens = { kind = "uniform", min = 500, max = 2000 }
turns = { min = 2, max = 6 }
question_tokens = { kind = "uniform", min = 20, max = 200 }
output_tokens = { kind = "uniform", min = 20, max = 60 }
think_time = { kind = "exponential", mean = "1s", min = "0s", max = "10s" }
start_spread = "2s"
[measure]
warmup = "5s"
window = "20s"
seeds = 1
`);
  return file;
}

let browser;
try {
  const address = await launch("ui", "doks-3xh200", "--port", "0", "--no-open");
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: ["--no-sandbox"],
  });
  const context = await browser.newContext({ viewport: { width: 1440, height: 1000 }, acceptDownloads: true });
  const page = await context.newPage();
  const problems = [];
  page.on("pageerror", (error) => problems.push(String(error)));
  page.on("console", (message) => message.type() === "error" && problems.push(message.text()));
  await page.goto(address);
  await page.waitForSelector(".arm .huge");
  const paint = await page.evaluate(() => performance.getEntriesByName("first-contentful-paint")[0]?.startTime ?? 0);
  check(paint < 1000, `first paint after ${Math.round(paint)} ms`);

  const number = async (row, arm) => {
    const cells = await page.locator("table.all tbody tr", { has: page.locator(`th:text-is("${row}")`) }).locator("td").allTextContents();
    return Number(cells[arm].replaceAll(",", ""));
  };
  const time = async () => (await page.locator(".clock").textContent()).split(":").reduce((sum, part) => 60 * sum + Number(part), 0);
  // KV-aware routing is ahead at 60 conversations.
  await page.getByRole("button", { name: "Fastest" }).click();
  await until("a quarter of an hour", async () => (await time()) > 900);
  await page.getByRole("button", { name: "Pause" }).click();
  await until("the pause", async () => (await page.locator(".achieved").textContent()) === "paused");
  const low = [await number("TTFT p95, ms", 0), await number("TTFT p95, ms", 1)];
  check(low[1] < low[0], `at 60 KV's TTFT p95 is below round robin's: ${low[1]} < ${low[0]} ms`);
  await until("baselines", async () => (await page.locator("table.all").textContent()).includes("("));

  // And far behind at 180, where one worker's queue grows.
  const slider = page.getByLabel("Conversations at the same time");
  await slider.focus();
  await slider.fill("180");
  await until("the move", async () => (await page.locator(".log").textContent()).includes("load 180"));
  await page.getByRole("button", { name: "Run", exact: true }).click();
  const start = await time();
  let worst = 0;
  const overtaken = async () => {
    for (const text of await page.locator(".split .card").nth(1).locator(".workers .counts").allTextContents()) {
      worst = Math.max(worst, Number(text.split(" ")[2]));
    }
    return worst > 0 && (await time()) > start + 900 && (await number("TTFT p95, ms", 1)) > (await number("TTFT p95, ms", 0));
  };
  await until("KV's p95 passes round robin's", overtaken);
  check(worst > 0, `a worker of KV-aware routing had ${worst} requests waiting`);
  await page.getByRole("button", { name: "Pause" }).click();
  await until("the pause", async () => (await page.locator(".achieved").textContent()) === "paused");

  // A reload shows the same session, and so does another browser.
  const before = await time();
  await page.reload();
  await page.waitForSelector(".arm .huge");
  await until("the clock", async () => (await time()) === before);
  check((await page.locator(".log").textContent()).includes("load 180"), "a reload keeps the session");

  // Why a request went where it went.
  await page.getByRole("button", { name: /Why did request/ }).last().click();
  await until("an explanation", async () => (await page.locator("dialog pre").textContent()).includes("decided by front end"));
  await page.keyboard.press("Escape");

  // What is saved replays to the digest that it names.
  const [download] = await Promise.all([page.waitForEvent("download"), page.getByText("Save as experiment").click()]);
  const file = join(place, "session.toml");
  await download.saveAs(file);
  const said = /^# ([0-9a-f]{64})$/m.exec(readFileSync(file, "utf8"))[1];
  const replayed = execFileSync(sim, ["run", file, "--no-figures", "--out", join(place, "replayed")], { cwd: place });
  check(String(replayed).includes(`digest ${said}`), `the session replays to ${said.slice(0, 12)}`);

  const [csv] = await Promise.all([page.waitForEvent("download"), page.getByRole("button", { name: "CSV" }).click()]);
  check(readFileSync(await csv.path(), "utf8").split("\n").length > 50, "the CSV has the lines over time");
  const [png] = await Promise.all([page.waitForEvent("download"), page.getByRole("button", { name: "PNG" }).click()]);
  check(readFileSync(await png.path()).subarray(1, 4).toString() === "PNG", "the picture is a PNG");

  // With a keyboard alone.
  await page.locator("h1").click();
  await page.keyboard.press("Space");
  await until("running", async () => (await page.getByRole("button", { name: "Pause" }).count()) === 1);
  const frames = await page.evaluate(() => new Promise((done) => {
    let count = 0;
    const begin = performance.now();
    const next = () => (performance.now() - begin < 2000 ? (count++, requestAnimationFrame(next)) : done(count / 2));
    requestAnimationFrame(next);
  }));
  const pace = await page.locator(".achieved").textContent();
  console.log(`note: ${Math.round(frames)} frames a second at ${pace}`);
  await page.keyboard.press("Space");

  // What the pictures show: a worker past its batch limit.
  const full = page.locator(".split .card").nth(1).locator("tr.full");
  await until("a full worker", async () => (await full.count()) > 0 || (await page.getByRole("button", { name: "Step 1 s" }).click()));

  for (const [name, width, height, scheme] of [
    ["light", 1440, 1500, "light"],
    ["dark", 1440, 1500, "dark"],
    ["phone", 390, 1400, "light"],
  ]) {
    await page.emulateMedia({ colorScheme: scheme });
    await page.setViewportSize({ width, height });
    await page.evaluate(() => scrollTo(0, 0));
    await page.waitForTimeout(400);
    const over = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    check(over <= 0, `${name}: nothing is wider than ${width} px`);
    await page.evaluate(axe);
    const { violations } = await page.evaluate(() => globalThis.axe.run());
    for (const one of violations) console.log(`${one.id}: ${one.help}: ${one.nodes.map((node) => node.html).slice(0, 3).join(" ")}`);
    check(violations.length === 0, `${name}: axe finds nothing`);
    if (shots) await page.screenshot({ path: join(shots, `ui-${name}.png`) });
  }

  await page.emulateMedia({ colorScheme: "light" });
  await page.setViewportSize({ width: 1440, height: 1400 });

  // A thousand workers: a strip, whose squares and numbers lead to one of them.
  await page.goto(await launch("ui", experiment("wide", 1000, 20000), "--port", "0", "--no-open"));
  await page.waitForSelector("canvas.strip");
  await page.getByRole("button", { name: "Fastest" }).click();
  const strip = page.locator("canvas.strip").first();
  await until("requests at the workers", async () => (await time()) > 5);
  await strip.click({ position: { x: 12 * 3 + 5, y: 5 } });
  const one = page.locator(".split .card").first();
  await until("the worker of the square", async () => (await one.textContent()).includes("Worker 3:"));
  const blocked = await page.evaluate(() => new Promise((done) => {
    const frames = [];
    let last = performance.now();
    const next = (now) => {
      frames.push(now - last);
      last = now;
      if (frames.length < 120) requestAnimationFrame(next);
      else done(frames.sort((a, b) => a - b)[Math.floor(frames.length / 2)]);
    };
    requestAnimationFrame(next);
  }));
  console.log(`note: a thousand workers, ${(1000 / blocked).toFixed(0)} frames a second (median) at ${await page.locator(".achieved").textContent()}`);
  if (shots) await page.screenshot({ path: join(shots, "ui-wide.png") });

  // Real servers beside their simulation; served workers stand in for them.
  const served = experiment("real", 2, 6);
  const urls = (await launch("serve", served, "--port", "18620", "--events")).split(" ");
  await page.goto(await launch("ui", served, "--port", "0", "--no-open", "--keep-caches", ...urls.flatMap((url) => ["--worker", url])));
  await page.waitForSelector(".arm .huge");
  check(await page.getByRole("button", { name: "Pause" }).isDisabled(), "real time cannot be paused");
  check(await page.getByRole("button", { name: "Copy link" }).isDisabled(), "and not come back to");
  check((await page.locator(".bar-top").textContent()).includes("real servers live in real time"), "which is said");
  const real = page.locator(".split .card").nth(1);
  check(await real.getByLabel("Change worker 0 of kv, servers").isDisabled(), "servers are changed where they run");
  await until("answers of the servers", async () => (await number("Requests/s", 1)) > 0 && (await number("TTFT p95, ms", 1)) >= 40);
  await page.evaluate(axe);
  const found = (await page.evaluate(() => globalThis.axe.run())).violations;
  for (const one of found) console.log(`${one.id}: ${one.help}: ${one.nodes.map((node) => node.html).slice(0, 3).join(" ")}`);
  check(found.length === 0, "real servers: axe finds nothing");
  if (shots) await page.screenshot({ path: join(shots, "ui-servers.png") });

  check(problems.length === 0, `no errors in the console: ${problems.join("; ") || "none"}`);
} finally {
  await browser?.close();
  servers.forEach((server) => server.kill());
  rmSync(place, { recursive: true, force: true });
}
