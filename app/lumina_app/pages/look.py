"""What all pages share: theme, style sheet, and how a page is mounted."""

from __future__ import annotations

from typing import Final

import gradio as gr
from fastapi import FastAPI
from gradio.themes import LocalFont

# A link, not Gradio's `css`, which would rewrite every selector.
HEAD: Final = '<link rel="stylesheet" href="/lumina/static/lumina.css">'


def mount_page(app: FastAPI, page: gr.Blocks, path: str, head: str = "") -> FastAPI:
    """`app` with a page at `path`; pages below another one's path are mounted before it."""
    return gr.mount_gradio_app(
        app,
        page,
        path=path,
        server_name="127.0.0.1",
        theme=theme(),
        head=HEAD + head,
        footer_links=[],
        show_error=True,
        ssr_mode=False,
        pwa=False,
    )


def theme() -> gr.themes.Base:
    """Indigo on slate, with fonts that are on the machine already."""
    return gr.themes.Base(
        primary_hue="indigo",
        neutral_hue="slate",
        radius_size="md",
        spacing_size="sm",
        text_size="sm",
        font=[LocalFont("IBM Plex Sans", weights=(400, 600, 700)), "system-ui", "sans-serif"],
        font_mono=[LocalFont("IBM Plex Mono", weights=(400, 600)), "ui-monospace", "monospace"],
    )
