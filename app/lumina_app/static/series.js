// Arithmetic on series {step: [...], value: [...]}; null marks a value that was not finite.

/** The last finite value, or null. */
export function latest(series) {
  const values = series?.value ?? [];
  for (let i = values.length - 1; i >= 0; i--) if (values[i] !== null) return values[i];
  return null;
}

/** How many steps the smooth curve looks back: about a fiftieth of the run, in round numbers. */
export function horizonOf(series) {
  const steps = series?.step ?? [];
  const span = steps.length ? steps[steps.length - 1] - steps[0] : 0;
  return [5, 10, 20, 50, 100, 200, 500, 1000].find((horizon) => horizon * 50 >= span) ?? 2000;
}

/**
 * The series in steps as wide as at its beginning. What the server thinned out has means there and every point since;
 * the same means of those keep the noise from seeming to begin where the page was opened.
 */
export function evenly(series) {
  const { step, value } = series;
  const width = step.length > 3 ? step[2] - step[1] : 1;
  if (width <= 1) return series;
  const found = { step: [], value: [] };
  for (let from = 0, to = 0; from < step.length; from = to) {
    while (to < step.length && step[to] < step[from] + width) to += 1;
    const kept = value.slice(from, to).filter((v) => v !== null);
    found.step.push(step[to - 1]);
    found.value.push(kept.length ? kept.reduce((sum, v) => sum + v, 0) / kept.length : null);
  }
  return found;
}

/**
 * Exponential mean over about `horizon` steps, or a quarter of those so far: a curve that falls fast at first is not
 * left behind. Weighted by the distance in steps, not by the number of points, so that a thinned-out series gives the
 * same curve as a full one.
 */
export function smooth(series, horizon) {
  const { step, value } = series;
  let mean = null;
  let last = null;
  return value.map((v, i) => {
    if (v === null) return null;
    const back = Math.min(horizon, Math.max(1, (step[i] - step[0]) / 4));
    const keep = mean === null ? 0 : Math.exp(-(step[i] - last) / back);
    mean = keep * (mean ?? 0) + (1 - keep) * v;
    last = step[i];
    return mean;
  });
}

/** A range that shows the curve: from the lowest value to the `share` quantile, so that a first spike hides nothing. */
export function rangeOf(values, share = 0.985) {
  const sorted = values.filter((v) => v !== null).sort((a, b) => a - b);
  if (!sorted.length) return null;
  const low = sorted[0];
  const high = sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];
  return { low, high: high > low ? high : low + 1, top: sorted[sorted.length - 1] };
}

/** Appends the points of `more` to `series`, in place. */
export function append(series, more) {
  for (let i = 0; i < more.step.length; i++) {
    series.step.push(more.step[i]);
    series.value.push(more.value[i]);
  }
}
