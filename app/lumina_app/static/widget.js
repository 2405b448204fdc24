// The notebook's live view of one run: shows the documents that Python hands on from `lumina.views.live`, and sends
// back what is clicked. It must not know how a run is stored, and puts stored text into the page as text, never markup.

const OVER = new Set(["finished", "stopped", "failed", "crashed"]);
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

class Approvals {
  constructor(parent, act, catalogue) {
    this.card = card(parent, "Nothing to approve", "", "approvals");
    this.act = act;
    this.rehearsable = new Set(catalogue.filter(({ rehearsable }) => rehearsable).map(({ method }) => method));
    this.shown = null;
  }

  draw({ doc }, contact) {
    const first = OVER.has(doc.state) ? null : doc.queue.open[0] ?? null;
    const key = first ? `${first.id} ${doc.queue.open.length}` : `none ${doc.state}`;
    if (key !== this.shown) this.show(doc, first); // else what is being typed stays
    this.shown = key;
    for (const button of this.card.body.querySelectorAll("button")) button.disabled = !contact || this.sent === first?.id;
    const rehearse = this.card.body.querySelector(".lw-rehearse");
    if (rehearse) rehearse.disabled ||= isRehearsing(doc);
  }

  show(doc, first) {
    this.card.box.classList.toggle("lw-asks", first !== null);
    this.card.name.textContent = first ? "Approval needed" : "Nothing to approve";
    this.card.small.textContent = first ? `${doc.queue.open.length} in queue · step ${integer(first.step)}` : "";
    this.card.body.replaceChildren();
    if (first) this.ask(first);
    else add(this.card.body, "p", { class: "lw-dim" }, quiet(doc));
  }

  ask(proposal) {
    const { body } = this.card;
    const sure = Math.round(100 * (proposal.confidence ?? 0));
    const undone = proposal.evidence?.numbers?.method;
    add(body, "code", { class: "lw-method" }, proposal.method === "undo" ? `undo ${undone ?? ""}` : proposal.method);
    const meter = add(body, "div", { class: "lw-sure", role: "meter", "aria-label": "Confidence", "aria-valuenow": sure });
    add(meter, "i", { style: `width:${sure}%` });
    add(body, "p", { class: "lw-dim" }, `${proposal.evidence?.summary ?? ""} Confidence ${sure}%.`);
    const form = add(body, "div", { class: "lw-args" });
    const given = proposal.method === "undo" ? {} : proposal.args; // an undo's receipt is nothing to edit
    const inputs = Object.entries(given).map(([name, value]) => {
      const label = add(form, "label", {}, name);
      return add(label, "input", { name, value, "data-was": value, readonly: true, inputmode: "decimal", autocomplete: "off" });
    });
    if (proposal.expires_step) {
      const then = `Expires at step ${integer(proposal.expires_step)}: ${proposal.default_at_expiry ?? "no change"}.`;
      add(body, "p", { class: "lw-dim" }, then);
    }
    this.buttons(proposal, inputs);
  }

  buttons(proposal, inputs) {
    const row = add(this.card.body, "div", { class: "lw-buttons" });
    const button = (label, kind, onclick) => add(row, "button", { type: "button", class: kind, onclick }, label);
    const answer = (action, args) => {
      this.sent = proposal.id;
      row.querySelectorAll("button").forEach((each) => (each.disabled = true));
      this.act(action, { proposal: proposal.id, args }, () => (this.sent = null));
    };
    button("Approve", "lw-approve", () => answer("approve", edited(inputs)));
    const edit = button("Edit", "lw-edit", () => {
      const begin = inputs[0].readOnly;
      for (const input of inputs) {
        input.readOnly = !begin;
        if (!begin) input.value = input.dataset.was;
      }
      edit.textContent = begin ? "Cancel edit" : "Edit";
      if (begin) inputs[0].select();
    });
    edit.hidden = !inputs.length;
    if (this.rehearsable.has(proposal.method)) {
      button("Rehearse", "lw-rehearse", () => {
        const args = { ...proposal.args, ...edited(inputs) };
        this.act("rehearse", { method: proposal.method, proposal: proposal.id, args });
      });
    }
    button("Reject", "lw-reject", () => answer("reject", {}));
  }
}

// Only what was edited: the trainer fills in the rest from the proposal, and checks it all.
function edited(inputs) {
  return Object.fromEntries(inputs.filter((input) => input.value !== input.dataset.was).map((i) => [i.name, i.value.trim()]));
}

function quiet({ state, status }) {
  if (OVER.has(state)) return `The run is ${state}; nothing waits for a decision.`;
  if (status.autonomy === "observe") return "The orchestrator only observes: it proposes nothing.";
  if (status.autonomy === "auto") return "The orchestrator acts alone within its limits.";
  return "When the orchestrator wants to change something, it asks here.";
}

class ByHand {
  constructor(parent, act, catalogue) {
    this.box = add(parent, "details", { class: "lw-card lw-hand" });
    add(this.box, "summary", {}, "Trigger an intervention by hand");
    const form = add(this.box, "form");
    this.method = add(form, "select", { name: "method", "aria-label": "intervention" });
    for (const { method } of catalogue) add(this.method, "option", { value: method }, method);
    this.doc = add(form, "p", { class: "lw-dim" });
    this.fields = add(form, "div", { class: "lw-args" });
    const row = add(form, "div", { class: "lw-buttons" });
    this.apply = add(row, "button", { type: "submit", class: "lw-apply" }, "Apply");
    this.rehearse = add(row, "button", { type: "button", class: "lw-rehearse", onclick: () => send("rehearse") }, "Rehearse");
    const choose = () => this.ask(catalogue.find(({ method }) => method === this.method.value));
    this.method.addEventListener("change", choose);
    const send = (action) => {
      const given = [...this.fields.querySelectorAll("input")].filter((input) => input.value.trim());
      act(action, { method: this.method.value, args: Object.fromEntries(given.map((i) => [i.name, i.value.trim()])) });
    };
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      send("intervene");
    });
    if (catalogue.length) choose();
    this.usable = catalogue.length > 0;
  }

  ask({ doc, args, rehearsable }) {
    this.rehearse.hidden = !rehearsable;
    this.doc.textContent = doc.split(/\s+/).join(" ");
    this.fields.replaceChildren();
    for (const arg of args) {
      const label = add(this.fields, "label", {}, arg.name);
      add(label, "input", { name: arg.name, value: arg.default, inputmode: "decimal", autocomplete: "off" });
      add(this.fields, "small", {}, `${arg.help}; allowed: ${allowed(arg)}`);
    }
  }

  draw({ doc }, contact) {
    this.box.hidden = OVER.has(doc.state) || !this.usable;
    this.apply.disabled = !contact;
    this.rehearse.disabled = !contact || isRehearsing(doc);
  }
}

function allowed({ ge, gt, le }) {
  const low = ge ?? gt;
  const from = low === null ? "" : `${ge === null ? "above " : ""}${plain(low)}`;
  if (from && le !== null) return `${from} to ${plain(le)}`;
  if (from) return ge === null ? from : `${from} or more`;
  return le === null ? "any number" : `at most ${plain(le)}`;
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
