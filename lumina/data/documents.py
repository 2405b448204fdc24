"""What a sample is once its file's format is forgotten, and how samples are to be read.

It knows neither files nor tokens; a document carries the place it came from, so that whatever is said of it later can
name file and line.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lumina.config.schema import DataConfig

Form = Literal["auto", "text", "conversation", "xtuner", "messages", "sharegpt", "alpaca", "pairs"]
KNOWN_ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; `role` is one of `KNOWN_ROLES`. `loss` False: its author wants no loss on it."""

    role: str
    content: str
    loss: bool = True


@dataclass(frozen=True, slots=True)
class Document:
    """One sample: text, or a conversation. `line` counts from 1; in a table it is the row."""

    text: str = ""
    messages: tuple[Message, ...] = ()
    file: str = ""
    line: int = 0
    form: str = "text"

    @property
    def kind(self) -> str:
        """`conversation` or `text`."""
        return "conversation" if self.messages else "text"

    @property
    def texts(self) -> tuple[str, ...]:
        """Every piece of text in it, in order."""
        return tuple(message.content for message in self.messages) if self.messages else (self.text,)


@dataclass(frozen=True)
class Reading:
    """How samples are read: the parameters of the `data` group that decide what becomes of a line."""

    form: Form = "auto"
    text_field: str = "text"
    max_sample_bytes: int = 1 << 24
    quality_threshold: float = 0.85
    cleaning: bool = False

    @classmethod
    def of(cls, data: DataConfig) -> Reading:
        """As a run's configuration says."""
        return cls(
            data.format, data.text_field, data.max_sample_bytes, data.quality_threshold, data.automatic_data_cleaning
        )

    def key(self) -> list[object]:
        """What a cache of documents depends on."""
        return [self.form, self.text_field, self.max_sample_bytes, self.quality_threshold, self.cleaning]
