"""The one exception with which a part of Lumina says no, and the exit code that goes with each reason.

It knows nothing of runs, files or training; every other module may import it.
"""

from __future__ import annotations

from typing import Final

_ASKED_WRONGLY: Final = frozenset(
    {"bad_argument", "out_of_range", "unknown_method", "not_found", "name_taken", "bad_data"}
)
_NOT_NOW: Final = frozenset(
    {
        "stale",
        "expired",
        "superseded",
        "busy",
        "not_running",
        "unsupported",
        "verify_failed",
        "corrupt",
        "locked",
    }
)
REFUSAL_CODES: Final = _ASKED_WRONGLY | _NOT_NOW


class Refusal(Exception):
    """A request that was understood and not carried out.

    `code` is one of `REFUSAL_CODES`; `message` says what, where, and what is allowed.
    """

    def __init__(self, code: str, message: str) -> None:
        if code not in REFUSAL_CODES:
            raise ValueError(f"unknown refusal code {code!r}")
        super().__init__(message)
        self.code = code
        self.message = message

    @property
    def exit_code(self) -> int:
        """2 where the request itself is wrong, 1 where it cannot be done now."""
        return 2 if self.code in _ASKED_WRONGLY else 1

    def __reduce__(self) -> tuple[type[Refusal], tuple[str, str]]:
        return (Refusal, (self.code, self.message))
