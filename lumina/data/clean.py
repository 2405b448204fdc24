"""Automatic cleaning: what is normalised in a sample's text. Line by line it is written down in docs/data.md.

It changes characters, never words; what is malformed is left out elsewhere, with a reason.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import replace

from lumina.data.documents import Document

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f-\x84\x86-\x9f\ufeff\ufffe\uffff\ud800-\udfff]")
_LINE_ENDS = re.compile(r"\r\n?|\x0c|\x85|\u2028|\u2029")
_TRAILING = re.compile(r"[ \t\u00a0]+$", re.MULTILINE)
_BLANK_LINES = re.compile(r"\n{4,}")
_PAIRED = re.compile(r"[\ud800-\udbff][\udc00-\udfff]")


def cleaned(document: Document) -> Document | None:
    """The document with every text normalised; None when nothing is left of it."""
    if not document.messages:
        text = normalised(document.text)
        return replace(document, text=text) if text.strip() else None
    made = [replace(message, content=normalised(message.content)) for message in document.messages]
    kept = tuple(message for message in made if message.content.strip())
    return replace(document, messages=kept) if any(message.role == "assistant" for message in kept) else None


def normalised(text: str) -> str:
    """NFC, line ends as a line feed, and no control characters, marks without width, or spaces at the ends of lines."""
    text = _PAIRED.sub(lambda pair: pair.group().encode("utf-16", "surrogatepass").decode("utf-16"), text)
    text = _CONTROL.sub("", _LINE_ENDS.sub("\n", text))
    text = _BLANK_LINES.sub("\n\n\n", _TRAILING.sub("", text))
    return unicodedata.normalize("NFC", text).strip("\n")
