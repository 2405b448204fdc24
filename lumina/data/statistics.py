"""What is said of a file's samples in numbers, as Polars expressions over one table.

Rows that are alike are kept as one with their number, so that memory does not grow with the file. It knows numbers and
names, neither documents nor tokenizers.
"""

from __future__ import annotations

from typing import Any

import polars as pl

ROWS = 1 << 16  # samples after which rows that are alike are put together
_SAMPLE = {"form": pl.String, "kind": pl.String, "quality": pl.Int64, "low": pl.Boolean, "tokens": pl.Int64,
           "with_loss": pl.Int64}  # fmt: skip
_SAMPLES, _TOKENS, _QUALITY = pl.col("samples"), pl.col("tokens"), pl.col("quality")


class Table:
    """Samples, one row for all that are alike."""

    def __init__(self) -> None:
        self._rows: list[tuple[Any, ...]] = []
        self._alike = pl.DataFrame(schema={**_SAMPLE, "samples": pl.Int64})

    def add(self, form: str, kind: str, quality: int, low: bool, tokens: int | None, with_loss: int) -> None:
        """One valid sample. `quality` is in thousandths, `low` of a sample that is left out for it; `tokens` is None
        where none were counted."""
        self._rows.append((form, kind, quality, low, tokens, with_loss))
        if len(self._rows) >= ROWS:
            self._put_together()

    def _put_together(self) -> pl.DataFrame:
        new = pl.DataFrame(self._rows, schema=_SAMPLE, orient="row").with_columns(samples=pl.lit(1, pl.Int64))
        keys = [name for name in _SAMPLE if name != "with_loss"]
        both = (
            pl.concat([self._alike, new]).group_by(keys, maintain_order=True).agg(pl.col("samples", "with_loss").sum())
        )
        self._rows, self._alike = [], both.select(self._alike.columns)
        return self._alike

    def counts(self, name: str) -> dict[str, int]:
        """Samples by their form or kind, in the order in which these came first."""
        return dict(self._put_together().group_by(name, maintain_order=True).agg(_SAMPLES.sum()).iter_rows())

    def quality(self) -> dict[str, Any]:
        """valid, below, mean and min; the last two are None without a sample."""
        score = pl.when(_SAMPLES.sum() > 0).then((_QUALITY * _SAMPLES).sum() / _SAMPLES.sum() / 1000)
        found = self._put_together().select(
            valid=_SAMPLES.sum(), below=_SAMPLES.filter("low").sum(), mean=score, min=_QUALITY.min() / 1000
        )
        return found.row(0, named=True)

    def tokens(self) -> dict[str, Any]:
        """samples, total and with_loss, and mean, median, max, min and std (None without a sample) of those counted."""
        number = _SAMPLES.sum()
        mean = (_TOKENS * _SAMPLES).sum() / number
        middle = [_TOKENS.filter(_SAMPLES.cum_sum() > rank).first() for rank in ((number - 1) // 2, number // 2)]
        found = self._lengths().select(
            samples=number, total=(_TOKENS * _SAMPLES).sum(), with_loss=pl.col("with_loss").sum(), mean=mean,
            median=(middle[0] + middle[1]) / 2, max=_TOKENS.max(), min=_TOKENS.min(),
            std=(((_TOKENS - mean) ** 2 * _SAMPLES).sum() / number).sqrt(),
        )  # fmt: skip
        row = found.row(0, named=True)
        rounded = {name: round(row[name], 3) if row["samples"] else None for name in ("mean", "std")}
        return {**row, **rounded}

    def distribution(self) -> tuple[dict[str, int], ...]:
        """How many samples have so many tokens, in buckets that double: 1 to 2, 3 to 4, 5 to 8 ..."""
        bits = (64 - (_TOKENS - 1).bitwise_leading_zeros()).cast(pl.Int64)
        found = dict(self._lengths().group_by(bits.alias("bits")).agg(_SAMPLES.sum()).iter_rows())
        between = range(min(found), max(found) + 1) if found else ()
        return tuple({"from": (1 << b >> 1) + 1, "to": 1 << b, "samples": found.get(b, 0)} for b in between)

    def _lengths(self) -> pl.DataFrame:
        counted = self._put_together().filter(_TOKENS.is_not_null())
        return counted.group_by("tokens").agg(pl.col("samples", "with_loss").sum()).sort("tokens")
