// The notebook's live view of one run: shows the documents that Python hands on from `lumina.views.live`, and sends
// back what is clicked. It must not know how a run is stored, and puts stored text into the page as text, never markup.

const OVER = new Set(["finished", "stopped", "failed", "crashed"]);
const MOST_POINTS = 6000; // then the whole line is asked for again, thinned by the store
const SILENCE_MS = 10000;
const GONE = "No contact with the kernel. If it was restarted, run Dashboard(lumina.attach(...)) in a new cell.";

// What has been told so far

class Story {
  constructor() {
    this.series = {};
    this.events = [];
    this.doc = null;
  }

  take(doc) {
    const { full, series } = doc.series;
    if (full) this.series = {};
    for (const [name, { step, value }] of Object.entries(series)) {
      const known = (this.series[name] ??= { step: [], value: [] });
      known.step.push(...step);
      known.value.push(...value);
    }
    const seen = new Set(full ? [] : this.events.map((event) => event.id));
    const fresh = doc.events.filter((event) => !seen.has(event.id));
    this.events = [...fresh, ...(full ? [] : this.events)].sort((a, b) => b.id - a.id).slice(0, 100);
    this.doc = doc;
  }

  latest(name) {
    return this.series[name]?.value.findLast((value) => value !== null) ?? null;
  }

  get points() {
    return this.series.loss?.step.length ?? 0;
  }
}

// Panels

const LOGO = "M6 5v11h9";

class Header {
  constructor(parent, act, refresh) {
    const bar = add(parent, "header", { class: "lw-head" });
    const logo = add(bar, "svg", { width: 22, height: 22, "aria-hidden": "true" });
    add(logo, "rect", { class: "lw-logo", width: 22, height: 22, rx: 6 });
    add(logo, "path", { d: LOGO, stroke: "#fff", "stroke-width": 2.2, fill: "none", "stroke-linecap": "round" });
    add(logo, "circle", { cx: 14.5, cy: 8, r: 2, fill: "#fff" });
    this.name = add(bar, "b", { class: "lw-name" });
    this.pill = add(bar, "span", { class: "lw-pill", role: "status" });
    this.steps = add(bar, "span", { class: "lw-pill lw-steps" });
    add(bar, "span", { class: "lw-space" });
    const button = (label, kind, onclick) => add(bar, "button", { type: "button", class: kind, onclick }, label);
    this.pause = button("Pause", "lw-pause", () => act(this.pause.dataset.action));
    this.checkpoint = button("Checkpoint", "lw-checkpoint", () => act("checkpoint"));
    this.stop = button("Stop", "lw-stop", () => act("stop"));
    this.refresh = button("Refresh", "lw-refresh", refresh);
  }

  draw({ doc }, silent) {
    const over = OVER.has(doc.state);
    const state = silent && !over ? "no contact" : doc.state;
    this.name.textContent = doc.name;
    this.pill.textContent = doc.phase && !over ? `${state} · ${doc.phase}` : state;
    this.pill.dataset.state = state;
    const total = doc.total_steps ? ` of ${doc.total_steps.toLocaleString("en")}` : "";
    const eta = over || !doc.eta_s ? "" : ` · ${duration(doc.eta_s)} left`;
    this.steps.textContent = `step ${(doc.step ?? 0).toLocaleString("en")}${total}${eta}`;
    this.pause.dataset.action = doc.state === "paused" ? "unpause" : "pause";
    this.pause.textContent = doc.state === "paused" ? "Resume" : "Pause";
    for (const button of [this.pause, this.checkpoint, this.stop]) button.hidden = over;
    this.refresh.hidden = !over && !silent;
  }
}

class Figures {
  constructor(parent) {
    this.row = add(parent, "div", { class: "lw-figures" });
  }

  draw(story) {
    const { doc } = story;
    const losses = smooth(story.series.loss?.value ?? [], 0.9);
    const change = losses.length > 20 ? losses.at(-1) - losses.at(-20) : null;
    const depth = doc.depth?.usage?.length;
    const dropped = story.latest("moe.drop_fraction");
    const tiles = [
      ["Train loss (EMA)", number(losses.at(-1)), change === null ? "" : `${change > 0 ? "▲" : "▼"} ${number(Math.abs(change))}`],
      ["Val perplexity", number(story.latest("val_perplexity"), 2), ""],
      ["Throughput", number(story.latest("throughput"), 0), "tok/s"],
      ["Grad norm", number(story.latest("grad_norm"), 2), ""],
      ["Learning rate", number(story.latest("learning_rate")), ""],
      ["Routing entropy", number(story.latest("moe.routing_entropy")), "of 1"],
      ["Tokens dropped", dropped === null ? "–" : number(100 * dropped, 2), "%"],
      ["Mean depth", number(story.latest("mod.average_depth"), 2), depth ? `of ${depth}` : ""],
    ].filter(([, value]) => value !== "–");
    this.row.replaceChildren();
    for (const [label, value, unit] of tiles) {
      const tile = add(this.row, "div", { class: "lw-figure" });
      add(tile, "small", {}, label);
      add(tile, "b", {}, value);
      add(tile, "em", { class: unit[0] === "▼" ? "lw-ok" : unit[0] === "▲" ? "lw-bad" : null }, unit);
    }
  }
}

class Approvals {
  constructor(parent, act) {
    this.card = card(parent, "Approvals", "", "approvals");
    this.act = act;
    this.shown = null;
  }

  draw({ doc }) {
    const open = doc.queue.open;
    const first = open[0] ?? null;
    const key = first ? `${first.id} ${open.length}` : `none ${doc.state}`;
    if (key === this.shown) return; // keeps what is being typed
    this.shown = key;
    this.card.box.classList.toggle("lw-asks", first !== null);
    this.card.small.textContent = first ? `${open.length} in queue · step ${first.step}` : "";
    this.card.body.replaceChildren();
    if (first) this.ask(first);
    else add(this.card.body, "p", { class: "lw-dim" }, "Nothing waits for you.");
  }

  ask(proposal) {
    const { body } = this.card;
    add(body, "code", { class: "lw-method" }, proposal.method);
    const sure = Math.round(100 * proposal.confidence);
    const bar = add(body, "div", { class: "lw-sure", title: `confidence ${sure} %` });
    add(bar, "i", { style: `width:${sure}%` });
    add(body, "p", {}, `${proposal.evidence?.summary ?? ""} Confidence ${sure} %.`);
    const form = add(body, "div", { class: "lw-args" });
    const inputs = Object.entries(proposal.args).map(([name, value]) => {
      const label = add(form, "label", {}, name);
      return add(label, "input", { name, value, "data-was": value, disabled: true, inputmode: "decimal" });
    });
    const expires = `Expires at step ${proposal.expires_step}: ${proposal.default_at_expiry ?? "no change"}.`;
    add(body, "p", { class: "lw-dim" }, expires);
    const row = add(body, "div", { class: "lw-buttons" });
    const answer = (action, args) => {
      row.querySelectorAll("button").forEach((button) => (button.disabled = true));
      this.act(action, { proposal: proposal.id, args }, () => (this.shown = null));
    };
    const button = (label, kind, onclick) => add(row, "button", { type: "button", class: kind, onclick }, label);
    button("Approve", "lw-approve", () => answer("approve", changed(inputs)));
    const edit = button("Edit", "lw-edit", () => {
      const editing = inputs[0]?.disabled;
      inputs.forEach((input) => (input.disabled = !editing));
      edit.textContent = editing ? "Done" : "Edit";
      if (editing) inputs[0].focus();
    });
    edit.hidden = !inputs.length;
    button("Reject", "lw-reject", () => answer("reject", {}));
  }
}

// Only what was edited: the trainer fills in the rest from the proposal, and checks it all.
function changed(inputs) {
  return Object.fromEntries(inputs.filter((input) => input.value !== input.dataset.was).map((i) => [i.name, i.value]));
}

class Receipts {
  constructor(parent) {
    this.card = card(parent, "Receipts", "what was asked here, and what came of it", "receipts");
    this.card.box.hidden = true;
    this.list = add(this.card.body, "ul", { class: "lw-rows", role: "log", "aria-label": "receipts" });
    this.rows = new Map();
  }

  sent(command, action) {
    this.card.box.hidden = false;
    const row = document.createElement("li");
    add(row, "u", {}, "…");
    add(row, "span", {}, `${action}: sent`);
    this.list.prepend(row);
    while (this.list.children.length > 20) this.list.lastChild.remove();
    this.rows.set(command, row);
  }

  answered({ command, action, receipt, refusal }) {
    const row = this.rows.get(command);
    if (!row) return;
    row.className = `lw-${receipt?.state ?? "refused"}`;
    row.children[0].textContent = receipt ? receipt.step : "–";
    row.children[1].textContent = receipt ? told(action, receipt) : `${action}: refused: ${refusal}`;
  }
}

function told(action, { method, args, state, before, after, reason }) {
  const what = method ? `${method} ${words(args)}` : action;
  if (state !== "verified") return `${what}: ${state}${reason ? `: ${reason}` : ""}`;
  const change = Object.entries(after ?? {}).map(([name, value]) =>
    before && name in before ? `${name} ${plain(before[name])} → ${plain(value)}` : `${name} ${plain(value)}`);
  return `${what}: verified${change.length ? `: ${change.join(", ")}` : ""}`;
}

class Budget {
  constructor(parent) {
    this.card = card(parent, "Chinchilla budget", "", "budget");
  }

  draw({ doc: { budget, chinchilla_multiplier: multiplier } }) {
    this.card.box.hidden = !budget?.tokens_optimal;
    if (this.card.box.hidden) return;
    this.card.small.textContent = multiplier ? `${multiplier} tokens per parameter` : `of ${budget.basis} parameters`;
    const share = Math.min(budget.progress ?? 0, 1);
    const around = Math.PI * 44;
    this.card.body.replaceChildren();
    const svg = add(this.card.body, "svg", { width: 108, height: 66, role: "img", "aria-label": percent(budget.progress) });
    const arc = { d: "M10 58a44 44 0 0 1 88 0", "stroke-width": 9, fill: "none", "stroke-linecap": "round" };
    add(svg, "path", { ...arc, class: "lw-track" });
    if (share > 0) add(svg, "path", { ...arc, class: "lw-fill", "stroke-dasharray": `${around * share} ${around}` });
    add(svg, "text", { class: "lw-big", x: 54, y: 54, "text-anchor": "middle" }, percent(budget.progress));
    const list = add(this.card.body, "dl");
    const score = budget.convergence_score;
    const facts = {
      Seen: number(budget.tokens_seen, 0),
      Optimal: number(budget.tokens_optimal, 0),
      Phase: budget.phase ?? "–",
      Convergence: score === null || score === undefined ? "–" : `${score.toFixed(0)} %`,
    };
    for (const [term, value] of Object.entries(facts)) {
      add(list, "dt", {}, term);
      add(list, "dd", {}, value);
    }
  }
}

class Events {
  constructor(parent) {
    this.card = card(parent, "Events", "", "events");
    this.list = add(this.card.body, "ul", { class: "lw-rows", tabindex: 0, "aria-label": "events" });
    this.newest = null;
  }

  draw({ events }) {
    const newest = events[0]?.id ?? null;
    if (newest === this.newest && this.list.children.length) return;
    this.newest = newest;
    this.list.replaceChildren();
    for (const event of events) {
      const row = add(this.list, "li", { class: `lw-${event.level}` });
      add(row, "u", {}, event.step ?? "");
      add(row, "span", {}, event.message);
    }
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

function render({ model, el }) {
  const view = Math.random().toString(36).slice(2);
  const story = new Story();
  const root = add(el, "div", { class: "lumina-widget" });
  const undone = new Map();
  let heard = Date.now();

  const say = (message) => {
    try {
      model.send(message);
      return true;
    } catch {
      notice.textContent = GONE;
      return false;
    }
  };
  const hello = () => say({ kind: "hello", view });
  const act = (action, rest = {}, undo = () => {}) => {
    const command = Math.random().toString(36).slice(2);
    receipts.sent(command, action);
    undone.set(command, undo);
    if (!say({ kind: "command", command, action, ...rest })) receipts.answered({ command, action, refusal: GONE });
  };

  const header = new Header(root, act, hello);
  const notice = add(root, "p", { class: "lw-notice", role: "alert" }, "Waiting for the run…");
  const figures = new Figures(root);
  const columns = add(root, "div", { class: "lw-columns" });
  const left = add(columns, "div", { class: "lw-left" });
  const right = add(columns, "div", { class: "lw-right" });
  const loss = new LossChart(left);
  const pair = add(left, "div", { class: "lw-pair" });
  const charts = [loss, new Heatmap(pair), new Depth(pair)];
  const approvals = new Approvals(right, act);
  const receipts = new Receipts(right);
  const panels = [figures, ...charts, approvals, new Budget(right), new Events(right)];

  const draw = () => {
    if (!story.doc) return;
    const silent = Date.now() - heard > SILENCE_MS;
    header.draw(story, silent);
    const over = OVER.has(story.doc.state);
    notice.textContent = silent && !over ? GONE : story.doc.error ?? "";
    panels.forEach((panel) => panel.draw(story));
  };
  const onMessage = (message) => {
    heard = Date.now();
    if (message.kind === "live") {
      if (!story.doc && !message.doc.series.full) return hello();
      story.take(message.doc);
      if (story.points > MOST_POINTS) hello();
    } else if (message.kind === "answer") {
      receipts.answered(message);
      if (message.receipt?.state !== "verified") undone.get(message.command)?.();
      undone.delete(message.command);
    } else if (message.kind === "trouble") {
      notice.textContent = message.message;
      return;
    }
    draw();
  };
  model.on("msg:custom", onMessage);
  const unfollow = followTheme(root);
  const resized = new ResizeObserver(() => story.doc && charts.forEach((chart) => chart.draw(story)));
  resized.observe(root);
  const watch = setInterval(() => {
    if (Date.now() - heard > SILENCE_MS) draw();
  }, 2000);
  hello();
  return () => {
    clearInterval(watch);
    resized.disconnect();
    unfollow();
    model.off("msg:custom", onMessage);
    say({ kind: "bye", view });
  };
}

export default { render };
