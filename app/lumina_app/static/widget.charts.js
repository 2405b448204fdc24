// The drawings of the notebook's view: loss with its marks, expert load, depth. Python puts this text before
// `widget.js`, since a widget's module is one string; it must not know of messages, buttons or Python.

const NS = "http://www.w3.org/2000/svg";

// Elements

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
  add(head, "b", {}, title);
  const small = add(head, "small", {}, note);
  return { box, head, small, body: add(box, "div", { class: "lw-body" }) };
}

function number(value, digits = 3) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  if (size >= 1e9) return `${(value / 1e9).toFixed(2)}B`;
  if (size >= 1e6) return `${(value / 1e6).toFixed(1)}M`;
  if (size >= 1e4) return `${(value / 1e3).toFixed(1)}k`;
  if (size > 0 && size < 1e-2) return value.toExponential(1);
  return value.toFixed(digits);
}

const percent = (value) => (value === null || value === undefined ? "–" : `${(100 * value).toFixed(1)}%`);
const words = (values) => Object.entries(values ?? {}).map(([name, value]) => `${name} ${plain(value)}`).join(", ");
const plain = (value) => (typeof value === "number" ? String(+value.toPrecision(6)) : JSON.stringify(value));

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

function smooth(values, keep) {
  let mean = null;
  return values.map((value) => {
    if (value === null) return mean;
    mean = mean === null ? value : keep * mean + (1 - keep) * value;
    return mean;
  });
}

// Charts

function ticks(low, high, count) {
  const raw = (high - low) / count || 1;
  const base = 10 ** Math.floor(Math.log10(raw));
  const step = base * [1, 2, 5, 10].find((factor) => base * factor >= raw);
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high + step * 1e-9; at += step) found.push(+at.toPrecision(12));
  return found;
}

class LossChart {
  constructor(parent) {
    this.card = card(parent, "Loss", "dashed marks are interventions", "loss");
    this.keep = 0.9;
    this.log = false;
    this.zoom = null;
    this.switch("smoothing", ["raw", "smooth"], 1, (index) => (this.keep = index ? 0.9 : 0));
    this.switch("scale", ["lin", "log"], 0, (index) => (this.log = index === 1));
    this.card.body.addEventListener("dblclick", () => this.zoomTo(null));
    this.card.body.addEventListener("pointerdown", (event) => this.drag(event));
    this.card.body.addEventListener("pointermove", (event) => this.point(event));
    this.card.body.addEventListener("pointerleave", () => this.tip?.remove());
  }

  switch(label, names, chosen, change) {
    const group = add(this.card.head, "span", { class: "lw-switch", role: "group", "aria-label": label });
    const buttons = names.map((name, index) =>
      add(group, "button", { type: "button", "aria-pressed": index === chosen, onclick: () => choose(index) }, name));
    const choose = (index) => {
      buttons.forEach((button, at) => button.setAttribute("aria-pressed", at === index));
      change(index);
      this.draw();
    };
    choose.call(null, chosen);
  }

  zoomTo(range) {
    this.zoom = range;
    this.draw();
  }

  draw(story = this.story) {
    this.story = story;
    const loss = story?.series.loss;
    if (!loss || loss.step.length < 2) return;
    const width = this.card.body.clientWidth || 600;
    const [x0, x1] = this.zoom ?? [loss.step[0], loss.step.at(-1)];
    const frame = (this.frame = { left: 40, right: width - 10, top: 8, bottom: 212, x0, x1, width, height: 236 });
    const value = (v) => (v === null || (this.log && v <= 0) ? null : this.log ? Math.log10(v) : v);
    const visible = loss.value.filter((v, i) => v !== null && loss.step[i] >= x0 && loss.step[i] <= x1).map(value);
    const sorted = visible.filter((v) => v !== null).sort((a, b) => a - b);
    if (!sorted.length) return;
    frame.y0 = sorted[0];
    frame.y1 = sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * (this.zoom || this.log ? 1 : 0.98)))];
    const margin = (frame.y1 - frame.y0 || 1) * 0.06;
    frame.y0 -= margin;
    frame.y1 += margin;
    this.paint(story, loss, value);
  }

  paint(story, loss, value) {
    const { left, right, top, bottom, x0, x1, y0, y1, width, height } = this.frame;
    const x = (this.x = (step) => left + ((step - x0) / (x1 - x0 || 1)) * (right - left));
    const y = (v) => bottom - ((v - y0) / (y1 - y0)) * (bottom - top);
    this.card.body.replaceChildren();
    const svg = add(this.card.body, "svg", { width, height, role: "img", "aria-label": "loss over steps" });
    const clip = `lw-clip-${Math.random().toString(36).slice(2)}`;
    const area = add(add(svg, "clipPath", { id: clip }), "rect", { x: left, y: top, width: right - left });
    area.setAttribute("height", bottom - top);
    for (const at of ticks(y0, y1, 5)) {
      add(svg, "line", { class: "lw-grid", x1: left, x2: right, y1: y(at), y2: y(at) });
      add(svg, "text", { x: left - 6, y: y(at) + 3, "text-anchor": "end" }, number(this.log ? 10 ** at : at, 2));
    }
    for (const at of ticks(x0, x1, 7)) add(svg, "text", { x: x(at), y: bottom + 15, "text-anchor": "middle" }, at);
    const group = add(svg, "g", { "clip-path": `url(#${clip})` });
    const line = (name, steps, values) => {
      const parts = steps.map((step, i) => [x(step), value(values[i])]).filter(([, v]) => v !== null);
      const d = parts.map(([px, v], i) => `${i ? "L" : "M"}${px.toFixed(1)} ${y(v).toFixed(1)}`).join("");
      add(group, "path", { class: name, d });
    };
    line(this.keep ? "lw-raw" : "lw-train", loss.step, loss.value);
    if (this.keep) line("lw-train", loss.step, smooth(loss.value, this.keep));
    const validation = story.series.val_loss;
    if (validation) line("lw-val", validation.step, validation.value);
    for (const mark of story.doc.marks) this.mark(svg, mark);
  }

  mark(svg, mark) {
    const { top, bottom, x0, x1 } = this.frame;
    if (mark.step < x0 || mark.step > x1) return;
    const at = this.x(mark.step);
    const group = add(svg, "g", { class: mark.method.startsWith("emergency") ? "lw-mark lw-bad" : "lw-mark" });
    add(group, "line", { x1: at, x2: at, y1: top, y2: bottom });
    add(group, "path", { d: `M${at - 5} ${top}h10l-5 8z` });
    add(group, "title", {}, `${mark.method} ${words(mark.args)} at step ${mark.step}`);
  }

  step(event) {
    const { left, right, x0, x1 } = this.frame;
    const at = event.clientX - this.card.body.getBoundingClientRect().left;
    return x0 + (Math.min(Math.max(at, left), right) - left) / (right - left) * (x1 - x0);
  }

  drag(event) {
    if (!this.frame || event.button) return;
    const from = this.step(event);
    const done = (last) => {
      const to = this.step(last);
      const range = [Math.min(from, to), Math.max(from, to)];
      if (Math.abs(this.x(from) - this.x(to)) > 8) this.zoomTo(range);
    };
    window.addEventListener("pointerup", done, { once: true });
  }

  point(event) {
    const loss = this.story?.series.loss;
    if (!this.frame || !loss) return;
    const step = this.step(event);
    const index = loss.step.findIndex((at) => at >= step);
    if (index < 0) return;
    this.tip?.remove();
    const left = Math.min(this.x(loss.step[index]) + 8, this.frame.width - 130);
    this.tip = add(this.card.body, "div", { class: "lw-tip", style: `left:${left}px` });
    this.tip.textContent = `step ${loss.step[index]} · loss ${number(loss.value[index])}`;
  }
}

class Heatmap {
  constructor(parent) {
    this.card = card(parent, "Expert load", "1.0 = balanced share", "heat");
  }

  draw({ doc: { experts } }) {
    this.card.box.hidden = !experts?.load?.length;
    if (this.card.box.hidden) return;
    const { layers, load, live } = experts;
    const width = this.card.body.clientWidth || 300;
    const columns = Math.max(...load.map((row) => row.length));
    const [wide, high, left] = [(width - 30) / columns, Math.max(14, Math.min(40, 176 / load.length)), 26];
    const height = high * load.length + 22;
    this.card.body.replaceChildren();
    const svg = add(this.card.body, "svg", { width, height, role: "img", "aria-label": "load of each expert" });
    load.forEach((row, r) => {
      add(svg, "text", { x: left - 6, y: high * (r + 0.5) + 3, "text-anchor": "end" }, layers[r]);
      row.forEach((share, e) => {
        const alive = live?.[r]?.[e] ?? true;
        const rest = { x: left + wide * e, y: high * r, width: wide - 1, height: high - 1 };
        const cell = add(svg, "rect", { class: alive ? "lw-cell" : "lw-cell lw-free", ...rest });
        if (alive) cell.style.fill = loadColour(share);
        add(cell, "title", {}, `layer ${layers[r]} · expert ${e}: ${alive ? `${number(share, 2)}×` : "free slot"}`);
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
    const [left, bottom, height] = [34, 176, 198];
    const wide = (width - left - 4) / depth.usage.length;
    const y = (share) => bottom - share * (bottom - 6);
    this.card.body.replaceChildren();
    const svg = add(this.card.body, "svg", { width, height, role: "img", "aria-label": "use of each layer" });
    for (const at of [0, 0.5, 1]) {
      add(svg, "line", { class: "lw-grid", x1: left, x2: width, y1: y(at), y2: y(at) });
      add(svg, "text", { x: left - 6, y: y(at) + 3, "text-anchor": "end" }, `${100 * at}%`);
    }
    depth.usage.forEach((share, layer) => {
      const at = left + wide * layer;
      const size = { x: at + wide * 0.12, width: wide * 0.76, y: y(share ?? 0), height: bottom - y(share ?? 0) };
      add(add(svg, "rect", { class: "lw-bar", ...size }), "title", {}, `layer ${layer}: ${percent(share)}`);
      add(svg, "text", { x: at + wide / 2, y: height - 6, "text-anchor": "middle" }, layer);
    });
    const mean = depth.usage.reduce((sum, share) => sum + (share ?? 0), 0) / depth.usage.length;
    add(svg, "line", { class: "lw-mean", x1: left, x2: width, y1: y(mean), y2: y(mean) });
    add(svg, "text", { class: "lw-warn", x: width - 4, y: y(mean) - 4, "text-anchor": "end" }, `mean ${percent(mean)}`);
  }
}
