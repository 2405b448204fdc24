// The newest rehearsal in the notebook's view: progress, both curves, the difference with its interval. Joined with
// `widget.charts.js` and `widget.js`; it must not know of messages or Python.

class Rehearsals {
  constructor(parent, act) {
    this.card = card(parent, "Rehearsal", "", "rehearsal");
    this.act = act;
    this.shown = null;
  }

  draw({ doc }, contact) {
    const one = doc.rehearsals?.[0];
    this.card.box.hidden = !one;
    if (!one) return;
    const { body } = this.card;
    const key = JSON.stringify([one, doc.state, doc.queue.open.map(({ id }) => id), appliedSince(one, doc.receipts), body.clientWidth]);
    if (key !== this.shown) this.show(one, doc);
    this.shown = key;
    for (const button of body.querySelectorAll("button")) button.disabled = !contact;
  }

  show(one, doc) {
    const { body, small } = this.card;
    const from = isNumber(one.from_step) ? `from step ${integer(one.from_step)} · ` : "";
    small.textContent = from + (one.state === "running" ? `${integer(one.done)} of ${integer(one.of)} steps` : one.state);
    body.replaceChildren();
    add(body, "code", { class: "lw-method" }, `${one.method} ${words(one.args)}`);
    if (one.state === "running") {
      const meter = add(body, "div", { class: "lw-sure", role: "progressbar", "aria-valuenow": Math.round((100 * one.done) / one.of) });
      add(meter, "i", { style: `width:${(100 * one.done) / one.of}%` });
    }
    const told = rehearsalNote(one);
    if (told) add(body, "p", { class: "lw-dim" }, told);
    this.curves(one.loss);
    if (one.difference) add(body, "p", { class: "lw-verdict", "data-verdict": one.difference.verdict }, verdict(one));
    const applied = appliedSince(one, doc.receipts);
    if (applied) add(body, "p", { class: "lw-dim" }, `Applied at step ${integer(applied.step)}.`);
    this.buttons(one, doc, applied);
  }

  curves({ with: changed, without: unchanged }) {
    const values = [...changed.value, ...unchanged.value].filter((value) => value !== null);
    if (changed.step.length < 2) return;
    const legend = add(this.card.body, "span", { class: "lw-legend", "aria-hidden": "true" });
    for (const kind of ["without", "with"]) {
      const entry = add(legend, "span");
      add(add(entry, "svg", { width: 20, height: 8 }), "path", { class: `lw-${kind}`, d: "M0 4h20" });
      add(entry, "small", {}, kind);
    }
    const [width, height] = [this.card.body.clientWidth || 260, 110];
    const [x0, x1] = [changed.step[0], changed.step.at(-1)];
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const svg = add(this.card.body, "svg", { width, height, role: "img", "aria-label": "Loss with and without the change" });
    const x = (step) => 34 + ((step - x0) / (x1 - x0 || 1)) * (width - 40);
    const y = (value) => 92 - ((value - low) / (high - low || 1)) * 82;
    for (const at of ticks(low, high, 3)) {
      add(svg, "line", { class: "lw-grid", x1: 34, x2: width - 6, y1: y(at), y2: y(at) });
      add(svg, "text", { x: 30, y: y(at) + 3, "text-anchor": "end" }, number(at, 2));
    }
    // The one with the change beneath: where both agree, the dashes of the other still show.
    for (const [kind, curve] of [["lw-with", changed], ["lw-without", unchanged]]) {
      const parts = curve.step.map((step, i) => [x(step), curve.value[i]]).filter(([, value]) => value !== null);
      add(svg, "path", { class: kind, d: parts.map(([px, v], i) => `${i ? "L" : "M"}${px.toFixed(1)} ${y(v).toFixed(1)}`).join("") });
    }
    add(svg, "text", { x: 34, y: 107 }, `step ${integer(x0)}`);
    add(svg, "text", { x: width - 6, y: 107, "text-anchor": "end" }, integer(x1));
  }

  buttons(one, doc, applied) {
    const row = add(this.card.body, "div", { class: "lw-buttons" });
    const button = (label, kind, onclick) => add(row, "button", { type: "button", class: kind, onclick }, label);
    if (one.state === "running") return button("Stop the rehearsal", "lw-reject", () => this.act("stop_rehearsal", { id: one.id }));
    const open = doc.queue.open.some(({ id }) => id === one.proposal);
    if (one.state === "finished" && !applied && !OVER.has(doc.state)) {
      if (open) button("Approve", "lw-approve", () => this.act("approve", { proposal: one.proposal, args: one.args }));
      else button("Apply", "lw-approve", () => this.act("intervene", { method: one.method, args: one.args }));
    }
    return button("Discard", "lw-edit", () => this.act("discard_rehearsal", { id: one.id }));
  }
}
