// What a person can do in the notebook's view: answer a proposal, edited or not, and ask for an intervention by hand.
// Joined with `widget.charts.js` and `widget.js`; it must not know of messages or Python.

const OVER = new Set(["finished", "stopped", "failed", "crashed"]);

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
