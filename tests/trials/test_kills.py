"""Workers that are killed: every job ends once, on a journal and on a server. Many more: benchmarks/kill_study.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from study_kills import run


@pytest.mark.slow
def test_on_a_journal(tmp_path: Path) -> None:
    check(run(2, 0, tmp_path, jobs=16), 16)


@pytest.mark.slow
def test_on_postgresql(tmp_path: Path) -> None:
    pytest.importorskip("pgserver")
    from postgres import server

    with server(4) as database:
        check(run(2, 0, tmp_path, database, jobs=16), 16)


def check(counts: dict[str, int], jobs: int) -> None:
    assert counts["kills"] == 2
    assert counts["ended once"] == counts["jobs"] >= jobs
    assert counts["lost"] == counts["run twice"] == counts["wrong"] == 0
