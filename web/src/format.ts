// Numbers and times for people.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });

/** For an axis: all of it short, where some of it would be long. */
export function ticks(values: (number | null)[]): string[] {
  const long = values.some((value) => value !== null && Math.abs(value) >= 10_000);
  const tick = (value: number) => (long ? compact.format(value) : number(value).replace(/\.0+$/, ""));
  return values.map((value) => (value === null ? "" : tick(value)));
}

export type Unit = "ms" | "/s" | "%" | "";

/** Three digits that matter. */
export function number(value: number | null | undefined): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size >= 100_000) return compact.format(value);
  if (size >= 100) return whole.format(value);
  return value.toFixed(size >= 10 ? 1 : 2);
}

export function quantity(value: number | null | undefined, unit: Unit): string {
  if (unit === "%") return value === null || value === undefined ? "–" : `${(100 * value).toFixed(1)}`;
  return number(value);
}

/** h:mm:ss of the simulation. */
export function clock(seconds: number): string {
  const s = Math.floor(seconds);
  const two = (n: number) => String(n).padStart(2, "0");
  const hours = Math.floor(s / 3600);
  return `${hours}:${two(Math.floor(s / 60) % 60)}:${two(s % 60)}`;
}

export function times(speed: number): string {
  return `${speed >= 10 ? whole.format(speed) : speed.toFixed(1)}×`;
}
