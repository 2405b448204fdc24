"""A dataset of the Hugging Face hub as a local folder, as `datasets` saves it.

It is the only part of Lumina that uses a network, and must not be reached unless a person named a dataset of the hub.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import tempfile
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from lumina.data.cache import cache_root
from lumina.data.report import DataError

SECONDS_TO_ANSWER = 5.0


def fetched(name: str) -> Path:
    """The folder of the dataset `owner/name` or `owner/name@split` (train when none is named), fetched once.

    Raises `DataError` when there is no such dataset or no network.
    """
    dataset, _, split = name.partition("@")
    folder = cache_root() / "hub" / re.sub(r"[^\w.@-]", "--", f"{dataset}@{split or 'train'}")
    if not folder.is_dir():
        _check_network(dataset)
        _fetch(dataset, split or "train", folder)
    return folder


def _check_network(dataset: str) -> None:
    """Raises `DataError` at once where the hub cannot be reached; its own client would try for a minute."""
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        raise DataError("this is a dataset of the Hugging Face hub, and HF_HUB_OFFLINE forbids the network", dataset)
    if getproxies():
        return
    hub = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    try:
        with socket.create_connection((hub.hostname or "", hub.port or 443), SECONDS_TO_ANSWER):
            pass
    except OSError as error:
        raise DataError(
            f"there is no such file or folder, and the Hugging Face hub cannot be reached ({error.strerror or error})",
            dataset,
        ) from error


def _fetch(dataset: str, split: str, folder: Path) -> None:
    import datasets

    folder.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".fetching-"))
    try:
        datasets.load_dataset(dataset, split=split).save_to_disk(str(building))
        building.rename(folder)
    except Exception as error:  # whatever a network, a hub and a loader of datasets raise
        reason = f"{type(error).__name__}: {str(error).splitlines()[0][:160] if str(error) else 'no reason given'}"
        raise DataError(f"the Hugging Face hub gave no such dataset ({reason})", dataset) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
