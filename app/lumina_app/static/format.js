// Numbers, times and names as a person reads them. Knows nothing of runs or pages.

export const NOTHING = "–";

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

/** 1.931; small values as 1.7e-4, large ones as 42.1k. */
export function number(value, digits = 3) {
  if (!isNumber(value)) return NOTHING;
  const size = Math.abs(value);
  if (size >= 1e4) return compact(value);
  if (size > 0 && size < 10 ** -digits) return value.toExponential(1);
  return value.toFixed(digits);
}

/** 20.67B, 3.1M, 42.1k, 950. */
export function compact(value) {
  if (!isNumber(value)) return NOTHING;
  const size = Math.abs(value);
  if (size >= 1e12) return `${(value / 1e12).toFixed(2)}T`;
  if (size >= 1e9) return `${(value / 1e9).toFixed(2)}B`;
  if (size >= 1e6) return `${(value / 1e6).toFixed(2)}M`;
  if (size >= 1e4) return `${(value / 1e3).toFixed(1)}k`;
  return Math.round(value).toLocaleString("en");
}

/** A value of any size with up to four significant digits: 1.4, 0.0003, 2.5e-7; other things as text. */
export function plain(value) {
  if (Array.isArray(value)) return value.length ? value.map(plain).join(", ") : "none";
  if (value && typeof value === "object") return Object.entries(value).map(([key, part]) => `${key} ${plain(part)}`).join(", ");
  if (!isNumber(value)) return value === null || value === undefined ? NOTHING : String(value);
  if (Number.isInteger(value) && Math.abs(value) < 1e15) return value.toLocaleString("en");
  const size = Math.abs(value);
  return size < 1e-4 || size >= 1e6 ? value.toExponential(2) : String(Number(value.toPrecision(4)));
}

export const scientific = (value) => (isNumber(value) && value !== 0 ? value.toExponential(1) : isNumber(value) ? "0" : NOTHING);

export const integer = (value) => (isNumber(value) ? Math.round(value).toLocaleString("en") : NOTHING);

/** 0.834 → "83.4%". */
export const percent = (fraction, digits = 1) => (isNumber(fraction) ? `${(100 * fraction).toFixed(digits)}%` : NOTHING);

/** Seconds → "40 s", "12 min", "3.4 h", "2.1 d". */
export function duration(seconds) {
  if (!isNumber(seconds) || seconds < 0) return NOTHING;
  if (seconds < 100) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${(seconds / 3600).toFixed(1)} h` : `${(seconds / 86400).toFixed(1)} d`;
}

/** {temperature: 1.4} → "temperature 1.4". */
export const words = (values) => Object.entries(values ?? {}).map(([name, value]) => `${name} ${plain(value)}`).join(", ");
