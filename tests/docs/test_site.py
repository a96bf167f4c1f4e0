"""The site shows all that there is: each page is in its menu, each command in its reference, and links lead there."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer
import yaml
from pages import PAGES, load, read

import sesurgery
from sesurgery.cli.app import app


@pytest.fixture(scope="module")
def site() -> Iterator[Any]:
    before = list(sys.path)
    try:
        yield load("docs/make_site.py")
    finally:
        sys.path[:] = before


def test_each_page_is_in_the_menu(site: Any) -> None:
    menu = yaml.safe_load(read("mkdocs.yml"))["nav"]
    listed = [
        entry for item in menu for value in item.values() for entry in (value if isinstance(value, list) else [value])
    ]
    assert sorted({site.on_site(page) for page in PAGES} - set(listed)) == []


def test_each_command_is_in_the_reference(site: Any) -> None:
    top: Any = typer.main.get_command(app)
    known = {*site.COMMANDS, *site.LISTS, "completion"}
    assert sorted(set(top.commands) - known) == []


def test_each_public_name_has_a_page(site: Any) -> None:
    written: dict[str, str] = {}
    site._api(lambda path, content: written.__setitem__(path, content))
    assert {f"api/{name}.md" for name in sesurgery.__all__ if name != "__version__"} <= set(written)
    assert written["api/apply.md"].startswith("::: sesurgery.api.apply")


@pytest.mark.parametrize(
    ("source", "link", "there"),
    [
        ("README.md", "[a](https://github.com/sesurgery/sesurgery/blob/main/docs/eject.md#b)", "[a](eject.md#b)"),
        (
            "README.md",
            "![a](https://raw.githubusercontent.com/sesurgery/sesurgery/main/docs/pictures/block.svg)",
            "![a](pictures/block.svg)",
        ),
        ("docs/howto/own-layer.md", "[a](../../CONTRIBUTING.md)", "[a](../contributing.md)"),
        ("docs/recipes.md", "[a](../recipes)", "[a](https://github.com/sesurgery/sesurgery/tree/main/recipes)"),
        ("docs/recipes.md", "```python\nx[0](y)\n```", "```python\nx[0](y)\n```"),
        ("README.md", "[a](https://example.org/x)", "[a](https://example.org/x)"),
    ],
)
def test_links_lead_to_the_site_or_to_the_forge(site: Any, source: str, link: str, there: str) -> None:
    assert site._linked(link, source) == there
