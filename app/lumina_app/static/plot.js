// The way every chart is drawn: plotly.js from this server, the page's colours, and updates that keep the user's zoom.

let loading = null;

/** plotly.js, fetched once. */
function plotly() {
  loading ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = "/lumina/plotly.min.js";
    script.onload = () => resolve(window.Plotly);
    script.onerror = () => reject(new Error("plotly.js was not served"));
    document.head.append(script);
  });
  return loading;
}

/** The page's colours as they are now, light or dark. */
export function colours() {
  const style = getComputedStyle(document.body);
  const of = (name) => style.getPropertyValue(`--lm-${name}`).trim();
  const names = ["card", "line", "ink", "dim", "grid", "accent", "good", "warn", "bad", "second"];
  return Object.fromEntries(names.map((name) => [name, of(name)]));
}

export const isDark = () => document.body.classList.contains("dark");
export const isNarrow = () => window.matchMedia("(max-width: 700px)").matches;

export const axis = (paint, extra) => ({
  gridcolor: paint.grid,
  linecolor: paint.line,
  zeroline: false,
  ticks: "",
  ...extra,
});

export const legend = { orientation: "h", x: 1, xanchor: "right", y: 1.01, yanchor: "top", font: { size: 10.5 }, bgcolor: "rgba(0,0,0,0)" };

const CONFIG = {
  responsive: true,
  displaylogo: false,
  modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "toImage"],
};

/**
 * Draws or updates a chart. While `revision` stays the same, so do zoom, pan and hidden curves.
 * `element` is the chart's own <div>; `layout` is laid over the page's defaults.
 */
export async function draw(element, traces, layout, revision) {
  const paint = colours();
  const base = {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: "'IBM Plex Sans', system-ui, sans-serif", size: 11, color: paint.dim },
    hoverlabel: { bgcolor: paint.card, bordercolor: paint.line, font: { color: paint.ink, size: 11 } },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: paint.dim, activecolor: paint.accent, orientation: "v" },
    showlegend: false,
    uirevision: revision,
  };
  const Plotly = await plotly();
  if (element.isConnected) await Plotly.react(element, traces, { ...base, ...layout }, CONFIG);
}
