// The workers of an arm: bars with the batch limit drawn in, or a heat strip where there
// are many.

import { colour } from "./charts";
import { disable, h, text } from "./dom";
import { number } from "./format";
import type { ArmInfo, ArmView, WorkerLimits, WorkerView } from "./wire";

/** Pixels of a square of the strip. */
const CELL = 12;

/** More workers than this are a heat strip. */
const MOST_ROWS = 24;

export type Change = { what: string; worker: number; [key: string]: unknown };

const CHANGES: { label: string; keys: Omit<Change, "worker"> }[] = [
  { label: "Crash", keys: { what: "crash" } },
  { label: "Crash, back after 60 s", keys: { what: "crash", restart_after: "60s" } },
  { label: "Drain", keys: { what: "drain" } },
  { label: "Slow down to half", keys: { what: "slow", factor: 2 } },
  { label: "Back to full pace", keys: { what: "slow", factor: 1 } },
  { label: "Start", keys: { what: "start" } },
];

function chooser(label: string, change: (keys: Omit<Change, "worker">) => void): HTMLSelectElement {
  const select = h("select", { "aria-label": label, class: "change" }, h("option", { value: "" }, "Change…"));
  CHANGES.forEach(({ label }, index) => select.append(h("option", { value: index }, label)));
  select.addEventListener("change", () => {
    const chosen = CHANGES[Number(select.value)];
    if (select.value !== "" && chosen) change(chosen.keys);
    select.value = "";
  });
  return select;
}

interface Row {
  row: HTMLTableRowElement;
  state: HTMLElement;
  running: HTMLElement;
  waiting: HTMLElement;
  limit: HTMLElement;
  counts: HTMLElement;
  kv: HTMLElement;
  hits: HTMLElement;
  queue: HTMLElement;
}

export class Workers {
  readonly element: HTMLElement;
  private readonly rows: Row[] = [];
  private readonly strip: HTMLCanvasElement | null = null;
  private readonly note = h("p", { class: "quiet" });
  private readonly one = h("p", {});
  private which: HTMLInputElement | null = null;
  private columns = 1;
  private readonly add: HTMLButtonElement;
  private shown: ArmView | null = null;

  constructor(
    private readonly arm: ArmInfo,
    change: (change: Change) => void,
    private readonly cannot: string | null,
  ) {
    this.add = h("button", { type: "button", class: "small", onclick: () => this.start(change) }, "Add a worker");
    if (cannot) disable(cannot, this.add);
    if (arm.workers > MOST_ROWS) {
      const which = h("input", { type: "number", min: 0, max: arm.limits.length - 1, value: 0, "aria-label": `Worker of ${arm.name}` });
      this.strip = h("canvas", { class: "strip", role: "img" });
      const one = chooser(`Change a worker of ${arm.name}`, (keys) => change({ ...keys, worker: Number(which.value) } as Change));
      if (cannot) disable(cannot, which, one);
      which.addEventListener("input", () => this.shown && this.showOne(this.shown));
      this.which = which;
      // What the keyboard does with the number, a pointer does with the square.
      this.strip.addEventListener("click", (event) => {
        const id = Math.floor(event.offsetY / CELL) * this.columns + Math.floor(event.offsetX / CELL);
        if (id >= arm.workers) return;
        which.value = String(id);
        if (this.shown) this.showOne(this.shown);
      });
      this.element = h("div", {}, this.strip, this.note, this.one, h("div", { class: "row" }, h("label", { class: "row" }, "Worker ", which), one, this.add), cannot && h("p", { class: "quiet" }, `Greyed out: ${cannot}.`));
      return;
    }
    const head = ["Worker", "Batch and queue", "KV", "Hits", "Queue", ""];
    const body = h("tbody");
    arm.limits.forEach((_, id) => {
      const row = this.makeRow(id, change);
      this.rows.push(row);
      body.append(row.row);
    });
    const columns = head.map((title) => h("th", { scope: "col" }, title || h("span", { class: "hidden" }, "Change")));
    this.element = h(
      "div",
      {},
      h("div", { class: "scroll" }, h("table", { class: "workers" }, h("caption", { class: "hidden" }, `Workers of ${arm.name}`), h("thead", {}, h("tr", {}, ...columns)), body)),
      h("div", { class: "row" }, this.add, this.note),
      cannot && h("p", { class: "quiet" }, `Greyed out: ${cannot}.`),
    );
  }

  private makeRow(id: number, change: (change: Change) => void): Row {
    const part = (name: string) => h("span", { class: name });
    const [running, waiting, limit, state] = [part("running"), part("waiting"), part("limit"), part("state")];
    const counts = h("span", { class: "counts" });
    const one = chooser(`Change worker ${id} of ${this.arm.name}`, (keys) => change({ ...keys, worker: id } as Change));
    if (this.cannot) disable(this.cannot, one);
    const [kv, hits, queue] = [h("td"), h("td"), h("td")];
    const row = h(
      "tr",
      {},
      h("th", { scope: "row" }, String(id), state),
      h("td", { class: "wide" }, h("div", { class: "bar", title: "Running, waiting, and the batch limit" }, running, waiting, limit), counts),
      kv,
      hits,
      queue,
      h("td", {}, one),
    );
    return { row, state, running, waiting, limit, counts, kv, hits, queue };
  }

  private start(change: (change: Change) => void): void {
    const present = this.shown?.workers ?? [];
    const next = present.findIndex(([is], id) => !is && id >= this.arm.workers);
    const down = next < 0 ? present.findIndex(([is]) => !is) : next;
    change({ what: "start", worker: down < 0 ? present.length : down });
  }

  update(view: ArmView, scale: number): void {
    this.shown = view;
    if (this.strip) return this.heat(this.strip, view);
    view.workers.forEach((worker, id) => {
      const row = this.rows[id];
      const limits = this.arm.limits[id];
      if (!row || !limits) return;
      const [present, running, waiting] = worker;
      // Room for workers that were never there is no row.
      row.row.hidden = id >= this.arm.workers && !present && running + waiting === 0;
      const full = running + waiting > limits.batch;
      row.row.classList.toggle("full", full);
      text(row.state, !present ? " down" : full ? " full" : "");
      const width = (value: number) => `${((100 * value) / scale).toFixed(2)}%`;
      row.running.style.width = width(running);
      row.waiting.style.width = width(waiting);
      row.limit.style.left = width(limits.batch);
      const { counts, kv, hits, queue } = words(worker, limits);
      text(row.counts, counts);
      text(row.kv, kv);
      text(row.hits, hits);
      text(row.queue, queue);
    });
  }

  /** The worker that is chosen, of a strip. */
  private showOne(view: ArmView): void {
    const id = Number(this.which?.value);
    const [worker, limits] = [view.workers[id], this.arm.limits[id]];
    if (!worker || !limits) return text(this.one, "");
    const { counts, kv, hits, queue } = words(worker, limits);
    text(this.one, `Worker ${id}${worker[0] ? "" : " (down)"}: ${counts}, KV ${kv}, hits ${hits}, queue ${queue}`);
  }

  private heat(canvas: HTMLCanvasElement, view: ArmView): void {
    const cell = CELL;
    const width = canvas.parentElement?.clientWidth ?? 300;
    const columns = Math.max(1, Math.floor(width / cell));
    const shown = view.workers.slice(0, this.arm.workers);
    const rows = Math.ceil(shown.length / columns);
    const scale = devicePixelRatio;
    if (canvas.width !== columns * cell * scale || canvas.height !== rows * cell * scale) {
      canvas.width = columns * cell * scale;
      canvas.height = rows * cell * scale;
      canvas.style.height = `${rows * cell}px`;
      canvas.style.width = `${columns * cell}px`;
    }
    const ctx = canvas.getContext("2d")!;
    ctx.setTransform(scale, 0, 0, scale, 0, 0);
    ctx.clearRect(0, 0, columns * cell, rows * cell);
    const own = getComputedStyle(canvas).getPropertyValue("--arm").trim();
    const [cold, hot, over, down] = [colour("line"), own || colour("arm-0"), colour("bad"), colour("card")];
    let [full, waiting] = [0, 0];
    shown.forEach(([present, running, queued], id) => {
      const batch = this.arm.limits[id]?.batch ?? 1;
      const use = (running + queued) / batch;
      if (use > 1) full++;
      waiting += queued;
      ctx.globalAlpha = 1;
      ctx.fillStyle = present ? cold : down;
      const [x, y] = [(id % columns) * cell, Math.floor(id / columns) * cell];
      ctx.fillRect(x, y, cell - 1, cell - 1);
      ctx.globalAlpha = Math.min(1, use);
      ctx.fillStyle = use > 1 ? over : hot;
      ctx.fillRect(x, y, cell - 1, cell - 1);
    });
    ctx.globalAlpha = 1;
    const said = `${shown.length} workers, a square each: ${full} beyond their batch limit, ${waiting} requests waiting`;
    text(this.note, said);
    canvas.setAttribute("aria-label", said);
    this.columns = columns;
    this.showOne(view);
  }
}

/** What a worker shows, in words. */
function words([, running, waiting, blocks, queue, hits]: WorkerView, limits: WorkerLimits): { counts: string; kv: string; hits: string; queue: string } {
  return {
    counts: `${running} + ${waiting} of ${limits.batch}`,
    kv: `${((100 * blocks) / limits.blocks).toFixed(0)} %`,
    hits: hits === null ? "–" : `${(100 * hits).toFixed(0)} %`,
    queue: queue === null ? "–" : `${number(queue)} ms`,
  };
}

/** The requests at a worker that fill a bar, for all arms alike. */
export function barScale(arms: ArmInfo[], views: ArmView[]): number {
  const most = views.flatMap((view) => view.workers.map(([, running, waiting]) => running + waiting));
  const limits = arms.flatMap((arm) => arm.limits.map((limit) => limit.batch));
  const batch = limits.reduce((a, b) => Math.max(a, b), 1);
  const queued = most.reduce((a, b) => Math.max(a, b), 0);
  return Math.max(batch < 1024 ? batch * 1.25 : 0, queued * 1.1, 8);
}
