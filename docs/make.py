"""Write what is generated of the documentation: ``python docs/make.py``.

docs/recipes.md, docs/recipe-schema.json, docs/pictures/*.svg and the outputs shown in README.md come from the recipes
and from real runs, on meta tensors.
``python docs/make.py --check`` writes nothing and names the pages that are stale.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path[:0] = [str(DOCS), str(ROOT)]

import recipe_page  # noqa: E402
from shown_runs import as_shown, texts_of  # noqa: E402


def picture() -> str:
    """The preview of the README's command, as an SVG of a terminal."""
    import sesurgery
    from sesurgery.report.plan import render_report, render_svg

    plan = sesurgery.plan("resnet50", "standard", stages="4")
    title = "sesurgery preview resnet50 --recipe standard --stages 4"
    return render_svg(lambda console: render_report(console, plan, code=True), title=title)


def block() -> str:
    """The block of the README before and after, drawn by graphviz; as it is where that is not installed."""
    import sesurgery

    if shutil.which("dot") is None:
        return (ROOT / "docs" / "pictures" / "block.svg").read_text(encoding="utf-8")
    return sesurgery.draw("torchvision:resnet50", "standard", stages="4").decode()


def schema() -> str:
    """The JSON schema of a recipe file."""
    from sesurgery.recipe.recipe import schema_text

    return schema_text()


def readme() -> str:
    """README.md with the outputs of its commands and of its Python as they are now."""
    return as_shown((ROOT / "README.md").read_text(encoding="utf-8"))


def how_to(name: str) -> Callable[[], str]:
    """A page of docs/howto with the outputs of its commands as they are now."""
    return lambda: as_shown((DOCS / "howto" / name).read_text(encoding="utf-8"))


PAGES: dict[str, Callable[[], str]] = {
    "README.md": readme,
    "docs/recipes.md": recipe_page.page,
    "docs/recipe-schema.json": schema,
    "docs/pictures/preview.svg": picture,
    "docs/pictures/block.svg": block,
    **{f"docs/howto/{path.name}": how_to(path.name) for path in sorted((DOCS / "howto").glob("*.md"))},
}


def same(path: str, new: str) -> bool:
    """Whether a page says what it should; of a picture the words count, its styles differ between versions of rich."""
    old = ROOT / path
    if not old.is_file():
        return False
    text = old.read_text(encoding="utf-8")
    return texts_of(text) == texts_of(new) if path.endswith(".svg") else text == new


def main(arguments: list[str]) -> int:
    """Write every page, or with ``--check`` say which are stale."""
    stale = 0
    for path, make in PAGES.items():
        new = make()
        if same(path, new):
            continue
        stale += 1
        if "--check" in arguments:
            print(f"{path} is stale; python docs/make.py renews it")
        else:
            (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
            (ROOT / path).write_text(new, encoding="utf-8")
            print(f"wrote {path}")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main(sys.argv[1:]))
