// The receipts in the notebook's view: what was asked, the values read back, what it did to the loss, and a way back.
// Joined with `widget.charts.js` and `widget.js`; it must not know of messages or Python.

const MOST_RECEIPTS = 8;

// Receipts of everybody, and above them what was asked here and has none: on its way, or refused before it was sent.
class Receipts {
  constructor(parent, act) {
    this.card = card(parent, "Receipts", "values read back from the live run", "receipts");
    this.list = add(this.card.body, "ul", { class: "lw-rows", role: "log", "aria-label": "receipts" });
    this.act = act;
    this.own = new Map();
  }

  /** The next click takes the place of refusals: they have been read. */
  sent(click, what) {
    for (const [earlier, { refusal }] of this.own) if (refusal) this.own.delete(earlier);
    this.own.set(click, { what, receipt: null, refusal: null });
  }

  answered(click, answer) {
    if (answer.done) this.own.delete(click); // no command to the run: what came of it shows elsewhere
    Object.assign(this.own.get(click) ?? {}, answer);
  }

  draw({ doc }, contact) {
    const told = new Set(doc.receipts.map((receipt) => receipt.id));
    for (const [click, { receipt }] of this.own) if (receipt && told.has(receipt.id)) this.own.delete(click);
    const own = [...this.own.values()].reverse().slice(0, MOST_RECEIPTS);
    const rows = [...own, ...doc.receipts.slice(0, MOST_RECEIPTS).map((receipt) => ({ what: asked(receipt), receipt }))];
    const key = JSON.stringify([rows, rows.map(({ receipt }) => wayBack(receipt, doc)), contact]);
    this.card.box.hidden = !rows.length;
    if (key === this.shown) return; // else a button would go away beneath the pointer
    this.shown = key;
    this.list.replaceChildren();
    for (const row of rows) this.row(row, doc, contact);
  }

  row({ what, receipt, refusal }, doc, contact) {
    const state = receipt?.state ?? (refusal ? "refused" : "sent");
    const row = add(this.list, "li", { class: `lw-${state}`, "data-state": state });
    add(row, "u", {}, isNumber(receipt?.step) ? integer(receipt.step) : "");
    const text = add(row, "span", {}, `${what} `);
    add(text, "i", {}, state);
    const back = wayBack(receipt, doc);
    if (back) {
      const onclick = () => this.act("undo", { receipt: receipt.id });
      const title = back.undo ?? "set the old values again";
      add(row, "button", { type: "button", class: "lw-undo", disabled: !contact || Boolean(back.undo), title, onclick }, "Undo");
    }
    const detail = refusal ?? receipt?.reason ?? (receipt ? change(receipt) : "");
    if (detail) add(text, "small", {}, detail);
    if (receipt?.effect) this.effect(text, receipt.effect);
  }

  effect(text, { state, summary, due_step }) {
    const told = add(text, "small", { class: "lw-effect", "data-effect": state });
    if (state === "pending") told.textContent = `effect known at step ${integer(due_step)}`;
    else {
      add(told, "em", {}, state);
      told.append(summary ? `: ${summary}` : "");
    }
  }
}

/** The mark of a receipt that is in force and no undo itself; its `undo` says why it cannot be taken back, if it cannot. */
function wayBack(receipt, doc) {
  if (!receipt || OVER.has(doc.state) || doc.receipts.some(({ undoes }) => undoes === receipt.id)) return null;
  return doc.marks.find(({ id, kind }) => id === receipt.id && kind !== "undo") ?? null;
}

const isRehearsing = ({ rehearsals }) => (rehearsals ?? []).some(({ state }) => state === "running");

/** "undo prune_expert": an undo's receipt has the method of what it took back. */
const asked = ({ kind, method, args }) =>
  kind === "undo" ? `undo ${method ?? ""}` : method ? `${method} ${words(args)}` : kind;

/** What a click asks for, until there is a receipt of it. */
const clicked = (action, { method }) =>
  method && action !== "intervene" ? `${action} ${method}` : method ?? action.replace("_", " the ");

/** "routing_temperature 1 → 2.3" for every value that was changed. */
function change({ before, after }) {
  const changed = Object.entries(after ?? {}).filter(([name, value]) => JSON.stringify(before?.[name]) !== JSON.stringify(value));
  return changed.map(([name, value]) =>
    before && name in before ? `${name} ${plain(before[name])} → ${plain(value)}` : `${name} ${plain(value)}`).join(", ");
}

