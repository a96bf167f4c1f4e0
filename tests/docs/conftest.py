"""The script that makes the pages, for tests that run it."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from pages import load


@pytest.fixture(scope="module")
def make() -> Any:
    before = list(sys.path)
    try:
        yield load("docs/make.py")
    finally:
        sys.path[:] = before
