"""The statistics of a file while it is read: counts, roles, quality, token lengths, in memory that does not grow.

It knows documents and a tokenizer; what makes a file unusable is `validate`'s to say.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tokenizers import Tokenizer

from lumina.data.documents import Document
from lumina.data.quality import PENALTIES, Judged
from lumina.data.report import Issue
from lumina.data.tokenizer import SPECIAL, encode, special_id

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


@dataclass
class Tally:
    """Counts of one file, to which judged samples are added one after the other."""

    counting: Counting
    threshold: float
    valid: int = 0
    invalid: int = 0
    low_quality: int = 0
    not_listed: int = 0
    issues: list[Issue] = field(default_factory=list)
    forms: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    roles: Counter[str] = field(default_factory=Counter)
    lengths: Counter[int] = field(default_factory=Counter)
    with_loss: int = 0
    shown: list[dict[str, Any]] = field(default_factory=list)
    first_invalid: Issue | None = None
    first_low: Issue | None = None
    _scores: Counter[int] = field(default_factory=Counter)
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
        self.valid += 1
        document, quality = item.document, item.quality
        self.forms[document.form] += 1
        self.kinds[document.kind] += 1
        self.roles.update(message.role for message in document.messages)
        self._scores[round(quality.score * 1000)] += 1
        self._took.update(dict.fromkeys(quality.penalties, 1))
        if quality.score < self.threshold:
            self.low_quality += 1
            low = Issue(document.line, quality.reason(self.threshold))
            self.first_low = self.first_low or low
            self.note(low)
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
        """Tokenises what is held back."""
        tokenizer, held = self.counting.tokenizer, self._held
        if tokenizer is not None and held:
            coded = encode(tokenizer, [item.document for item in held], self.counting.mask_user)
            for item, (ids, mask) in zip(held, coded, strict=True):
                self.lengths[len(ids)] += 1
                self.with_loss += sum(mask)
                if len(self.shown) < self.counting.samples:
                    self.shown.append(_shown(item, tokenizer, ids, mask))
        self._held, self._characters = [], 0

    @property
    def kind(self) -> str | None:
        """text, conversation, or both."""
        return " and ".join(kind for kind in ("text", "conversation") if self.kinds[kind]) or None

    def quality(self) -> dict[str, Any]:
        """Of the valid samples: scores, and how many each penalty touched."""
        if not self.valid:
            return {}
        scores = sorted(self._scores.items())
        return {
            "threshold": self.threshold,
            "mean": round(sum(score * n for score, n in scores) / self.valid / 1000, 4),
            "min": scores[0][0] / 1000,
            "below": self.low_quality,
            "error_rate": round(self.invalid / (self.valid + self.invalid), 4),
            "penalties": {name: self._took[name] for name in PENALTIES if self._took[name]},
        }

    def tokens(self) -> dict[str, Any] | None:
        """mean, median, max, min, std and total of the samples that are trained on; None without a tokenizer."""
        if self.counting.tokenizer is None:
            return None
        count, total = self.lengths.total(), sum(length * n for length, n in self.lengths.items())
        if not count:
            return {"samples": 0, "total": 0, "with_loss": 0} | dict.fromkeys(("mean", "median", "max", "min", "std"))
        mean = total / count
        spread = sum(n * (length - mean) ** 2 for length, n in self.lengths.items()) / count
        return {
            "samples": count,
            "total": total,
            "with_loss": self.with_loss,
            "mean": round(mean, 3),
            "median": (self._ranked((count - 1) // 2) + self._ranked(count // 2)) / 2,
            "max": max(self.lengths),
            "min": min(self.lengths),
            "std": round(math.sqrt(spread), 3),
        }

    def _ranked(self, rank: int) -> int:
        for length in sorted(self.lengths):
            rank -= self.lengths[length]
            if rank < 0:
                return length
        raise IndexError(rank)

    def distribution(self) -> tuple[dict[str, int], ...]:
        """How many samples have so many tokens, in buckets that double: 1 to 2, 3 to 4, 5 to 8 ..."""
        buckets: Counter[int] = Counter()
        for length, n in self.lengths.items():
            buckets[(length - 1).bit_length()] += n
        return tuple({"from": (1 << b >> 1) + 1, "to": 1 << b, "samples": buckets[b]} for b in _between(buckets))


def _between(buckets: Counter[int]) -> Iterator[int]:
    if buckets:
        yield from range(min(buckets), max(buckets) + 1)


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
