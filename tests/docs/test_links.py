"""Pages name commands that are run, lead somewhere, and name no place of one machine."""

from __future__ import annotations

import re

import pytest
from pages import PAGES, REPOSITORY, read
from places import ROOT

TEST_COMMAND = "python -m venv .venv && . .venv/bin/activate && pip install -e '.[dev]' && pytest -q"
MAIN_COMMAND = (
    "python -m venv .venv && . .venv/bin/activate && pip install . "
    "&& sesurgery apply resnet50 --recipe standard --stages 4"
)


def test_commands_are_the_ones_that_are_run() -> None:
    readme = read("README.md")
    assert MAIN_COMMAND in readme
    assert TEST_COMMAND in readme
    assert TEST_COMMAND in read("CONTRIBUTING.md")
    steps = [step for step in TEST_COMMAND.split(" && ") if "venv" not in step]
    lines = [line.strip().replace("--quiet ", "") for line in read(".ci/run").splitlines()]
    assert [line for line in lines if line in steps] == steps


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    words = re.sub(r"^```.*?^```", "", read(page), flags=re.DOTALL | re.MULTILINE)
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", words)
    home = (ROOT / page).parent
    assert [target for target in targets if "://" not in target and not (home / target).exists()] == []
    inside = [re.fullmatch(rf"{REPOSITORY}/(?:blob|tree)/main/(.+)", target) for target in targets]
    assert [link[1] for link in inside if link and not (ROOT / link[1]).exists()] == []


def test_links_of_the_readme_work_where_it_is_shown_alone() -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", read("README.md"))
    assert targets
    assert [target for target in targets if not target.startswith(("https://", "#"))] == []


@pytest.mark.parametrize("page", PAGES)
def test_pages_name_no_place_of_one_machine(page: str) -> None:
    assert not re.search(r"(?<![\w.])/(work|home|root|tmp|Users)/", read(page))


def test_architecture_names_every_wing() -> None:
    page = read("docs/architecture.md")
    wings = [path.parent.name for path in (ROOT / "sesurgery").glob("*/__init__.py")]
    assert [wing for wing in wings if f"`{wing}/`" not in page] == []
