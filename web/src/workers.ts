// The workers of an arm: bars with the batch limit drawn in, or a heat strip where there
// are many.

import { colour } from "./charts";
import { h, text } from "./dom";
import { number } from "./format";
import type { ArmInfo, ArmView, WorkerView } from "./wire";

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
  private readonly add: HTMLButtonElement;
  private shown: ArmView | null = null;

  constructor(
    private readonly arm: ArmInfo,
    change: (change: Change) => void,
  ) {
    this.add = h("button", { type: "button", class: "small", onclick: () => this.start(change) }, "Add a worker");
    if (arm.workers > MOST_ROWS) {
      const which = h("input", { type: "number", min: 0, max: arm.limits.length - 1, value: 0, "aria-label": `Worker of ${arm.name}` });
      this.strip = h("canvas", { class: "strip", role: "img" });
      const one = chooser(`Change a worker of ${arm.name}`, (keys) => change({ ...keys, worker: Number(which.value) } as Change));
      this.element = h("div", {}, this.strip, this.note, h("div", { class: "row" }, h("label", { class: "row" }, "Worker ", which), one, this.add));
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
    );
  }

  private makeRow(id: number, change: (change: Change) => void): Row {
    const part = (name: string) => h("span", { class: name });
    const [running, waiting, limit, state] = [part("running"), part("waiting"), part("limit"), part("state")];
    const counts = h("span", { class: "counts" });
    const [kv, hits, queue] = [h("td"), h("td"), h("td")];
    const row = h(
      "tr",
      {},
      h("th", { scope: "row" }, String(id), state),
      h("td", { class: "wide" }, h("div", { class: "bar", title: "Running, waiting, and the batch limit" }, running, waiting, limit), counts),
      kv,
      hits,
      queue,
      h("td", {}, chooser(`Change worker ${id} of ${this.arm.name}`, (keys) => change({ ...keys, worker: id } as Change))),
    );
    return { row, state, running, waiting, limit, counts, kv, hits, queue };
  }

  private start(change: (change: Change) => void): void {
    const present = this.shown?.workers ?? [];
    const next = present.findIndex((worker, id) => !worker.present && id >= this.arm.workers);
    const down = next < 0 ? present.findIndex((worker) => !worker.present) : next;
    change({ what: "start", worker: down < 0 ? present.length : down });
  }

  update(view: ArmView, scale: number): void {
    this.shown = view;
    if (this.strip) return this.heat(this.strip, view);
    view.workers.forEach((worker, id) => {
      const row = this.rows[id];
      const limits = this.arm.limits[id];
      if (!row || !limits) return;
      // Room for workers that were never there is no row.
      const idle = worker.running + worker.waiting === 0;
      row.row.hidden = id >= this.arm.workers && !worker.present && idle;
      const full = worker.running + worker.waiting > limits.batch;
      row.row.classList.toggle("full", full);
      text(row.state, !worker.present ? " down" : full ? " full" : "");
      const width = (value: number) => `${((100 * value) / scale).toFixed(2)}%`;
      row.running.style.width = width(worker.running);
      row.waiting.style.width = width(worker.waiting);
      row.limit.style.left = width(limits.batch);
      text(row.counts, `${worker.running} + ${worker.waiting} of ${limits.batch}`);
      text(row.kv, `${((100 * worker.used_blocks) / limits.blocks).toFixed(0)} %`);
      text(row.hits, worker.hit_ratio === null ? "–" : `${(100 * worker.hit_ratio).toFixed(0)} %`);
      text(row.queue, worker.queue_ms === null ? "–" : `${number(worker.queue_ms)} ms`);
    });
  }

  private heat(canvas: HTMLCanvasElement, view: ArmView): void {
    const cell = 12;
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
    const [cold, hot, over, down] = [colour("line"), colour("arm-0"), colour("bad"), colour("card")];
    let full = 0;
    shown.forEach((worker: WorkerView, id) => {
      const batch = this.arm.limits[id]?.batch ?? 1;
      const use = (worker.running + worker.waiting) / batch;
      if (use > 1) full++;
      ctx.globalAlpha = 1;
      ctx.fillStyle = worker.present ? cold : down;
      const [x, y] = [(id % columns) * cell, Math.floor(id / columns) * cell];
      ctx.fillRect(x, y, cell - 1, cell - 1);
      ctx.globalAlpha = Math.min(1, use);
      ctx.fillStyle = use > 1 ? over : hot;
      ctx.fillRect(x, y, cell - 1, cell - 1);
    });
    ctx.globalAlpha = 1;
    const waiting = shown.reduce((sum, worker) => sum + worker.waiting, 0);
    const words = `${shown.length} workers, a square each: ${full} beyond their batch limit, ${waiting} requests waiting`;
    text(this.note, words);
    canvas.setAttribute("aria-label", words);
  }
}

/** The requests at a worker that fill a bar, for all arms alike. */
export function barScale(arms: ArmInfo[], views: ArmView[]): number {
  const most = views.flatMap((view) => view.workers.map((worker) => worker.running + worker.waiting));
  const limits = arms.flatMap((arm) => arm.limits.map((limit) => limit.batch));
  const batch = limits.reduce((a, b) => Math.max(a, b), 1);
  const queued = most.reduce((a, b) => Math.max(a, b), 0);
  return Math.max(batch < 1024 ? batch * 1.25 : 0, queued * 1.1, 8);
}
