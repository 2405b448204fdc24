// The drawings of the notebook's view: loss with its marks, expert load, depth. Python joins `format.js`, `series.js`,
// this text and `widget.js`, since a widget's module is one string; it must not know of messages, buttons or Python.

const NS = "http://www.w3.org/2000/svg";

// Elements: what is shown goes in as text or as an attribute, never as markup

function add(parent, tag, attributes = {}, text = null) {
  const svg = tag === "svg" || parent.namespaceURI === NS;
  const node = svg ? document.createElementNS(NS, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") node.addEventListener("click", value);
    else if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  if (text !== null) node.textContent = text;
  parent.append(node);
  return node;
}

function card(parent, title, note, kind) {
  const box = add(parent, "section", { class: `lw-card lw-${kind}`, "aria-label": title });
  const head = add(box, "div", { class: "lw-title" });
  const name = add(head, "b", {}, title);
  const small = add(head, "small", {}, note);
  return { box, head, name, small, body: add(box, "div", { class: "lw-body" }) };
}

function ticks(low, high, count) {
  const raw = (high - low) / count || 1;
  const base = 10 ** Math.floor(Math.log10(raw));
  const step = base * [1, 2, 5, 10].find((factor) => base * factor >= raw);
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high + step * 1e-9; at += step) found.push(+at.toPrecision(12));
  return found;
}

// Charts

let clips = 0;
const VERDICT_WIDTH = 66; // of the longest, "inconclusive"

class LossChart {
  constructor(parent) {
    this.card = card(parent, "Loss", "dashed marks are interventions", "loss");
    this.smooth = true;
    this.log = false;
    this.zoom = null;
    this.legend = add(this.card.head, "span", { class: "lw-legend", "aria-hidden": "true" });
    this.compare = add(this.card.head, "select", { class: "lw-compare", "aria-label": "Compare with a replay", hidden: true });
    this.compare.addEventListener("change", () => this.onCompare?.(this.compare.value));
    this.choice("Curve", ["raw", "smooth"], 1, (index) => (this.smooth = index === 1));
    this.choice("Loss axis", ["lin", "log"], 0, (index) => (this.log = index === 1));
    const { body } = this.card;
    body.title = "drag to zoom, double-click to see everything";
    this.plot = add(body, "div");
    this.tip = add(body, "div", { class: "lw-tip", hidden: true });
    this.span = add(body, "div", { class: "lw-span", hidden: true });
    body.addEventListener("dblclick", () => this.zoomTo(null));
    body.addEventListener("pointerdown", (event) => this.drag(event));
    body.addEventListener("pointermove", (event) => this.point(event));
    body.addEventListener("pointerleave", () => (this.tip.hidden = true));
  }

  choice(label, names, chosen, change) {
    const group = add(this.card.head, "span", { class: "lw-choice", role: "group", "aria-label": label });
    const choose = (index) => {
      buttons.forEach((button, at) => button.setAttribute("aria-pressed", at === index));
      change(index);
      this.draw();
    };
    const buttons = names.map((name, index) =>
      add(group, "button", { type: "button", "aria-pressed": String(index === chosen), onclick: () => choose(index) }, name));
  }

  /** The replays of the run whose loss may be laid over this one. */
  offer(children) {
    const key = children.map(({ name }) => name).join();
    this.compare.hidden = !children.length;
    if (key === this.offered) return;
    this.offered = key;
    const chosen = this.compare.value;
    this.compare.replaceChildren();
    add(this.compare, "option", { value: "" }, "compare with ...");
    for (const { name, without } of children) {
      add(this.compare, "option", { value: name }, without ? `without ${without.method} at ${without.step}` : name);
    }
    this.compare.value = children.some(({ name }) => name === chosen) ? chosen : "";
  }

  zoomTo(range) {
    this.zoom = range;
    this.draw();
  }

  draw(story = this.story) {
    this.story = story;
    this.offer(story?.doc?.children ?? []);
    const loss = story?.series.loss;
    if (!loss || loss.step.length < 2) {
      this.plot.replaceChildren();
      add(this.plot, "p", { class: "lw-dim lw-empty" }, "The curve begins with the second step.");
      return;
    }
    const width = this.card.body.clientWidth || 600;
    const [x0, x1] = this.zoom ?? [loss.step[0], loss.step.at(-1)];
    this.frame = { left: 40, right: width - 10, top: 8, bottom: 206, x0, x1, width, height: 228 };
    const shown = (v) => (v === null || (this.log && v <= 0) ? null : this.log ? Math.log10(v) : v);
    if (this.fit([loss, story.series.val_loss], shown)) this.paint(story, loss, shown);
  }

  /** The range of values: from the lowest to nearly the highest, so that a first spike hides nothing. */
  fit(curves, shown) {
    const { x0, x1 } = this.frame;
    const inside = curves.filter(Boolean).flatMap(({ step, value }) => value.filter((_, i) => step[i] >= x0 && step[i] <= x1));
    const sorted = inside.map(shown).filter((v) => v !== null).sort((a, b) => a - b);
    if (!sorted.length) return false;
    const share = this.zoom || this.log ? 1 : 0.985;
    const [low, high] = [sorted[0], sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))]];
    const room = (high - low || 1) * 0.06;
    Object.assign(this.frame, { y0: low - room, y1: high + room });
    return true;
  }

  paint(story, loss, shown) {
    const { left, right, top, bottom, x0, x1, y0, y1, width, height } = this.frame;
    const x = (this.x = (step) => left + ((step - x0) / (x1 - x0 || 1)) * (right - left));
    const y = (v) => bottom - ((v - y0) / (y1 - y0)) * (bottom - top);
    this.plot.replaceChildren();
    const svg = add(this.plot, "svg", { width, height, role: "img" });
    svg.setAttribute("aria-label", `Loss over ${loss.step.length} points, ${story.doc.marks.length} interventions marked`);
    const clip = `lw-clip-${++clips}`;
    add(add(svg, "clipPath", { id: clip }), "rect", { x: left, y: top, width: right - left, height: bottom - top });
    for (const at of ticks(y0, y1, 5)) {
      add(svg, "line", { class: "lw-grid", x1: left, x2: right, y1: y(at), y2: y(at) });
      add(svg, "text", { x: left - 6, y: y(at) + 3, "text-anchor": "end" }, number(this.log ? 10 ** at : at, 2));
    }
    for (const at of ticks(x0, x1, width < 420 ? 4 : 8).filter(Number.isInteger)) {
      const last = x(at) > right - 12; // half a word would lie beyond the edge
      add(svg, "text", { x: last ? width : x(at), y: bottom + 16, "text-anchor": last ? "end" : "middle" }, at);
    }
    const curves = add(svg, "g", { "clip-path": `url(#${clip})` });
    const line = (kind, steps, values) => {
      const parts = steps.map((step, i) => [x(step), shown(values[i])]).filter(([, v]) => v !== null);
      const d = parts.map(([px, v], i) => `${i ? "L" : "M"}${px.toFixed(1)} ${y(v).toFixed(1)}`).join("");
      add(curves, "path", { class: kind, d });
    };
    const all = evenly(loss);
    line(this.smooth ? "lw-raw" : "lw-train", all.step, all.value);
    if (this.smooth) line("lw-train", loss.step, smooth(loss, horizonOf(loss)));
    const validation = story.series.val_loss;
    for (const curve of [...(story.doc.branches ?? []), ...(story.overlay ? [story.overlay] : [])]) {
      const values = this.smooth ? smooth(curve, horizonOf(loss)) : curve.value;
      line("back_to" in curve ? "lw-left-behind" : "lw-overlay", curve.step, values);
      if ("back_to" in curve) this.noteBranch(svg, curve, x, y(shown(values.findLast((value) => value !== null))));
    }
    if (validation) line("lw-val", validation.step, validation.value);
    this.verdictEnd = [];
    for (const mark of story.doc.marks) this.mark(svg, mark);
    this.explain(validation, story);
  }

  noteBranch(svg, branch, x, y) {
    const { x0, x1 } = this.frame;
    if (branch.left_at < x0 || branch.left_at > x1 || !Number.isFinite(y)) return;
    const note = add(svg, "text", { x: x(branch.left_at) + 3, y: y - 3 }, `left at step ${integer(branch.left_at)}`);
    add(note, "title", {}, `A rewind went back from step ${integer(branch.left_at)} to step ${integer(branch.back_to)}.`);
  }

  mark(svg, mark) {
    const { top, bottom, x0, x1 } = this.frame;
    if (mark.step < x0 || mark.step > x1) return;
    const at = this.x(mark.step);
    const verdict = mark.effect?.state ?? "pending";
    const worse = verdict === "hurt" || (verdict === "pending" && mark.method.startsWith("emergency"));
    const better = verdict === "helped" ? " lw-better" : "";
    const group = add(svg, "g", { class: `lw-mark${worse ? " lw-worse" : better}`, "data-effect": verdict });
    add(group, "line", { x1: at, x2: at, y1: top, y2: bottom });
    add(group, "path", { d: `M${at - 5} ${top}h10l-5 8z` });
    if (verdict !== "pending") this.verdict(group, verdict, at);
    const told = mark.effect?.summary ? `, ${verdict}: ${mark.effect.summary}` : "";
    add(group, "title", {}, `${asked(mark)} at step ${integer(mark.step)}${told}`);
  }

  /** In the highest row that has room, on the side that has. */
  verdict(group, verdict, at) {
    const left = this.frame.right - at > VERDICT_WIDTH ? at + 7 : at - 7 - VERDICT_WIDTH;
    const free = this.verdictEnd.findIndex((end) => end <= left);
    const row = free < 0 ? this.verdictEnd.length : free;
    this.verdictEnd[row] = left + VERDICT_WIDTH;
    const end = left < at;
    const place = { x: end ? at - 7 : left, y: this.frame.top + 20 + 13 * row, "text-anchor": end ? "end" : "start" };
    add(group, "text", place, verdict);
  }

  explain(validation, story) {
    const names = this.smooth ? [["lw-raw", "train"], ["lw-train", "train (EMA)"]] : [["lw-train", "train"]];
    if (validation?.step.length > 1) names.push(["lw-val", "validation"]);
    if (story.doc.branches?.length) names.push(["lw-left-behind", "left behind"]);
    if (story.overlay) names.push(["lw-overlay", story.overlay.name]);
    const key = names.join();
    if (key === this.explained) return;
    this.explained = key;
    this.legend.replaceChildren();
    for (const [kind, name] of names) {
      const entry = add(this.legend, "span");
      add(add(entry, "svg", { width: 20, height: 8 }), "path", { class: kind, d: "M0 4h20" });
      add(entry, "small", {}, name);
    }
  }

  stepAt(event) {
    const { left, right, x0, x1 } = this.frame;
    const at = Math.min(Math.max(event.clientX - this.card.body.getBoundingClientRect().left, left), right);
    return { at, step: x0 + ((at - left) / (right - left)) * (x1 - x0) };
  }

  drag(event) {
    if (!this.frame || event.button) return;
    event.preventDefault();
    const from = this.stepAt(event);
    const show = (moved) => {
      const { at } = this.stepAt(moved);
      this.span.hidden = false;
      this.span.style.left = `${Math.min(at, from.at)}px`;
      this.span.style.width = `${Math.abs(at - from.at)}px`;
    };
    const done = (last) => {
      window.removeEventListener("pointermove", show);
      this.span.hidden = true;
      const to = this.stepAt(last);
      if (Math.abs(from.at - to.at) > 8) this.zoomTo([from.step, to.step].sort((a, b) => a - b));
    };
    window.addEventListener("pointermove", show);
    window.addEventListener("pointerup", done, { once: true });
  }

  point(event) {
    const loss = this.story?.series.loss;
    if (!this.frame || !loss) return;
    const { step } = this.stepAt(event);
    const index = loss.step.findIndex((at) => at >= step);
    if (index < 0) return;
    this.tip.hidden = false;
    this.tip.style.left = `${Math.min(this.x(loss.step[index]) + 10, this.frame.width - 140)}px`;
    this.tip.textContent = `step ${integer(loss.step[index])} · loss ${number(loss.value[index])}`;
  }
}

class Heatmap {
  constructor(parent) {
    this.card = card(parent, "Expert load", "1.0 = balanced share", "heat");
    const scale = add(this.card.head, "span", { class: "lw-scale", "aria-hidden": "true" });
    add(scale, "small", {}, "0");
    add(scale, "i");
    add(scale, "small", {}, "2");
  }

  draw({ doc: { experts } }) {
    this.card.box.hidden = !experts?.load?.length;
    if (this.card.box.hidden) return;
    const { layers, load, live } = experts;
    const width = this.card.body.clientWidth || 300;
    const columns = Math.max(...load.map((row) => row.length));
    const [left, high] = [26, Math.max(12, Math.min(72, 170 / load.length))];
    const wide = (width - left - 4) / columns;
    const height = high * load.length + 22;
    this.card.body.replaceChildren();
    const svg = add(this.card.body, "svg", { width, height, role: "img", "aria-label": "Load of each expert, one row per layer" });
    load.forEach((row, r) => {
      add(svg, "text", { x: left - 6, y: high * (r + 0.5) + 3, "text-anchor": "end" }, layers[r]);
      row.forEach((share, e) => {
        const alive = live?.[r]?.[e] ?? true;
        const place = { x: left + wide * e, y: high * r, width: Math.max(1, wide - 1.5), height: high - 1.5, rx: 2 };
        const cell = add(svg, "rect", { class: alive ? "lw-cell" : "lw-cell lw-free", ...place });
        if (alive) cell.style.fill = loadColour(share);
        add(cell, "title", {}, `layer ${layers[r]}, expert ${e}: ${alive ? `${number(share, 2)} × its share` : "free slot"}`);
      });
    });
    const every = Math.ceil(columns / 16);
    for (let e = 0; e < columns; e += every) {
      add(svg, "text", { x: left + wide * (e + 0.5), y: height - 6, "text-anchor": "middle" }, e);
    }
  }
}

function loadColour(share) {
  const far = Math.min(Math.abs((share ?? 1) - 1), 1);
  const end = (share ?? 1) < 1 ? "--lw-low" : "--lw-high";
  return `color-mix(in srgb, var(${end}) ${(100 * far).toFixed(0)}%, var(--lw-even))`;
}

class Depth {
  constructor(parent) {
    this.card = card(parent, "Mixture-of-Depths", "share of tokens that take each layer", "depth");
  }

  draw({ doc: { depth } }) {
    this.card.box.hidden = !depth?.usage?.length;
    if (this.card.box.hidden) return;
    const width = this.card.body.clientWidth || 300;
    const [left, bottom, height] = [38, 170, 192];
    const top = 20; // room for the mean's note above a full bar
    const wide = (width - left - 4) / depth.usage.length;
    const y = (share) => bottom - share * (bottom - top);
    this.card.body.replaceChildren();
    const svg = add(this.card.body, "svg", { width, height, role: "img", "aria-label": "Share of tokens that take each layer" });
    for (const at of [0, 0.25, 0.5, 0.75, 1]) {
      add(svg, "line", { class: "lw-grid", x1: left, x2: width, y1: y(at), y2: y(at) });
      add(svg, "text", { x: left - 6, y: y(at) + 3, "text-anchor": "end" }, percent(at, 0));
    }
    const every = Math.ceil(depth.usage.length / 16);
    depth.usage.forEach((share, layer) => {
      const at = left + wide * (layer + 0.5);
      const bar = Math.min(wide * 0.76, 60);
      const place = { x: at - bar / 2, width: bar, y: y(share ?? 0), height: bottom - y(share ?? 0) };
      add(add(svg, "rect", { class: "lw-bar", ...place }), "title", {}, `layer ${layer}: ${percent(share)}`);
      if (layer % every === 0) add(svg, "text", { x: at, y: height - 6, "text-anchor": "middle" }, layer);
    });
    const mean = depth.usage.reduce((sum, share) => sum + (share ?? 0), 0) / depth.usage.length;
    add(svg, "line", { class: "lw-mean", x1: left, x2: width, y1: y(mean), y2: y(mean) });
    add(svg, "text", { class: "lw-note", x: width - 4, y: y(mean) - 5, "text-anchor": "end" }, `mean ${percent(mean, 0)}`);
  }
}
