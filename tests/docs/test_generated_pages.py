"""What the pages say is what happens: generated pages are fresh, and what they show was run."""

from __future__ import annotations

from typing import Any

import pytest
from pages import read
from places import ROOT

GENERATED = (
    "README.md",
    "docs/recipes.md",
    "docs/recipe-schema.json",
    "docs/pictures/preview.svg",
    "docs/pictures/block.svg",
)
# What they show takes half a minute to run: with pytest -m slow, and with .ci/site.
HOW_TO = tuple(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs" / "howto").glob("*.md")))


def test_these_are_the_generated_pages(make: Any) -> None:
    assert sorted(make.PAGES) == sorted((*GENERATED, *HOW_TO))


@pytest.mark.parametrize("path", [*GENERATED, *(pytest.param(path, marks=pytest.mark.slow) for path in HOW_TO)])
def test_a_generated_page_is_fresh(make: Any, path: str) -> None:
    assert make.same(path, make.PAGES[path]()), f"{path} is stale; python docs/make.py renews it"


def test_a_stale_page_is_noticed(make: Any) -> None:
    assert not make.same("README.md", read("README.md").replace("27,136,424", "27,136,425"))
    picture = read("docs/pictures/preview.svg")
    assert make.same("docs/pictures/preview.svg", picture.replace("font-size: 20px", "font-size: 21px"))
    assert not make.same("docs/pictures/preview.svg", picture.replace("27,136,424", "27,136,425"))


def test_a_run_that_is_shown_is_a_real_run(make: Any) -> None:
    page = "```python\nprint(6 * 7)\n```\n\n<!-- run: python -->\n```text\nold\n```\n"
    assert make.as_shown(page) == page.replace("old", "42")
    page = "<!-- run: sesurgery recipes | head -2 -->\n```text\n```\n"
    assert "recipe " in make.as_shown(page)
