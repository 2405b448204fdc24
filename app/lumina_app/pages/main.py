"""The page: header, figures, charts on the left, decisions on the right.

It knows which panel stands where and which control calls which command; it must not know how a panel draws.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import gradio as gr
from fastapi import FastAPI

from lumina.children import can_be_rehearsed
from lumina.client import Run, list_runs
from lumina.interventions import Declaration, catalogue
from lumina_app.commands import CONTROLS, attempt
from lumina_app.live import run_paths
from lumina_app.pages.look import mount_page
from lumina_app.panels import Panel

Ask = Callable[[str | None, Mapping[str, Any]], dict[str, Any]]
"""(run, message) → the receipt as far as it is known; see `lumina_app.commands`."""

_LABELS: Final = {"pause": "Pause", "unpause": "Resume", "checkpoint": "Checkpoint", "stop": "Stop"}
_LIVE: Final = ("running", "paused", "starting", "stopping")
_SELECT: Final = "async (name) => { (await import('/lumina/static/store.js')).selectRun(name); }"
_SENT: Final = "async (receipt) => { (await import('/lumina/static/store.js')).commandSent(receipt); }"


def mount(app: FastAPI, directory: Path) -> FastAPI:
    """`app` with the page at `/`, for the runs under `directory`."""
    return mount_page(app, build(directory), "/")


def build(directory: Path) -> gr.Blocks:
    """The Gradio page, without a server."""

    def ask(run: str | None, message: Mapping[str, Any]) -> dict[str, Any]:
        return attempt(lambda: Run(run_paths(directory, run or ""), via="dashboard"), message)

    with gr.Blocks(title="Lumina", analytics_enabled=False, fill_width=True) as page:
        # What was sent last, for the scripts: it shows as queued until the trainer answers.
        sent = gr.JSON(visible=False)
        run = _header(page, directory, ask, sent)
        Panel("notice")
        Panel("kpis")
        with gr.Row(elem_id="lm-main"):
            with gr.Column(scale=7, min_width=460, elem_id="lm-charts"):
                _charts()
            with gr.Column(scale=3, min_width=330, elem_id="lm-side"):
                _announce(Panel("approval", ["command"]).command, _of_panel(ask), None, sent)
                _manual(ask, run, sent)
                _announce(Panel("rehearsal", ["command"]).command, _of_panel(ask), None, sent)
                _announce(Panel("receipts", ["command"]).command, _of_panel(ask), None, sent)
                Panel("budget")
                Panel("events")
    return page


def _charts() -> None:
    Panel("loss")
    with gr.Row():
        with gr.Column(min_width=320):
            Panel("experts")
        with gr.Column(min_width=320):
            Panel("depth")
    Panel("entropy")
    Panel("health")


def _header(page: gr.Blocks, directory: Path, ask: Ask, sent: gr.JSON) -> gr.Dropdown:
    with gr.Row(elem_id="lm-head", equal_height=True):
        Panel("brand", elem_id="lm-brand")
        run = gr.Dropdown(
            _names(directory), value=None, label="Run", show_label=False, container=False, elem_id="lm-run", scale=0,
            min_width=190, interactive=True,
        )  # fmt: skip
        state = Panel("state", ["runs_changed"], elem_id="lm-state")
        for action in CONTROLS:
            button = gr.Button(_LABELS[action], size="sm", elem_id=f"lm-{action}", scale=0, min_width=76)
            _announce(button.click, partial(ask, message={"action": action}), run, sent)
    run.change(None, run, None, js=_SELECT)
    page.load(_first_choice(directory), None, run, show_progress="hidden")
    state.runs_changed(partial(_choices, directory), run, run, show_progress="hidden")
    return run


def _announce(listen: Any, send: Any, inputs: Any, sent: gr.JSON) -> None:
    """Calls `send` on the event and tells the scripts what was sent."""
    # Not queued: a click must not wait behind another tab's.
    done = listen(send, inputs, sent, show_progress="hidden", queue=False)
    done.success(None, sent, None, js=_SENT, show_progress="hidden")


def _of_panel(ask: Ask) -> Callable[[gr.EventData], dict[str, Any]]:
    # Not a partial or a lambda: Gradio looks for the annotation.
    def send(event: gr.EventData) -> dict[str, Any]:
        message = event._data or {}
        return ask(message.get("run"), message)

    return send


def _manual(ask: Ask, run: gr.Dropdown, sent: gr.JSON) -> None:
    """A form for every action of the catalogue; the chosen one shows."""
    actions = [entry for entry in catalogue().values() if entry.kind == "action"]
    methods = [action.method for action in actions]
    with gr.Accordion("Trigger an intervention by hand", open=False, elem_id="lm-manual"):
        method = gr.Dropdown(
            methods, value=methods[0], label="Intervention", show_label=False, container=False, elem_id="lm-method"
        )
        forms = [_form(action, ask, run, sent, visible=action is actions[0]) for action in actions]
    method.change(
        lambda chosen: [gr.Column(visible=name == chosen) for name in methods],
        method,
        forms,
        show_progress="hidden",
        queue=False,
    )


def _form(action: Declaration, ask: Ask, run: gr.Dropdown, sent: gr.JSON, *, visible: bool) -> gr.Column:
    names = [arg.name for arg in action.args]
    with gr.Column(visible=visible, elem_classes="lm-form") as form:
        gr.Markdown(" ".join(action.doc.split()))
        # Text, so that an empty field is empty and a typo is answered by the declaration's own words.
        fields = [
            gr.Textbox(
                "" if arg.default is None else f"{arg.default:g}",
                label=arg.name,
                info=arg.help,
                placeholder=arg.allowed(),
                max_lines=1,
                elem_id=f"lm-arg-{action.method}-{arg.name}",
            )
            for arg in action.args
        ]
        with gr.Row(elem_classes="lm-form-buttons"):
            apply = gr.Button("Apply at the next step", size="sm", elem_id=f"lm-trigger-{action.method}")
            rehearse = gr.Button("Rehearse", size="sm", elem_id=f"lm-rehearse-{action.method}", min_width=90)
            rehearse.visible = can_be_rehearsed(action.method)

    def asking(what: str) -> Callable[..., dict[str, Any]]:
        def trigger(chosen: str | None, *values: str) -> dict[str, Any]:
            # An empty field takes the default, or is missed by name.
            args = {name: value for name, value in zip(names, values, strict=True) if value.strip()}
            return ask(chosen, {"action": what, "method": action.method, "args": args})

        return trigger

    _announce(apply.click, asking("intervene"), [run, *fields], sent)
    _announce(rehearse.click, asking("rehearse"), [run, *fields], sent)
    return form


def _names(directory: Path) -> list[tuple[str, str]]:
    """(label, name) of the runs, the living ones first, the newest first; replays beneath the run that they are of.

    Rehearsals are left out: they stand in a panel of their own.
    """
    listed = list_runs(directory)
    own = [run for run in listed if run["parent"] is None]
    found = sorted(own, key=lambda run: (run["state"] in _LIVE, run["created"] or 0), reverse=True)
    choices = []
    for run in found:
        choices.append((str(run["name"]), str(run["name"])))
        choices += [
            (f"↳ {child['name'].removeprefix(run['name']).lstrip('.')}", str(child["name"]))
            for child in listed
            if (child["parent"] or {}).get("run") == run["name"] and child["parent"]["kind"] != "rehearsal"
        ]
    return choices


def _first_choice(directory: Path) -> Callable[[gr.Request], gr.Dropdown]:
    def choose(request: gr.Request) -> gr.Dropdown:
        return _choices(directory, request.query_params.get("run"))

    return choose


def _choices(directory: Path, chosen: str | None) -> gr.Dropdown:
    choices = _names(directory)
    # A run that is gone stays chosen, so that the page says so instead of showing another one.
    if chosen and chosen not in [name for _, name in choices]:
        choices.append((chosen, chosen))
    return gr.Dropdown(choices=choices, value=chosen or (choices[0][1] if choices else None))
