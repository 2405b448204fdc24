// The notebook's live view of one run: shows the documents that Python hands on from `lumina.views.live`, and sends
// back what is clicked. It must not know how a run is stored, and puts stored text into the page as text, never markup.

const AUTONOMY = { observe: "observing", ask: "supervised", auto: "autonomous" };
const MOST_POINTS = 6000; // then the whole line is asked for again, thinned by the store
const MOST_EVENTS = 100;
const SILENCE_MS = 10000;
const PATIENCE_MS = 4000; // before a page that has heard nothing yet says so

const fresh = () => Math.random().toString(36).slice(2);

// What has been told so far

class Story {
  constructor() {
    this.series = {};
    this.events = [];
    this.doc = null;
    this.overlay = null; // {name, step, value} of the replay to compare with
    this.trouble = null;
  }

  /** `news` is everything when it is `full`, else what has changed. */
  take({ full, series, events, ...news }) {
    if (full || !this.doc) Object.assign(this, { series: {}, events: [] });
    for (const [name, { step, value }] of Object.entries(series)) {
      const known = (this.series[name] ??= { step: [], value: [] });
      known.step.push(...step);
      known.value.push(...value);
    }
    const seen = new Set(this.events.map((event) => event.id));
    const unseen = events.filter((event) => !seen.has(event.id));
    this.events = [...this.events, ...unseen].sort((a, b) => b.id - a.id).slice(0, MOST_EVENTS);
    this.doc = { ...this.doc, ...news };
    this.trouble = null;
  }

  latest(name) {
    return this.series[name]?.value.findLast((value) => value !== null) ?? null;
  }

  get points() {
    return this.series.loss?.step.length ?? 0;
  }
}

// Panels

class Header {
  constructor(parent, act) {
    const bar = add(parent, "header", { class: "lw-head" });
    const logo = add(bar, "svg", { width: 22, height: 22, "aria-hidden": "true" });
    add(logo, "rect", { class: "lw-logo", width: 22, height: 22, rx: 6 });
    add(logo, "path", { d: "M6 5v11h9", stroke: "#fff", "stroke-width": 2.2, fill: "none", "stroke-linecap": "round" });
    add(logo, "circle", { cx: 14.5, cy: 8, r: 2, fill: "#fff" });
    this.name = add(bar, "b", { class: "lw-name" });
    const pill = add(bar, "span", { class: "lw-pill lw-state", role: "status" });
    add(pill, "i");
    this.pill = pill;
    this.state = add(pill, "b");
    this.progress = add(bar, "span", { class: "lw-pill lw-progress" });
    this.health = add(bar, "span", { class: "lw-pill lw-health" });
    const buttons = add(bar, "span", { class: "lw-control" });
    const button = (label, kind, onclick) => add(buttons, "button", { type: "button", class: kind, onclick }, label);
    this.pause = button("Pause", "lw-pause", () => act(this.pause.dataset.action));
    this.checkpoint = button("Checkpoint", "lw-checkpoint", () => act("checkpoint"));
    this.stop = button("Stop", "lw-stop", () => act("stop"));
  }

  draw({ doc }, contact) {
    const { state, status } = doc;
    const over = OVER.has(state);
    const shown = contact || over ? state : `last seen ${state}`;
    this.name.textContent = doc.run;
    this.state.textContent = shown;
    this.pill.dataset.state = contact || over ? state : "lost";
    this.progress.textContent = progress(status, state);
    const issues = over ? [] : status.health?.issues ?? [];
    this.health.hidden = !issues.length;
    this.health.textContent = this.health.dataset.status = status.health?.status ?? "";
    this.health.title = issues.map((issue) => issue.message).join("\n");
    this.pause.dataset.action = state === "paused" ? "unpause" : "pause";
    this.pause.textContent = state === "paused" ? "Resume" : "Pause";
    for (const button of [this.pause, this.checkpoint, this.stop]) {
      button.hidden = over;
      button.disabled = !contact || state === "stopping";
    }
  }
}

/** "supervised · step 120 of 300 · 2 min left" */
function progress(status, state) {
  const parts = [AUTONOMY[status.autonomy] ?? status.autonomy];
  const of = status.total_steps ? ` of ${integer(status.total_steps)}` : "";
  if (status.step || !status.phase) parts.push(`step ${integer(status.step ?? 0)}${of}`);
  if (status.phase) parts.push(status.phase);
  if (state === "running" && status.eta_s) parts.push(`${duration(status.eta_s)} left`);
  return parts.filter(Boolean).join(" · ");
}

class Figures {
  constructor(parent) {
    this.row = add(parent, "dl", { class: "lw-figures", "aria-label": "Figures of the last step" });
  }

  draw(story) {
    const layers = story.doc.depth?.usage ?? [];
    const depth = layers.length ? layers.reduce((sum, share) => sum + (share ?? 0), 0) : null;
    const dropped = story.latest("moe.drop_fraction");
    const rate = story.latest("learning_rate");
    this.row.replaceChildren();
    this.tile("Train loss (EMA)", ...trainLoss(story.series.loss));
    this.tile("Val perplexity", number(story.latest("val_perplexity"), 2));
    this.tile("Throughput", number(story.latest("throughput"), 0), "tok/s");
    this.tile("Grad norm", number(story.latest("grad_norm"), 2));
    this.tile("Learning rate", rate === null ? "–" : rate.toExponential(1));
    this.tile("Routing entropy", number(story.latest("moe.routing_entropy")), "of 1");
    this.tile("Tokens dropped", dropped === null ? "–" : number(100 * dropped, 2), "%");
    this.tile("Mean depth", number(depth, 2), `of ${layers.length}`);
  }

  tile(label, value, unit = "", kind = null) {
    const tile = add(this.row, "div", { class: "lw-card lw-figure" });
    add(tile, "dt", {}, label);
    const shown = add(tile, "dd");
    add(shown, "b", {}, value);
    if (value !== "–" && unit) add(shown, "em", { class: kind }, unit);
  }
}

/** The mean over a horizon now, and how it differs from two horizons ago. */
function trainLoss(loss) {
  const means = loss ? smooth(loss, horizonOf(loss)) : [];
  const now = means.findLast((mean) => mean !== null) ?? null;
  if (now === null) return ["–"];
  const then = loss.step.at(-1) - 2 * horizonOf(loss);
  const before = means[loss.step.findLastIndex((step) => step <= then)] ?? null;
  if (before === null) return [number(now)];
  const worse = now > before;
  return [number(now), `${worse ? "▲" : "▼"} ${Math.abs(now - before).toFixed(3)}`, worse ? "lw-worse" : "lw-better"];
}

/** "2.14 (2.01 to 2.30)": where the loss should end, with its 90 % band. */
function finalLoss({ predicted_final_loss: loss, predicted_low: low, predicted_high: high }) {
  return isNumber(loss) ? `${number(loss, 2)} (${number(low, 2)} to ${number(high, 2)})` : "–";
}

class Budget {
  constructor(parent) {
    this.card = card(parent, "Chinchilla budget", "", "budget");
  }

  draw({ doc: { budget, state } }) {
    this.card.box.hidden = !budget?.tokens_optimal;
    if (this.card.box.hidden) return;
    this.card.small.textContent = `for ${budget.basis} parameters`;
    const around = Math.PI * 44;
    const filled = around * Math.min(1, Math.max(0, budget.progress ?? 0));
    const arc = { d: "M10 58a44 44 0 0 1 88 0", "stroke-width": 9, fill: "none", "stroke-linecap": "round" };
    this.card.body.replaceChildren();
    const svg = add(this.card.body, "svg", { width: 108, height: 66, role: "img" });
    svg.setAttribute("aria-label", `${percent(budget.progress)} of the optimal tokens seen`);
    add(svg, "path", { ...arc, class: "lw-track" });
    if (filled > 0) add(svg, "path", { ...arc, class: "lw-fill", "stroke-dasharray": `${filled} ${around}` });
    add(svg, "text", { class: "lw-big", x: 54, y: 54, "text-anchor": "middle" }, percent(budget.progress));
    const list = add(this.card.body, "dl");
    const facts = {
      Seen: number(budget.tokens_seen, 0), Optimal: number(budget.tokens_optimal, 0),
      Phase: budget.phase ?? "–", Left: OVER.has(state) || !isNumber(budget.eta_s) ? "–" : `${duration(budget.eta_s)} to the budget`,
      "Final loss": finalLoss(budget),
    };
    for (const [term, value] of Object.entries(facts)) {
      add(list, "dt", {}, term);
      add(list, "dd", {}, value);
    }
    const course = budget.recommendation;
    if (course) add(this.card.body, "p", { class: "lw-course", "data-action": course.action }, `${course.action}: ${course.why}`);
  }
}

class Events {
  constructor(parent) {
    this.card = card(parent, "Events", "", "events");
    this.list = add(this.card.body, "ul", { class: "lw-rows", tabindex: 0, "aria-label": "events" });
  }

  draw({ events }) {
    const key = `${events[0]?.id} ${events.length}`;
    if (key === this.shown) return;
    this.shown = key;
    this.list.replaceChildren();
    for (const event of events) {
      const row = add(this.list, "li", { class: `lw-${event.level}` });
      add(row, "u", {}, isNumber(event.step) ? integer(event.step) : "");
      add(row, "span", {}, event.message);
    }
  }
}

// What to say when something is amiss

class Notice {
  constructor(parent, again) {
    this.box = add(parent, "div", { class: "lw-notice", role: "alert", hidden: true });
    this.again = again;
  }

  draw(story, contact) {
    const parts = this.text(story, contact);
    const key = JSON.stringify(parts);
    if (key === this.shown) return;
    this.shown = key;
    this.box.hidden = !parts;
    this.box.dataset.kind = parts?.kind ?? "";
    this.box.replaceChildren();
    if (!parts) return;
    add(this.box, "span", {}, parts.text);
    if (parts.code) add(this.box, "code", {}, parts.code);
  }

  text({ doc, trouble }, contact) {
    if (trouble) return { kind: "bad", text: trouble };
    if (!contact && OVER.has(doc.state)) return null;
    if (!contact) {
      const why = contact === null
        ? "This is the last state that was saved; no kernel is behind it."
        : "No word from the kernel for a while; it was probably restarted. Training does not need it.";
      return { kind: "warn", text: `${why} To watch the run again:`, code: this.again };
    }
    if (doc.state === "failed") return { kind: "bad", text: doc.status.error ?? "The trainer gave up." };
    if (doc.state === "crashed") {
      return { kind: "bad", text: "The trainer went away without ending the run. To go on from the last checkpoint:", code: "run.resume()" };
    }
    return null;
  }
}

// The view

function followTheme(root) {
  const { body, documentElement: html } = document;
  const dark = () => {
    const jupyter = body.dataset.jpThemeLight;
    if (jupyter !== undefined) return jupyter === "false";
    if (body.matches(".vscode-dark, .vscode-high-contrast") || html.matches("[theme=dark]")) return true;
    if (body.matches(".vscode-light") || html.matches("[theme=light]")) return false;
    return matchMedia("(prefers-color-scheme: dark)").matches;
  };
  const follow = () => root.classList.toggle("lw-dark", dark());
  const observer = new MutationObserver(follow);
  observer.observe(body, { attributes: true });
  observer.observe(html, { attributes: true });
  follow();
  return () => observer.disconnect();
}

function build(root, model, act) {
  const header = new Header(root, act);
  const notice = new Notice(root, model.get("again"));
  const figures = new Figures(root);
  const columns = add(root, "div", { class: "lw-columns" });
  const left = add(columns, "div", { class: "lw-left" });
  const right = add(columns, "div", { class: "lw-right" });
  const loss = new LossChart(left);
  const pair = add(left, "div", { class: "lw-pair" });
  const charts = [loss, new Heatmap(pair), new Depth(pair)];
  const approvals = new Approvals(right, act, model.get("catalogue"));
  const byHand = new ByHand(right, act, model.get("catalogue"));
  const rehearsals = new Rehearsals(right, act);
  const receipts = new Receipts(right, act);
  const rest = [new Budget(left), new Events(left)];
  return { panels: [header, notice, figures, ...charts, approvals, byHand, rehearsals, receipts, ...rest], charts, receipts, loss };
}

function render({ model, el }) {
  const page = fresh();
  const opened = Date.now();
  const story = new Story();
  const root = add(el, "div", { class: "lumina-widget" });
  const undo = new Map();
  let heard = 0; // when Python last said something
  let heardAll = false;

  const hello = () => model.send({ kind: "hello", page });
  const act = (action, rest = {}, refused = () => {}) => {
    const click = fresh();
    receipts.sent(click, clicked(action, rest));
    undo.set(click, refused);
    model.send({ kind: "command", click, action, ...rest });
    draw();
  };
  const { panels, charts, receipts, loss } = build(root, model, act);
  loss.onCompare = (name) => {
    story.overlay = null;
    model.send({ kind: "compare", name });
    draw();
  };

  /** true: the kernel talks; false: it did; null: it never has. */
  const contact = () => {
    if (Date.now() - (heard || opened) < (heard ? SILENCE_MS : PATIENCE_MS)) return true;
    return heard ? false : null;
  };
  const draw = () => {
    if (!story.doc) return;
    const now = contact();
    for (const panel of panels) panel.draw(story, now);
  };
  const onMessage = (message) => {
    heard = Date.now();
    if (message.kind === "live") {
      if (!heardAll && !message.doc.full) return; // meant for a page that was there before
      heardAll = true;
      story.take(message.doc);
      if (story.points > MOST_POINTS) hello();
    } else if (message.kind === "answer") {
      const { click, receipt = null, refusal = null, done = false } = message;
      receipts.answered(click, { receipt, refusal, done });
      if (receipt?.state !== "verified") undo.get(click)?.();
      undo.delete(click);
    } else if (message.kind === "overlay") {
      story.overlay = message.name === loss.compare.value ? message : null;
    } else if (message.kind === "trouble") {
      story.trouble = message.message;
    }
    draw();
  };

  model.on("msg:custom", onMessage);
  const unfollow = followTheme(root);
  const resized = new ResizeObserver(() => story.doc && charts.forEach((chart) => chart.draw(story)));
  resized.observe(root);
  const watch = setInterval(() => contact() || draw(), 2000);
  const saved = model.get("snapshot");
  if (saved?.status) story.take(saved);
  draw();
  hello();
  return () => {
    clearInterval(watch);
    resized.disconnect();
    unfollow();
    model.off("msg:custom", onMessage);
    if (contact()) model.send({ kind: "bye", page });
  };
}

export default { render };
