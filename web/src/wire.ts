// What the server sends and takes.

export interface WorkerLimits { pool: string; blocks: number; batch: number }
export interface ArmInfo { name: string; real: boolean; policy: string; workers: number; limits: WorkerLimits[] }
export interface ParameterInfo { name: string; doc: string; allowed: string }
export interface PolicyInfo { name: string; rule: string; parameters: ParameterInfo[] }
/** Why the page cannot do to real servers what it can do to simulated ones. */
export interface Cannot { time: string; workers: string; feed: string; replay: string }
export interface PublishedRow { load: number; policy: string; metrics: Record<string, number> }

export interface Hello {
  version: string;
  name: string;
  description: string;
  seed: number;
  seeds: number[];
  load: "concurrency" | "rate" | "fixed";
  loads: number[];
  first_load: number;
  series: string[];
  arms: ArmInfo[];
  /** Where an arm is real. */
  cannot: Cannot | null;
  slo: { ttft_ms: number | null; itl_ms: number | null; attainment: number } | null;
  policies: PolicyInfo[];
  published: { rows: PublishedRow[]; source: string[] } | null;
}

/** A worker: whether it is there (1) or not (0); requests in the batch, and waiting; blocks in use; queue in ms; hit ratio. */
export type WorkerView = [present: number, running: number, waiting: number, used_blocks: number, queue_ms: number | null, hit_ratio: number | null];

export interface RequestRow {
  id: number;
  conversation: number;
  turn: number;
  worker: number | null;
  prompt_tokens: number;
  cached_tokens: number;
  output_tokens: number;
  sent_s: number;
  queue_ms: number | null;
  ttft_ms: number | null;
  e2e_ms: number | null;
  end: string;
}

export interface ArmView {
  policy: string;
  parameters: Record<string, number | null>;
  feed_delay_ms: number;
  feed_loss_ratio: number;
  held: number;
  live: number;
  workers: WorkerView[];
  last: RequestRow[];
}

export interface LogLine { t: number; arm: number | null; what: string; words: string }

export interface Now {
  t: number;
  speed: number | null;
  paused: boolean;
  achieved: number;
  window_s: number;
  seed: number;
  pending: number;
  goal_s: number | null;
  end: string | null;
  log: LogLine[];
  moves: number;
  arms: ArmView[];
}

export interface Frame { now: Now; samples: { t: number; arms: (number | null)[][] }[] }

export interface BaselinePoint {
  load: number;
  policy: string;
  metrics: Record<string, [number, number | null, number | null]>;
}
export interface Baselines {
  points: BaselinePoint[];
  /** Why there are none. */
  why?: string;
  /** The result folder that they were read from. */
  from?: string;
}

export interface Link { seed: number; at: string; moves: unknown[] }

async function failure(response: Response): Promise<Error> {
  const text = await response.text();
  try {
    return new Error(JSON.parse(text).error);
  } catch {
    return new Error(text || response.statusText);
  }
}

async function post(path: string, body: unknown): Promise<unknown> {
  const headers = { "content-type": "application/json" };
  const response = await fetch(path, { method: "POST", headers, body: JSON.stringify(body) });
  if (!response.ok) throw await failure(response);
  return response.json();
}

/** Asks for something to be done; gives what some arms refused. */
export async function act(what: Record<string, unknown>): Promise<{ arm: number; why: string }[]> {
  const done = (await post("/api/do", what)) as { refused: { arm: number; why: string }[] };
  return done.refused;
}

export async function results(): Promise<{ folder: string; file: string; digest: string }> {
  return (await post("/api/results", {})) as { folder: string; file: string; digest: string };
}

export async function read(path: string): Promise<string> {
  const response = await fetch(path);
  if (!response.ok) throw await failure(response);
  return response.text();
}

/** Hears the session, and hears it again after the connection was lost. */
export function listen(heard: {
  hello(hello: Hello): void;
  frame(frame: Frame): void;
  baselines(baselines: Baselines): void;
  connected(is: boolean): void;
}): void {
  const source = new EventSource("/api/events");
  const on = <T>(name: string, then: (data: T) => void) =>
    source.addEventListener(name, (event) => then(JSON.parse((event as MessageEvent).data)));
  on<Hello>("hello", heard.hello);
  on<Frame>("frame", heard.frame);
  on<Baselines>("baselines", heard.baselines);
  source.onopen = () => heard.connected(true);
  source.onerror = () => heard.connected(false);
}
