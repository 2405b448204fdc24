"""How answers look on a terminal: tables, numbers with units, one JSON document.

It knows nothing of runs; every text from outside passes `clean` before it reaches a terminal.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

MISSING = "-"


def say(text: str = "") -> None:
    """A line on stdout, shown at once."""
    print(text, flush=True)


def complain(text: str) -> None:
    """A line on stderr: ``lumina: error: ...``."""
    print(f"lumina: error: {text}", file=sys.stderr, flush=True)


def remark(text: str) -> None:
    """A line on stderr that is not an error."""
    print(f"lumina: {text}", file=sys.stderr, flush=True)


def print_json(document: Any, *, compact: bool = False) -> None:
    """The one document of ``--json``; not-finite numbers become null, all others round-trip exactly."""
    import orjson

    option = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS
    text = orjson.dumps(document, default=str, option=option if compact else option | orjson.OPT_INDENT_2)
    sys.stdout.write(text.decode("utf-8"))
    sys.stdout.flush()


def clean(text: Any) -> str:
    """`text` in one line, without anything that a terminal would obey."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(text).replace("\n", " "))


def table(headers: Sequence[str], rows: Sequence[Sequence[Any]], align: str = "") -> str:
    """Columns as wide as their content; `align` has one letter per column, l or r."""
    cells = [[clean(MISSING if cell is None else cell) for cell in row] for row in rows]
    widths = [max([len(header), *(len(row[i]) for row in cells)]) for i, header in enumerate(headers)]
    sides = align.ljust(len(headers), "l")
    lines = []
    for row in [[header.upper() for header in headers], *cells]:
        padded = (
            cell.rjust(width) if side == "r" else cell.ljust(width)
            for cell, width, side in zip(row, widths, sides, strict=True)
        )
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def facts(rows: Sequence[tuple[str, Any]]) -> str:
    """Label and value per line, values in one column."""
    width = max(len(label) for label, _ in rows)
    return "\n".join(f"{label.ljust(width)}  {clean(MISSING if value is None else value)}" for label, value in rows)


def number(value: float | None, digits: int = 4) -> str:
    """Significant digits: 3.142, 0.001, 1.2e-05; integers with separators."""
    if value is None:
        return MISSING
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e15):
        return f"{int(value):,}"
    return f"{value:.{digits}g}"


def fixed(value: float | None, decimals: int = 3) -> str:
    """A number with so many decimals, for columns in which values are compared."""
    return MISSING if value is None else f"{value:,.{decimals}f}"


def percent(fraction: float | None, decimals: int = 0) -> str:
    """0.25 as 25%."""
    return MISSING if fraction is None else f"{fraction:.{decimals}%}"


def short(value: float | None) -> str:
    """4,194,304 as 4.2M."""
    if value is None:
        return MISSING
    for limit, letter in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if abs(value) >= 0.9995 * limit:
            return f"{value / limit:.3g}{letter}"
    return f"{value:.3g}"


def size(count: float | None) -> str:
    """Bytes in binary units: 1.5 GiB."""
    if count is None:
        return MISSING
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if abs(count) >= 1024**power:
            return f"{count / 1024**power:.1f} {unit}"
    return f"{int(count)} B"


def duration(seconds: float | None) -> str:
    """A time a person can use: 8 s, 2 min 05 s, 3 h 10 min, 2 d 4 h."""
    if seconds is None:
        return MISSING
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def values(mapping: Any) -> str:
    """``temperature=1.5 layer_idx=0``; what a person types back as arguments."""
    if not isinstance(mapping, dict) or not mapping:
        return MISSING
    return " ".join(f"{key}={scalar(value)}" for key, value in mapping.items())


def scalar(value: Any) -> str:
    """One value as text; numbers to six digits, null as `-`."""
    if value is None:
        return MISSING
    return f"{value:.6g}" if isinstance(value, float) else str(value)
