// The metrics that the page shows.

import type { Unit } from "./format";
import type { Baselines, Hello } from "./wire";

export interface Metric { name: string; label: string; unit: Unit; title: string }

export const METRICS: Metric[] = [
  { name: "ttft_ms_p50", label: "TTFT p50", unit: "ms", title: "Median time to the first token" },
  { name: "ttft_ms_p95", label: "TTFT p95", unit: "ms", title: "95th percentile of the time to the first token" },
  { name: "itl_ms_p50", label: "ITL p50", unit: "ms", title: "Inter-token latency: median over requests of their mean time between tokens; others call it TPOT" },
  { name: "itl_ms_p95", label: "ITL p95", unit: "ms", title: "95th percentile over requests of their mean time between tokens; others call it TPOT" },
  { name: "inter_token_ms_p50", label: "Token gap p50", unit: "ms", title: "Median of every time between two tokens of a request" },
  { name: "inter_token_ms_p95", label: "Token gap p95", unit: "ms", title: "95th percentile of every time between two tokens of a request" },
  { name: "e2e_ms_p50", label: "End to end p50", unit: "ms", title: "Median time to the last token" },
  { name: "e2e_ms_p95", label: "End to end p95", unit: "ms", title: "95th percentile of the time to the last token" },
  { name: "requests_per_s", label: "Requests/s", unit: "/s", title: "Requests finished a second" },
  { name: "output_tokens_per_s", label: "Tokens/s", unit: "/s", title: "Output tokens a second" },
  { name: "hit_ratio", label: "Hit ratio %", unit: "%", title: "Cached prompt tokens over all prompt tokens" },
  { name: "error_ratio", label: "Errors %", unit: "%", title: "Requests that ended without an answer" },
  { name: "queue_ms_worst", label: "Longest queue", unit: "ms", title: "Mean time from dispatch to the first batch, at the worker where it is longest" },
];

export const metric = (name: string): Metric => METRICS.find((one) => one.name === name) ?? METRICS[1]!;

export interface Line { load: number[]; mean: number[]; low: (number | null)[]; high: (number | null)[] }

/** A policy's baseline of a metric, in order of load. */
export function baseline(baselines: Baselines | null, policy: string, name: string): Line {
  const line: Line = { load: [], mean: [], low: [], high: [] };
  const points = (baselines?.points ?? []).filter((point) => point.policy === policy && point.metrics[name]);
  for (const point of points.sort((a, b) => a.load - b.load)) {
    const [mean, low, high] = point.metrics[name]!;
    line.load.push(point.load);
    line.mean.push(mean);
    line.low.push(low);
    line.high.push(high);
  }
  return line;
}

/** The value of a line at a load, between its levels. Nothing beyond them. */
export function at(load: number, loads: number[], values: (number | null)[]): number | null {
  for (let next = 0; next < loads.length; next++) {
    if (loads[next] === load) return values[next] ?? null;
    if (next > 0 && loads[next - 1]! < load && load < loads[next]!) {
      const [low, high] = [values[next - 1] ?? null, values[next] ?? null];
      if (low === null || high === null) return null;
      const share = (load - loads[next - 1]!) / (loads[next]! - loads[next - 1]!);
      return low + share * (high - low);
    }
  }
  return null;
}

/** Published values of a policy, in order of load. */
export function published(hello: Hello, policy: string, name: string): { load: number[]; value: number[] } {
  const rows = (hello.published?.rows ?? []).filter((row) => row.policy === policy && name in row.metrics);
  rows.sort((a, b) => a.load - b.load);
  return { load: rows.map((row) => row.load), value: rows.map((row) => row.metrics[name]!) };
}
