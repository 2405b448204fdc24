// What a rehearsal found, in a sentence. The dashboard and the notebook say it alike.

const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(4)}`;
const WORDS = {
  lower: "the loss is lower with it", higher: "the loss is higher with it",
  "no difference": "no difference beyond the noise", "too few steps": "too few steps to tell",
};

/** "−0.0120 [−0.0210, −0.0031] over 50 steps: the loss is lower with it" */
export function verdict({ difference }) {
  if (!difference) return "nothing to compare yet";
  const { mean, low, high, steps } = difference;
  const interval = low === null ? "" : ` [${signed(low)}, ${signed(high)}]`;
  return `${signed(mean)}${interval} over ${steps} step${steps === 1 ? "" : "s"}: ${WORDS[difference.verdict] ?? difference.verdict}`;
}

/** How a rehearsal stands in words; "" where its curves say enough. */
export function rehearsalNote({ error, state, why, paused }) {
  if (error || ["failed", "crashed", "stopped"].includes(state)) return error ?? `The rehearsal ${state}.`;
  if (!why) return "It is being prepared.";
  if (state !== "running") return "";
  return paused ? `The run is paused meanwhile: ${why}.` : `The run goes on meanwhile: ${why}.`;
}

/** The receipt by which what was rehearsed has been applied since, or null. */
export function appliedSince({ method, args, from_step }, receipts) {
  const same = (other) => Object.keys({ ...args, ...other }).every((name) => Number(args[name]) === Number(other?.[name]));
  return receipts.find((receipt) =>
    receipt.kind !== "undo" && receipt.state === "verified" && receipt.method === method && receipt.step >= from_step && same(receipt.args)) ?? null;
}
