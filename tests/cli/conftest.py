"""What the tests of the command line share."""

from __future__ import annotations

import pytest
from stand_in import Engine


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    return Engine(monkeypatch)
