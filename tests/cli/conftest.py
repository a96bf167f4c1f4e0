"""What the tests of the command line share."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from stand_in import Engine


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    return Engine(monkeypatch)


@pytest.fixture(autouse=True)
def _no_paths_of_tests_stay_behind() -> Iterator[None]:
    yield
    assert not [path for path in sys.path if "test_" in path and "pytest-" in path]
