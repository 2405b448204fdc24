"""Finds the presets that come with Lumina, in a checkout as in an installed wheel.
Knows nothing of what is in them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lumina.config.source import read_entries

# From the smallest to the largest; names that are not listed follow in alphabetical order.
_ORDER = ("debug", "debug_200m", "b1", "b7", "b14", "b30", "b50", "b100", "b200", "b300")
_PLACES = (Path(__file__).parent / "preset_files", Path(__file__).parents[2] / "presets")


def presets_dir() -> Path:
    """The folder of the preset files: beside this module once installed, else at the top of the checkout."""
    for place in _PLACES:
        if place.is_dir():
            return place
    raise FileNotFoundError(f"no presets in {' or '.join(str(place) for place in _PLACES)}")


def list_presets() -> list[str]:
    """Names of all presets, the smallest first."""
    found = sorted(path.stem for path in presets_dir().glob("*.yaml"))
    return sorted(found, key=lambda name: _ORDER.index(name) if name in _ORDER else len(_ORDER))


def preset_path(name: str) -> Path | None:
    """The file of a preset, or None when there is none of that name."""
    return presets_dir() / f"{name}.yaml" if name in list_presets() else None


@dataclass(frozen=True)
class About:
    """What a preset is for, and the hardware that it is meant for."""

    purpose: str
    hardware: str


def about_preset(name: str) -> About:
    """The ``about`` section of a preset's file; raises KeyError for a name that there is not."""
    path = preset_path(name)
    if path is None:
        raise KeyError(name)
    said = {
        e.keys[1]: str(e.value)
        for e in read_entries(path.read_text(encoding="utf-8"), path.name, rank=0)
        if e.keys[0] == "about"
    }
    return About(said["purpose"], said["hardware"])
