// The page: builds itself for a session, shows what comes, and asks for what is clicked.

import "uplot/dist/uPlot.min.css";
import "./style.css";
import { ByLoad, History, OverTime, POLICIES, picture } from "./charts";
import { disable, field, h, text } from "./dom";
import { clock, number, quantity, times } from "./format";
import * as link from "./link";
import { METRICS, at, baseline, metric, published } from "./metrics";
import { Router } from "./router";
import { act, listen, read, results, type Baselines, type Frame, type Hello, type Link, type Now } from "./wire";
import { Workers, barScale } from "./workers";

const SPEEDS: [string, number | null][] = [["1×", 1], ["10×", 10], ["100×", 100], ["1000×", 1000], ["Fastest", null]];
const WINDOWS = [10, 30, 60, 120, 300, 600];
const SMALL = ["output_tokens_per_s", "hit_ratio", "queue_ms_worst"];

const app = document.getElementById("app")!;
const status = h("p", { class: "status", role: "status", "aria-live": "polite" });
let page: Page | null = null;
let baselines: Baselines | null = null;

function say(message: string): void {
  text(status, message);
}

/** Does something on the server; says what was refused. */
async function tell(what: Record<string, unknown>, done?: string): Promise<void> {
  try {
    const refused = await act(what);
    say(refused.map((one) => one.why).join("; ") || done || "");
  } catch (error) {
    say((error as Error).message);
  }
}

const control = (keys: Record<string, unknown>, arm?: number): Promise<void> => tell({ do: "control", arm: arm ?? null, control: keys });

function save(name: string, data: Blob): void {
  const url = URL.createObjectURL(data);
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

interface ArmCard {
  element: HTMLElement;
  big: Map<string, HTMLElement>;
  light: HTMLElement;
  policy: HTMLElement;
}

/** A session on the screen. */
class Page {
  readonly history: History;
  private now: Now | null = null;
  private drawn = 0;
  private dirty = false;
  private draggedAt = 0;
  private sentAt = 0;
  private timer = 0;
  private metric = METRICS[1]!.name;

  private readonly play = h("button", { type: "button", class: "primary", onclick: () => this.toggle() });
  private readonly clock = h("output", { class: "clock", "aria-label": "Simulated time" });
  private readonly pace = h("span", { class: "quiet achieved" });
  private readonly speeds = new Map<number | null, HTMLButtonElement>();
  private readonly slider: HTMLInputElement;
  private readonly loadInput: HTMLInputElement;
  private readonly window = h("select", { onchange: () => void tell({ do: "window", over: `${this.window.value}s` }) });
  private readonly ttft = h("input", { type: "number", min: 1, step: 10, inputmode: "numeric", placeholder: "none" });
  private readonly itl = h("input", { type: "number", min: 1, step: 1, inputmode: "numeric", placeholder: "none" });
  private readonly cards: ArmCard[];
  private readonly workers: Workers[];
  private readonly routers: Router[];
  private readonly requests: { body: HTMLTableSectionElement; shown: string }[] = [];
  private readonly cells = new Map<string, HTMLElement>();
  private readonly overTime: OverTime;
  private readonly byLoad: ByLoad;
  private readonly small: OverTime[];
  private readonly log = h("ol", { class: "log" });
  private logged = "";
  private readonly end = h("p", { class: "end", hidden: true });
  private readonly dialog = h("dialog", { "aria-label": "Why a request went to its worker" });
  private readonly offer = h("div", { class: "offer", hidden: true });
  private readonly baselineNote = h("p", { class: "quiet" }, "Baselines are being computed…");
  private readonly pending = h("button", { type: "button", class: "small", hidden: true, onclick: () => void tell({ do: "stop" }, "The rest of the preset is cancelled") });

  constructor(readonly hello: Hello) {
    this.history = new History(hello);
    const top = Math.max(hello.first_load, ...hello.loads);
    const most = hello.load === "rate" ? top * 1.25 : Math.ceil((top * 1.25) / 10) * 10;
    const step = hello.load === "rate" ? Math.max(0.001, Number((most / 200).toPrecision(1))) : 1;
    const isFixed = hello.load === "fixed";
    this.slider = h("input", { type: "range", min: hello.load === "rate" ? step : 0, max: most, step, value: hello.first_load, disabled: isFixed, list: "loads", oninput: () => this.setLoad(Number(this.slider.value)) });
    this.loadInput = h("input", { type: "number", "aria-label": "Load", min: 0, step: "any", value: hello.first_load, disabled: isFixed, onchange: () => this.setLoad(Number(this.loadInput.value)) });
    this.cards = hello.arms.map((_, arm) => this.card(arm));
    this.workers = hello.arms.map((info, arm) => new Workers(info, (change) => void control(change, this.only(arm)), (info.real && hello.cannot?.workers) || null));
    this.routers = hello.arms.map((info, arm) => new Router(info, hello.policies, (keys) => void control(keys, this.only(arm)), (info.real && hello.cannot?.feed) || null));
    const chart = () => h("div", { class: "chart" });
    this.overTime = new OverTime(chart(), 260);
    this.byLoad = new ByLoad(chart(), 260);
    this.small = SMALL.map(() => new OverTime(chart(), 150));
    if (hello.slo?.ttft_ms) this.ttft.value = String(hello.slo.ttft_ms);
    if (hello.slo?.itl_ms) this.itl.value = String(hello.slo.itl_ms);
    for (const seconds of WINDOWS) this.window.append(h("option", { value: seconds }, seconds < 60 ? `${seconds} s` : `${seconds / 60} min`));
    this.build();
  }

  /** Changes go to one arm where its box is ticked off the others. */
  private only(arm: number): number | undefined {
    return this.hello.arms.length > 1 ? arm : undefined;
  }

  private build(): void {
    const { hello } = this;
    const loadName = { concurrency: "Conversations at the same time", rate: "Requests a second", fixed: "Load: a trace, as it was recorded" }[hello.load];
    document.title = `${hello.name} – sim ui`;
    for (const [label, speed] of SPEEDS) {
      const button = h("button", { type: "button", "aria-pressed": "false", onclick: () => void tell({ do: "pace", speed }) }, label);
      this.speeds.set(speed, button);
    }
    const preset = (name: string, label: string, title: string) => h("button", { type: "button", title, onclick: () => void tell({ do: "preset", name }, `${label}: running`) }, label);
    const pick = h("select", { onchange: () => this.choose(pick.value) });
    for (const one of METRICS) pick.append(h("option", { value: one.name, title: one.title }, one.label));
    pick.value = this.metric;
    const note = h("input", { type: "text", maxlength: 200, placeholder: "What happens now?" });
    const mark = h("form", { class: "row", onsubmit: (event: Event) => {
      event.preventDefault();
      if (note.value.trim()) void control({ what: "marker", note: note.value.trim() });
      note.value = "";
    } }, field("Marker", note), h("button", { type: "submit" }, "Set"));
    const loads = h("datalist", { id: "loads" });
    for (const load of hello.loads) loads.append(h("option", { value: load }));
    const seed = h("input", { type: "number", min: 0, step: 1, value: hello.seed, class: "short" });
    const step = h("button", { type: "button", onclick: () => void tell({ do: "step", by: "1s" }), title: "One simulated second" }, "Step 1 s");
    const restart = h("button", { type: "button", onclick: () => void tell({ do: "restart", seed: Number(seed.value) }, "Restarted") }, "Restart");
    const copy = h("button", { type: "button", onclick: () => void this.copyLink() }, "Copy link");
    const dies = preset("worker-dies", "A worker dies", "Worker 0 crashes, and is back after two minutes");
    const { cannot } = hello;
    if (cannot) {
      disable(cannot.time, this.play, step, seed, restart, ...this.speeds.values());
      disable(cannot.replay, copy);
      disable(cannot.workers, dies);
    }

    app.replaceChildren(
      h("header", {},
        h("div", {}, h("h1", {}, hello.name), h("p", { class: "quiet" }, hello.description)),
        h("div", { class: "row export" },
          h("a", { class: "button", href: "/api/experiment.toml", download: `${hello.name}-session.toml` }, "Save as experiment"),
          copy,
          h("button", { type: "button", onclick: () => void this.png() }, "PNG"),
          h("button", { type: "button", onclick: () => this.csv() }, "CSV"),
          h("button", { type: "button", onclick: () => void this.folder() }, "Result folder"))),
      this.offer,
      h("section", { class: "bar-top", "aria-label": "Time and load" },
        h("div", { class: "row" }, this.play, step,
          this.clock, this.pace,
          h("div", { class: "segments", role: "group", "aria-label": "Speed" }, ...this.speeds.values()),
          field("Window", this.window, "The simulated time that rolling numbers cover"),
          field("Seed", seed),
          restart),
        h("div", { class: "row load" }, field(loadName, this.slider), this.loadInput, loads,
          h("div", { class: "row", role: "group", "aria-label": "Presets" },
            !(hello.load === "fixed") && preset("crossover", "Crossover", `Loads ${hello.loads.join(", ")}, two minutes each`),
            !(hello.load === "fixed") && preset("burst", "Burst", "Half as much load again for a minute"),
            dies, this.pending)),
        cannot && h("p", { class: "quiet" }, `Greyed out: ${cannot.time}; ${cannot.replay}.`),
        this.end, status),
      h("main", {},
        h("section", { class: "arms", "aria-label": "Arms now" }, ...this.cards.map((card) => card.element)),
        h("section", { class: "card", "aria-label": "Charts" },
          h("div", { class: "row" }, field("Metric", pick), field("SLO: TTFT p95, ms", this.ttft), field("SLO: ITL p95, ms", this.itl), this.legend()),
          h("div", { class: "two" },
            h("figure", {}, h("figcaption", {}, "Over time"), this.overTime.place),
            h("figure", {}, h("figcaption", {}, hello.published ? "By load: arms now (filled), swept round robin (line) and KV (dashed), published (hollow)" : "By load: arms now (filled), swept round robin (line) and KV (dashed)"), this.byLoad.place, this.baselineNote)),
          h("div", { class: "three" }, ...SMALL.map((name, at) => h("figure", {}, h("figcaption", {}, metric(name).label), this.small[at]!.place)))),
        h("section", { class: "split", "aria-label": "Workers" }, ...hello.arms.map((arm, index) =>
          h("div", { class: `card arm-${index % 6}` }, this.title(index, `Workers of ${arm.name}`), this.workers[index]!.element,
            h("details", {}, h("summary", {}, "Router"), this.routers[index]!.element)))),
        this.table(),
        h("section", { class: "split", "aria-label": "Last requests" }, ...hello.arms.map((arm, index) => this.last(arm.name, index))),
        h("section", { class: "card", "aria-label": "What was changed" }, h("h2", {}, "Changes"), mark, this.log)),
      h("footer", {}, h("p", { class: "quiet" }, `sim ${hello.version}. Keys: space runs and pauses, full stop steps a second. Prometheus: `, h("a", { href: "/metrics" }, "/metrics"))),
      this.dialog,
    );
    this.draw();
  }

  private title(arm: number, words: string): HTMLElement {
    return h("h2", { class: `arm-${arm % 6}` }, h("span", { class: "dot", "aria-hidden": "true" }), words);
  }

  private legend(): HTMLElement {
    const arms = this.hello.arms.map((arm, index) => h("li", { class: `arm-${index % 6}` }, h("span", { class: "dot", "aria-hidden": "true" }), arm.name));
    return h("ul", { class: "legend", "aria-label": "Colours" }, ...arms);
  }

  private card(arm: number): ArmCard {
    const info = this.hello.arms[arm]!;
    const big = new Map<string, HTMLElement>();
    const value = (name: string, label: string, size: string) => {
      const output = h("dd", { class: size });
      big.set(name, output);
      return h("div", {}, h("dt", {}, label), output);
    };
    const light = h("span", { class: "light" });
    const policy = h("span", { class: "quiet" });
    const rows = [value("ttft_ms_p95", "TTFT p95, ms", "huge"), value("output_tokens_per_s", "Tokens/s", "huge"), value("hit_ratio", "Hit ratio, %", "huge")];
    const head = h("div", { class: "row between" }, h("div", {}, this.title(arm, info.name), policy), light);
    return { element: h("article", { class: `card arm arm-${arm % 6}` }, head, h("dl", { class: "numbers" }, ...rows)), big, light, policy };
  }

  /** Everything now: arms, baselines at this load, published values. */
  private table(): HTMLElement {
    const { hello } = this;
    const columns = [...hello.arms.map((arm) => arm.name), "round robin, swept", "KV, swept", ...(hello.published ? ["round robin, published", "KV, published"] : [])];
    const body = METRICS.map((one) => {
      const cells = columns.map((_, column) => {
        const cell = h("td");
        this.cells.set(`${one.name} ${column}`, cell);
        return cell;
      });
      return h("tr", {}, h("th", { scope: "row", title: one.title }, one.unit === "ms" ? `${one.label}, ms` : one.label), ...cells);
    });
    const caption = h("caption", {});
    this.cells.set("caption", caption);
    return h("section", { class: "card scroll", tabindex: 0, "aria-label": "All numbers" },
      h("table", { class: "all" }, caption, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Metric"), ...columns.map((name) => h("th", { scope: "col" }, name)))), h("tbody", {}, ...body)));
  }

  private last(name: string, arm: number): HTMLElement {
    const body = h("tbody");
    this.requests[arm] = { body, shown: "" };
    const head = ["Request", "Worker", "Prompt", "Cached", "Queue", "TTFT", ""].map((title) => h("th", { scope: "col" }, title || h("span", { class: "hidden" }, "Why")));
    return h("div", { class: "card scroll", tabindex: 0, role: "region", "aria-label": `Last requests of ${name}` }, this.title(arm, `Last requests of ${name}`),
      h("table", { class: "requests" }, h("thead", {}, h("tr", {}, ...head)), body));
  }

  private choose(name: string): void {
    this.metric = name;
    this.draw();
  }

  /** Makes all charts, as after a change of colours. */
  draw(): void {
    this.overTime.show(this.hello, this.history, this.metric);
    this.byLoad.show(this.hello, baselines, this.metric);
    this.small.forEach((chart, at) => chart.show(this.hello, this.history, SMALL[at]!));
    this.dirty = true;
    this.frame();
  }

  baselinesCame(): void {
    text(this.baselineNote, baselines?.why ? `No baselines: ${baselines.why}` : baselines?.from ? `Baselines read from ${baselines.from}` : "");
    this.draw();
  }

  hear({ now, samples }: Frame): void {
    this.now = now;
    this.history.add(samples);
    this.dirty = true;
    requestAnimationFrame(() => this.frame());
  }

  /** Shows the latest state, however many have come since. */
  private frame(): void {
    const now = this.now;
    if (!now || !this.dirty) return;
    this.dirty = false;
    text(this.play, now.paused ? "Run" : "Pause");
    text(this.clock, clock(now.t));
    const target = now.goal_s === null ? "" : `to ${clock(now.goal_s)}, `;
    text(this.pace, now.paused ? "paused" : `${target}${times(now.achieved)} real time`);
    for (const [speed, button] of this.speeds) button.setAttribute("aria-pressed", String(speed === now.speed));
    if (document.activeElement !== this.window) this.window.value = String(now.window_s);
    this.end.hidden = now.end === null;
    text(this.end, now.end ?? "");
    this.pending.hidden = now.pending === 0;
    text(this.pending, `Cancel ${now.pending} to come`);
    const load = this.history.last(0, "load");
    if (load !== null && Date.now() - this.draggedAt > 700) {
      if (Number(this.slider.max) < load) this.slider.max = String(load);
      this.slider.value = String(load);
      if (document.activeElement !== this.loadInput) this.loadInput.value = String(load);
    }
    const scale = barScale(this.hello.arms, now.arms);
    now.arms.forEach((view, arm) => {
      this.showCard(arm, view.policy);
      this.workers[arm]!.update(view, scale);
      this.routers[arm]!.update(view);
    });
    this.overTime.update(this.hello, this.history, this.targetOf(this.metric), now.log);
    this.byLoad.update(this.hello, this.history);
    this.small.forEach((chart) => chart.update(this.hello, this.history, null, now.log));
    // Tables are read, not watched: twice a second is enough.
    const time = performance.now();
    if (time - this.drawn > 450 || now.paused) {
      this.drawn = time;
      this.showTable(load ?? 0);
      now.arms.forEach((_, arm) => this.showRequests(arm));
      this.showLog(now);
    }
  }

  private targetOf(name: string): number | null {
    const input = name === "ttft_ms_p95" ? this.ttft : name === "itl_ms_p95" ? this.itl : null;
    return input && Number(input.value) > 0 ? Number(input.value) : null;
  }

  private showCard(arm: number, policy: string): void {
    const card = this.cards[arm]!;
    for (const [name, output] of card.big) text(output, quantity(this.history.last(arm, name), metric(name).unit));
    text(card.policy, policy === this.hello.arms[arm]!.name ? "" : `policy ${policy}`);
    const checks = ["ttft_ms_p95", "itl_ms_p95"].flatMap((name) => {
      const target = this.targetOf(name);
      const value = this.history.last(arm, name);
      return target === null || value === null ? [] : [value <= target];
    });
    const state = checks.length === 0 ? "none" : checks.every(Boolean) ? "good" : "bad";
    card.light.className = `light ${state}`;
    text(card.light, { none: "no SLO set", good: "✓ within SLO", bad: "✗ outside SLO" }[state]);
  }

  private showTable(load: number): void {
    const { hello } = this;
    const arms = hello.arms.length;
    const set = (name: string, column: number, value: string) => {
      const cell = this.cells.get(`${name} ${column}`);
      if (cell) text(cell, value);
    };
    text(this.cells.get("caption")!, `Now, over the last ${number(this.now?.window_s ?? 0).replace(/\.0+$/, "")} s, at a load of ${number(load).replace(/\.0+$/, "")}`);
    for (const { name, unit } of METRICS) {
      hello.arms.forEach((_, arm) => set(name, arm, quantity(this.history.last(arm, name), unit)));
      POLICIES.forEach((policy, index) => {
        const line = baseline(baselines, policy, name);
        const [mean, low, high] = [line.mean, line.low, line.high].map((column) => at(load, line.load, column));
        const interval = low === null || high === null ? "" : ` (${quantity(low, unit)}–${quantity(high, unit)})`;
        set(name, arms + index, mean === null ? "–" : quantity(mean, unit) + interval);
        const known = published(hello, policy, name);
        set(name, arms + 2 + index, quantity(at(load, known.load, known.value), unit));
      });
    }
  }

  private showRequests(arm: number): void {
    const rows = this.now!.arms[arm]!.last.slice(-8).reverse();
    const state = this.requests[arm]!;
    const key = rows.map((row) => row.id).join();
    // Buttons that are replaced under the pointer cannot be clicked.
    if (state.shown === key || state.body.matches(":hover, :focus-within")) return;
    state.shown = key;
    state.body.replaceChildren(...rows.map((row) => h("tr", {},
      h("th", { scope: "row", title: `turn ${row.turn} of conversation ${row.conversation}` }, String(row.id)),
      h("td", {}, row.worker === null ? "–" : String(row.worker)),
      h("td", {}, number(row.prompt_tokens)),
      h("td", {}, `${Math.round((100 * row.cached_tokens) / Math.max(1, row.prompt_tokens))} %`),
      h("td", {}, row.queue_ms === null ? "–" : `${number(row.queue_ms)} ms`),
      h("td", {}, row.end === "finished" ? `${number(row.ttft_ms)} ms` : row.end),
      h("td", {}, this.whyButton(arm, row.id)))));
  }

  private whyButton(arm: number, request: number): HTMLButtonElement {
    const button = h("button", { type: "button", class: "small", "aria-label": `Why did request ${request} go there?`, onclick: () => void this.why(arm, request) }, "Why?");
    if (this.hello.arms[arm]!.real && this.hello.cannot) disable(this.hello.cannot.replay, button);
    return button;
  }

  private showLog(now: Now): void {
    const key = `${now.moves} ${now.log.length}`;
    if (this.logged === key) return;
    this.logged = key;
    const lines = [...now.log].reverse();
    this.log.replaceChildren(...lines.map((line) => h("li", {}, h("span", { class: "quiet" }, clock(line.t)), " ",
      line.arm === null ? "" : `${this.hello.arms[line.arm]!.name}: `, line.words)));
  }

  private async why(arm: number, request: number): Promise<void> {
    const close = h("button", { type: "button", class: "primary", onclick: () => this.dialog.close() }, "Close");
    const words = h("pre", { tabindex: 0 }, "The session is simulated again up to now…");
    this.dialog.replaceChildren(h("h2", {}, `Why request ${request} went to its worker`), words, close);
    this.dialog.showModal();
    try {
      text(words, await read(`/api/explain?arm=${arm}&request=${request}`));
    } catch (error) {
      text(words, (error as Error).message);
    }
  }

  private setLoad(load: number): void {
    if (!Number.isFinite(load)) return;
    this.draggedAt = Date.now();
    this.loadInput.value = this.slider.value = String(load);
    clearTimeout(this.timer);
    const send = () => {
      this.sentAt = Date.now();
      void control(this.hello.load === "rate" ? { what: "rate", rate: load } : { what: "load", concurrency: Math.round(load) });
    };
    // Ten a second are enough, and the last one always counts.
    this.timer = window.setTimeout(send, Math.max(0, this.sentAt + 100 - Date.now()));
  }

  toggle(): void {
    void tell({ do: this.now?.paused ? "run" : "pause" });
  }

  private async copyLink(): Promise<void> {
    const state = JSON.parse(await read("/api/link")) as Link;
    history.replaceState(null, "", `#${await link.write(state)}`);
    try {
      await navigator.clipboard.writeText(location.href);
      say("The link is copied: it restores this session up to now");
    } catch {
      say("The address of this page is the link now");
    }
  }

  private async png(): Promise<void> {
    const charts = [{ title: `${metric(this.metric).label} over time`, chart: this.overTime as { canvas: () => HTMLCanvasElement | null } }, { title: `${metric(this.metric).label} by load`, chart: this.byLoad }, ...this.small.map((chart) => ({ title: metric(chart.name).label, chart }))];
    const arms = this.hello.arms.map((arm) => arm.name).join(", ");
    const blob = await picture(`${this.hello.name}: ${arms}, ${clock(this.now?.t ?? 0)}`, charts);
    if (blob) save(`${this.hello.name}.png`, blob);
  }

  private csv(): void {
    const table = this.history.csv(this.hello.arms.map((arm) => arm.name));
    save(`${this.hello.name}.csv`, new Blob([table], { type: "text/csv" }));
  }

  private async folder(): Promise<void> {
    say("The session is simulated again into a result folder…");
    try {
      const { folder, file } = await results();
      say(`Saved in ${folder}; the experiment is ${file}`);
    } catch (error) {
      say((error as Error).message);
    }
  }

  offerLink(state: Link): void {
    const hide = () => (this.offer.hidden = true);
    this.offer.replaceChildren(
      h("span", {}, `This link holds a session of ${state.moves.length} changes. Restoring it replaces what runs now, for everyone who watches.`),
      h("button", { type: "button", class: "primary", onclick: () => { hide(); void tell({ do: "restore", ...state }, "Restored"); } }, "Restore"),
      h("button", { type: "button", onclick: hide }, "Keep what runs"));
    this.offer.hidden = false;
  }
}

document.addEventListener("keydown", (event) => {
  const target = event.target as HTMLElement;
  if (target.closest("input, select, textarea, button, a, summary, dialog, [tabindex]") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === " ") page?.toggle();
  else if (event.key === ".") void tell({ do: "step", by: "1s" });
  else return;
  event.preventDefault();
});

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => page?.draw());

let offered = false;
listen({
  hello: (hello) => {
    page = new Page(hello);
    if (!offered) {
      offered = true;
      void link.read(location.hash).then((state) => state && page?.offerLink(state), () => say("The link in the address is broken"));
    }
  },
  frame: (frame) => page?.hear(frame),
  baselines: (found) => {
    baselines = found;
    page?.baselinesCame();
  },
  connected: (is) => {
    document.body.classList.toggle("lost", !is);
    if (page) say(is ? "" : "The connection is lost; trying again…");
  },
});
