"""Shared by all tests: caches go to a temporary folder, and the log's level is not handed on."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="session")
def _private_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUMINA_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _own_log_level() -> Iterator[None]:
    """A run sets the level of the whole process, as its configuration says; the next test is another process's."""
    yield
    logging.getLogger("lumina").setLevel(logging.NOTSET)


@pytest.fixture
def _two_threads() -> Iterator[None]:
    """PyTorch on two threads, and as before afterwards."""
    import torch  # only here: most tests need none

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
