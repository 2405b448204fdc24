"""A live panel: an empty place on the page that a script of its own fills and keeps fresh.

It knows how Gradio loads such a script; it must not know what any panel shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

_ON_LOAD = """
import("/lumina/static/SCRIPT.js").then(({ mount }) => mount(element, { trigger }));
// events: EVENTS
"""


class Panel(gr.HTML):
    """Loads `static/<script>.js` and calls its `mount(element, {trigger})` once; Gradio never redraws it.

    `events` are the names that the script may `trigger(name, data)`; each is a listener on the panel, like `.click`.
    """

    def __init__(self, script: str, events: Sequence[str] = (), **settings: Any) -> None:
        # Gradio makes a listener of every name that stands in quotes in this text.
        on_load = _ON_LOAD.replace("SCRIPT", script).replace("EVENTS", ", ".join(f'"{name}"' for name in events))
        super().__init__(
            value="",
            html_template="",
            css_template="",
            js_on_load=on_load,
            apply_default_css=False,
            elem_classes=["lm-panel", f"lm-panel-{script}"],
            **settings,
        )
