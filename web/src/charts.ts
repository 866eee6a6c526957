// The lines: over time, and by load.

import uPlot from "uplot";
import { clock, number, ticks } from "./format";
import { at, baseline, metric, published } from "./metrics";
import type { Baselines, Frame, Hello } from "./wire";

/** A colour of the style sheet, as it is now: light or dark. */
export function colour(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

export const armColour = (arm: number): string => colour(`arm-${arm % 6}`);

/** Values over time, arm by arm, in columns. */
export class History {
  t: number[] = [];
  private columns: (number | null)[][][];
  private readonly series: string[];

  constructor(hello: Hello) {
    this.series = hello.series;
    this.columns = hello.arms.map(() => hello.series.map(() => []));
  }

  add(samples: Frame["samples"]): void {
    for (const sample of samples) {
      // Two samples of one moment: the later one holds.
      const same = this.t[this.t.length - 1] === sample.t;
      if (same) this.t.pop();
      this.t.push(sample.t);
      sample.arms.forEach((values, arm) =>
        values.forEach((value, index) => {
          const column = this.columns[arm]![index]!;
          if (same) column.pop();
          column.push(value);
        }),
      );
    }
    const extra = this.t.length - 4000;
    if (extra > 0) {
      this.t.splice(0, extra);
      this.columns.flat().forEach((column) => column.splice(0, extra));
    }
  }

  column(arm: number, name: string): (number | null)[] {
    return this.columns[arm]?.[this.series.indexOf(name)] ?? [];
  }

  last(arm: number, name: string): number | null {
    const column = this.column(arm, name);
    return column[column.length - 1] ?? null;
  }

  /** Everything, a row per moment. */
  csv(arms: string[]): string {
    const quoted = (text: string) => `"${text.replaceAll('"', '""')}"`;
    const head = ["t_s", ...arms.flatMap((arm) => this.series.map((name) => quoted(`${arm} ${name}`)))];
    const rows = this.t.map((t, row) => [t, ...this.columns.flatMap((arm) => arm.map((column) => column[row] ?? ""))]);
    return [head, ...rows].map((row) => row.join(",")).join("\n") + "\n";
  }
}

const axis = (): uPlot.Axis => ({
  stroke: colour("quiet"),
  grid: { stroke: colour("line"), width: 1 },
  ticks: { stroke: colour("line"), width: 1, size: 4 },
  font: "12px system-ui, sans-serif",
  gap: 4,
});

/** A value axis that begins at 0. */
const values = (): uPlot.Axis => ({ ...axis(), size: 52, values: (_, all) => ticks(all) });

const fromZero: uPlot.Scale.Range = (_, _low, high) => [0, !high ? 1 : high * 1.08];

abstract class Chart {
  protected plot: uPlot | null = null;
  readonly canvas: () => HTMLCanvasElement | null = () => this.plot?.root.querySelector("canvas") ?? null;

  constructor(
    readonly place: HTMLElement,
    protected readonly height: number,
  ) {
    place.setAttribute("role", "img");
    new ResizeObserver(() => this.plot?.setSize({ width: place.clientWidth, height })).observe(place);
  }

  protected draw(options: Omit<uPlot.Options, "width" | "height">, data: uPlot.AlignedData): void {
    this.plot?.destroy();
    const size = { width: Math.max(200, this.place.clientWidth), height: this.height };
    const common = { legend: { show: false }, cursor: { y: false, points: { size: 6 } } };
    this.plot = new uPlot({ ...size, ...common, padding: [8, 26, 0, 0], ...options }, data, this.place);
  }
}

/** One metric of all arms over time, with a target if there is one. */
export class OverTime extends Chart {
  private target: number | null = null;
  private moves: { t: number; what: string }[] = [];
  name = "";

  show(hello: Hello, history: History, name: string): void {
    this.name = name;
    const percent = metric(name).unit === "%";
    const series: uPlot.Series[] = [{}];
    for (let arm = 0; arm < hello.arms.length; arm++) {
      series.push({ stroke: armColour(arm), width: 2, dash: DASHES[arm % DASHES.length], points: { show: false } });
    }
    const y = values();
    if (percent) y.values = (_, all) => all.map((value) => `${Math.round(100 * value)}`);
    this.draw(
      {
        series,
        scales: { x: { time: false }, y: { range: fromZero } },
        axes: [{ ...axis(), size: 30, space: 70, values: (_, all) => all.map(clock) }, y],
        hooks: { draw: [(plot) => this.marks(plot)] },
      },
      this.data(hello, history),
    );
  }

  private data(hello: Hello, history: History): uPlot.AlignedData {
    const from = Math.max(0, history.t.length - 900);
    return [
      history.t.slice(from),
      ...hello.arms.map((_, arm) => history.column(arm, this.name).slice(from)),
    ] as uPlot.AlignedData;
  }

  update(hello: Hello, history: History, target: number | null, moves: { t: number; what: string }[]): void {
    (this.target = target), (this.moves = moves);
    this.plot?.setData(this.data(hello, history));
    const now = hello.arms.map((arm, index) => `${arm.name} ${number(history.last(index, this.name))}`);
    this.place.setAttribute("aria-label", `${metric(this.name).label} over time; now ${now.join(", ")}`);
  }

  private marks(plot: uPlot): void {
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.lineWidth = devicePixelRatio;
    ctx.strokeStyle = colour("quiet");
    ctx.globalAlpha = 0.6;
    const { min = 0, max = 0 } = plot.scales.x as { min?: number; max?: number };
    for (const { t, what } of this.moves) {
      if (t < min || t > max) continue;
      const x = plot.valToPos(t, "x", true);
      ctx.setLineDash(what === "load" ? [2, 4] : [6, 3]);
      line(ctx, x, bbox.top, x, bbox.top + bbox.height);
    }
    if (this.target !== null) {
      const y = plot.valToPos(this.target, "y", true);
      if (y >= bbox.top) {
        ctx.globalAlpha = 1;
        ctx.strokeStyle = colour("bad");
        ctx.setLineDash([8, 4]);
        line(ctx, bbox.left, y, bbox.left + bbox.width, y);
      }
    }
    ctx.restore();
  }
}

const DASHES: (number[] | undefined)[] = [undefined, [8, 4], [2, 3], [10, 3, 2, 3], [4, 4], [12, 6]];

function line(ctx: CanvasRenderingContext2D, x0: number, y0: number, x1: number, y1: number): void {
  ctx.beginPath();
  ctx.moveTo(x0, y0);
  ctx.lineTo(x1, y1);
  ctx.stroke();
}

/** The baselines of the experiment by load, published values, and where the arms are now. */
export class ByLoad extends Chart {
  private points: { load: number; value: number | null; arm: number }[] = [];
  private hollow: { load: number; value: number; policy: string }[] = [];
  name = "";

  show(hello: Hello, baselines: Baselines | null, name: string): void {
    this.name = name;
    const lines = POLICIES.map((policy) => baseline(baselines, policy, name));
    this.hollow = POLICIES.flatMap((policy) => {
      const { load, value } = published(hello, policy, name);
      return load.map((load, at) => ({ load, value: value[at]!, policy }));
    });
    const loads = [...new Set([...hello.loads, ...lines.flatMap((line) => line.load)])].sort((a, b) => a - b);
    const data: (number | null)[][] = [loads];
    const series: uPlot.Series[] = [{}];
    const bands: uPlot.Band[] = [];
    lines.forEach((one, policy) => {
      const stroke = colour(`base-${policy}`);
      data.push(...[one.mean, one.high, one.low].map((column) => loads.map((load) => at(load, one.load, column))));
      const edge = { stroke: "transparent", points: { show: false } };
      series.push({ stroke, width: 2, dash: DASHES[policy], points: { show: false } }, edge, edge);
      const first = 1 + 3 * policy;
      bands.push({ series: [first + 1, first + 2], fill: `color-mix(in srgb, ${stroke} 18%, transparent)` });
    });
    const y = values();
    if (metric(name).unit === "%") y.values = (_, all) => all.map((value) => `${Math.round(100 * value)}`);
    this.draw(
      {
        series,
        bands,
        scales: {
          x: { time: false, range: (_, low, high) => this.reach(low, high) },
          y: { range: (_, _low, high) => [0, Math.max(1e-3, high ?? 0, ...this.hollow.map((one) => one.value), ...this.points.map((one) => one.value ?? 0)) * 1.08] },
        },
        axes: [{ ...axis(), size: 30, space: 48, values: (_, all) => ticks(all) }, y],
        hooks: { draw: [(plot) => this.marks(plot)] },
      },
      data as unknown as uPlot.AlignedData,
    );
  }

  private reach(low: number, high: number): [number, number] {
    const now = this.points.map((point) => point.load);
    const [from, to] = [Math.min(low, ...now), Math.max(high, ...now)];
    const edge = (to - from || 1) * 0.04;
    return [Math.max(0, from - edge), to + edge];
  }

  update(hello: Hello, history: History): void {
    this.points = hello.arms.map((_, arm) => ({
      load: history.last(arm, "load") ?? 0,
      value: history.last(arm, this.name),
      arm,
    }));
    this.plot?.setData(this.plot.data);
    const now = hello.arms.map((arm, index) => `${arm.name} ${number(this.points[index]?.value)}`);
    this.place.setAttribute("aria-label", `${metric(this.name).label} by load; now ${now.join(", ")} at ${number(this.points[0]?.load)}`);
  }

  private marks(plot: uPlot): void {
    const { ctx } = plot;
    const dot = (load: number, value: number, radius: number, fill: string | null, stroke: string) => {
      ctx.beginPath();
      ctx.arc(plot.valToPos(load, "x", true), plot.valToPos(value, "y", true), radius * devicePixelRatio, 0, 7);
      if (fill) (ctx.fillStyle = fill), ctx.fill();
      ctx.strokeStyle = stroke;
      ctx.lineWidth = 1.5 * devicePixelRatio;
      ctx.stroke();
    };
    ctx.save();
    for (const { load, value, policy } of this.hollow) dot(load, value, 4, colour("card"), colour(`base-${POLICIES.indexOf(policy)}`));
    for (const { load, value, arm } of this.points) if (value !== null) dot(load, value, 7, armColour(arm), colour("text"));
    ctx.restore();
  }
}

/** The policies of baselines. */
export const POLICIES = ["round_robin", "kv"];

/** All charts below each other, with their titles, as one picture. */
export function picture(title: string, charts: { title: string; chart: { canvas: () => HTMLCanvasElement | null } }[]): Promise<Blob | null> {
  const scale = devicePixelRatio;
  const shown = charts.flatMap(({ title, chart }) => {
    const canvas = chart.canvas();
    return canvas ? [{ title, canvas }] : [];
  });
  const sheet = document.createElement("canvas");
  const head = 28 * scale;
  sheet.width = Math.max(...shown.map(({ canvas }) => canvas.width), 400) + 24 * scale;
  sheet.height = shown.reduce((sum, { canvas }) => sum + canvas.height + head, head + 12 * scale);
  const ctx = sheet.getContext("2d")!;
  ctx.fillStyle = colour("card");
  ctx.fillRect(0, 0, sheet.width, sheet.height);
  ctx.fillStyle = colour("text");
  ctx.font = `600 ${14 * scale}px system-ui, sans-serif`;
  ctx.fillText(title, 12 * scale, 20 * scale);
  let y = head;
  for (const { title, canvas } of shown) {
    ctx.font = `${12 * scale}px system-ui, sans-serif`;
    ctx.fillText(title, 12 * scale, y + 18 * scale);
    ctx.drawImage(canvas, 12 * scale, y + head);
    y += canvas.height + head;
  }
  return new Promise((done) => sheet.toBlob(done, "image/png"));
}
