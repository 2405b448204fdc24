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
