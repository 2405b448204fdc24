"""Where prepared data is kept between runs. It knows no format of what is kept."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root() -> Path:
    """LUMINA_CACHE, else the user's cache directory."""
    explicit = os.environ.get("LUMINA_CACHE")
    if explicit:
        return Path(explicit)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lumina"
