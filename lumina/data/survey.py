"""The statistics of a file while it is read: counts, roles, quality, token lengths, in memory that does not grow.

It knows documents and a tokenizer; what makes a file unusable is `validate`'s to say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from lumina.data.documents import Document
from lumina.data.quality import PENALTIES, Judged
from lumina.data.report import Issue
from lumina.data.tokenizer import SPECIAL, encode, special_id

if TYPE_CHECKING:
    from lumina.data.statistics import Table

BATCH = 256
BATCH_CHARACTERS = 1 << 20
SHOWN_TOKENS = 4000  # tokens of a sample that is shown


@dataclass(frozen=True)
class Counting:
    """What is looked at beyond validity. Without a tokenizer no tokens are counted."""

    tokenizer: Tokenizer | None = None
    mask_user: bool = False
    issues: int = 20
    samples: int = 0
    progress: Callable[[str, int], None] | None = None


def _table() -> Table:
    from lumina.data.statistics import Table  # Polars: a trainer that has its data in the cache goes without

    return Table()


@dataclass
class Tally:
    """Counts of one file, to which judged samples are added one after the other."""

    counting: Counting
    threshold: float
    invalid: int = 0
    not_listed: int = 0
    issues: list[Issue] = field(default_factory=list)
    roles: Counter[str] = field(default_factory=Counter)
    shown: list[dict[str, Any]] = field(default_factory=list)
    first_invalid: Issue | None = None
    first_low: Issue | None = None
    _table: Table = field(default_factory=_table)
    _took: Counter[str] = field(default_factory=Counter)
    _held: list[Judged] = field(default_factory=list)
    _characters: int = 0

    def add(self, item: Judged | Issue) -> None:
        """Counts one sample, or one issue in a sample's place."""
        if isinstance(item, Issue):
            self.invalid += 1
            self.first_invalid = self.first_invalid or item
            self.note(item)
            return
        document, quality = item.document, item.quality
        self.roles.update(message.role for message in document.messages)
        self._took.update(dict.fromkeys(quality.penalties, 1))
        if quality.score < self.threshold:
            low = Issue(document.line, quality.reason(self.threshold))
            self.first_low = self.first_low or low
            self.note(low)
            self._count(item, None, 0, low=True)
            return
        self._held.append(item)
        self._characters += sum(map(len, document.texts))
        if len(self._held) >= BATCH or self._characters >= BATCH_CHARACTERS:
            self.flush()

    def note(self, issue: Issue) -> None:
        """Lists an issue, as far as issues are listed."""
        if len(self.issues) < self.counting.issues:
            self.issues.append(issue)
        else:
            self.not_listed += 1

    def flush(self) -> None:
        """Tokenises and counts what is held back."""
        tokenizer, held = self.counting.tokenizer, self._held
        self._held, self._characters = [], 0
        if tokenizer is None:
            for item in held:
                self._count(item, None, 0)
            return
        coded = encode(tokenizer, [item.document for item in held], self.counting.mask_user)
        for item, (ids, mask) in zip(held, coded, strict=True):
            self._count(item, len(ids), sum(mask))
            if len(self.shown) < self.counting.samples:
                self.shown.append(_shown(item, tokenizer, ids, mask))

    def _count(self, item: Judged, tokens: int | None, with_loss: int, *, low: bool = False) -> None:
        document, score = item.document, round(item.quality.score * 1000)
        self._table.add(document.form, document.kind, score, low, tokens, with_loss)

    def statistics(self) -> dict[str, Any]:
        """What a `FileReport` says of the valid samples; what was added must be flushed."""
        kinds, found = self._table.counts("kind"), self._table.quality()
        quality = {
            "threshold": self.threshold,
            "mean": round(found["mean"] or 0.0, 4),
            "min": found["min"],
            "below": found["below"],
            "error_rate": round(self.invalid / max(1, found["valid"] + self.invalid), 4),
            "penalties": {name: self._took[name] for name in PENALTIES if self._took[name]},
        }
        return {
            "kind": " and ".join(kind for kind in ("text", "conversation") if kind in kinds) or None,
            "samples": found["valid"] + self.invalid,
            "valid": found["valid"],
            "low_quality": found["below"],
            "forms": self._table.counts("form"),
            "quality": quality if found["valid"] else {},
            "tokens": None if self.counting.tokenizer is None else self._table.tokens(),
            "lengths": self._table.distribution(),
        }


def _shown(item: Judged, tokenizer: Tokenizer, ids: list[int], mask: list[int]) -> dict[str, Any]:
    """A sample with its tokens as text, and which of them carry loss."""
    document: Document = item.document
    special = {special_id(tokenizer, name) for name in SPECIAL}
    return {
        "line": document.line,
        "form": document.form,
        "quality": round(item.quality.score, 3),
        "tokens": [_text_of(tokenizer, token) for token in ids[:SHOWN_TOKENS]],
        "loss": mask[:SHOWN_TOKENS],
        "special": [int(token in special) for token in ids[:SHOWN_TOKENS]],
        "tokens_not_shown": max(0, len(ids) - SHOWN_TOKENS),
    }


def _text_of(tokenizer: Tokenizer, token: int) -> str:
    # One token of a byte-level tokenizer may be part of a letter; it is shown as the replacement character.
    return str(tokenizer.decode([token], skip_special_tokens=False))
