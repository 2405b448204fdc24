"""The data page: what is in the files that a person wants to train on, sample by sample and token by token.

It knows which panel stands where; reading and judging are done by the command line, in a process of its own.
"""

from __future__ import annotations

import gradio as gr
from fastapi import FastAPI

from lumina_app.pages.look import mount_page
from lumina_app.panels import Panel

_STYLE = '<link rel="stylesheet" href="/lumina/static/data.css">'


def mount(app: FastAPI) -> FastAPI:
    """`app` with the page at `/data`."""
    return mount_page(app, build(), "/data", _STYLE)


def build() -> gr.Blocks:
    """The Gradio page, without a server."""
    with gr.Blocks(title="Lumina: data", analytics_enabled=False, fill_width=True) as page:
        with gr.Row(elem_id="lm-head", equal_height=True):
            Panel("brand", elem_id="lm-brand")
        Panel("data")
    return page
