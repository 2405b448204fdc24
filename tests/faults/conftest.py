"""The lab that all rows share, and the report of what each row came to."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from faults import table
from faults.lab import Lab
from faults.matrix import LONG, Row, Tally

PASSED = pytest.StashKey[bool]()
RESULTS: dict[str, table.Result] = {}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "row(name, injected, expected): a row of the fault matrix")


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab.opened(tmp_path_factory.mktemp("lab")) as opened:
        yield opened


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Iterator[Tally]:
    """Counts what a row tried; a row that tried nothing has failed."""
    row = Row.of(request.node)
    assert row is not None, "only a test that is declared a row has a tally"
    tally = Tally()
    tally.doc.update(name=row.name, theme=request.path.stem.removeprefix("test_"))
    tally.doc.update(injected=row.injected, expected=row.expected, long=LONG)
    request.node.user_properties.append(("fault", tally.doc))
    yield tally
    assert tally.doc["tried"] > 0 or not request.node.stash.get(PASSED, False), "nothing was injected"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call":
        item.stash[PASSED] = report.passed
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    told = dict(report.user_properties).get("fault")
    if told is not None and (report.when == "call" or report.failed):
        RESULTS.setdefault(told["name"], table.Result.of(told)).add(told, report.passed)


def pytest_sessionfinish(session: pytest.Session) -> None:
    target = os.environ.get("LUMINA_FAULTS_TABLE")
    if target and RESULTS and not hasattr(session.config, "workerinput"):
        table.update(Path(target), list(RESULTS.values()))
