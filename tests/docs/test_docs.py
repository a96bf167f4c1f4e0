"""What the pages say is what happens: generated pages are fresh, links lead somewhere, CONTRIBUTING can be followed."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from places import ROOT

GENERATED = (
    "README.md",
    "docs/recipes.md",
    "docs/recipe-schema.json",
    "docs/pictures/preview.svg",
)
HAND = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
PAGES = [*HAND, *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]
TEST_COMMAND = "python -m venv .venv && . .venv/bin/activate && pip install -e '.[dev]' && pytest -q"
MAIN_COMMAND = (
    "python -m venv .venv && . .venv/bin/activate && pip install . "
    "&& sesurgery apply resnet50 --recipe standard --stages 4"
)


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def load(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # a dataclass looks its module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def make() -> Any:
    before = list(sys.path)
    try:
        yield load("docs/make.py")
    finally:
        sys.path[:] = before


def test_these_are_the_generated_pages(make: Any) -> None:
    assert sorted(make.PAGES) == sorted(GENERATED)


@pytest.mark.parametrize("path", GENERATED)
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
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", read(page))
    home = (ROOT / page).parent
    assert [target for target in targets if "://" not in target and not (home / target).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_pages_name_no_place_of_one_machine(page: str) -> None:
    assert not re.search(r"(?<![\w.])/(work|home|root|tmp|Users)/", read(page))


def test_architecture_names_every_wing() -> None:
    page = read("docs/architecture.md")
    wings = [path.parent.name for path in (ROOT / "sesurgery").glob("*/__init__.py")]
    assert [wing for wing in wings if f"`{wing}/`" not in page] == []


def sections() -> dict[str, str]:
    parts = re.split(r"^## (.*)\n", read("CONTRIBUTING.md"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def blocks(title: str) -> list[str]:
    return re.findall(r"```\w+\n(.*?)```", sections()[title], flags=re.DOTALL)


@pytest.mark.parametrize("title", ["An attention node", "A placement", "An edit kind", "A recipe"])
def test_adding_takes_ten_lines_at_most(title: str) -> None:
    lines = [line for line in sections()[title].splitlines() if line.strip() and not line.startswith("```")]
    assert len(lines) <= 10
    assert blocks(title)


CHECKS = """
import copy, json, torch
from torch import nn
import sesurgery

{node}

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()
    def forward(self, x):
        return x + self.act(self.norm(self.conv(x)))

class Fork(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right, self.join = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 3, padding=1), nn.Conv2d(8, 8, 1)
    def forward(self, x):
        return self.join(torch.cat([self.left(x), self.right(x)], 1))

torch.set_num_threads(1)
torch.manual_seed(0)
chain = nn.Sequential(nn.Conv2d(3, 8, 1), Block(), Block()).eval()
forks = nn.Sequential(nn.Conv2d(3, 8, 1), Fork(), Fork()).eval()
x = torch.randn(2, 3, 8, 8)

def tried(model, recipe, **options):
    surgery = sesurgery.apply(model, recipe, example_input=x, **options)
    paths = [edit.path for edit in surgery.plan.edits]
    copy.deepcopy(surgery.model).train()(x).sum().backward()
    grown = surgery.after.params - surgery.before.params
    same = torch.equal(surgery.model.eval()(x), model(x))
    back = sesurgery.revert(surgery.model)
    undone = torch.equal(back.eval()(x), model(x)) and back.state_dict().keys() == model.state_dict().keys()
    return dict(paths=paths, grown=grown, same=same, undone=undone)

found = dict(
    node=tried(chain, "standard", module="scale", start=0.5),
    identity=tried(chain, "standard", module="scale", init="identity"),
    placement=tried(forks, dict(rules=[dict(insert=dict(module="se"), at="on every concat input")])),
    edit=tried(chain, dict(rules=[dict(dropout=dict(p=0.5), at="activation")])),
    recipe=tried(chain, "head-start"),
    listed=[recipe.name for recipe in sesurgery.list_recipes()],
)
try:
    sesurgery.load_recipe(dict(rules=[dict(dropout=dict(q=1), at="conv")]))
except sesurgery.RecipeError as error:
    found["refused"] = list(error.problems)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """CONTRIBUTING.md followed to the letter in a copy of the package, and what came of it."""
    root = tmp_path_factory.mktemp("fork")
    shutil.copytree(ROOT / "sesurgery", root / "sesurgery", ignore=shutil.ignore_patterns("__pycache__", "_recipes"))
    shutil.copytree(ROOT / "recipes", root / "recipes")
    grammar, kind = blocks("An edit kind")
    additions = {
        "sesurgery/placement/placements.py": blocks("A placement")[0],
        "sesurgery/recipe/rules.py": grammar,
        "sesurgery/edits/custom_layer.py": kind,
        "recipes/head-start.yaml": blocks("A recipe")[0],
    }
    for path, text in additions.items():
        assert f"`{path}`" in read("CONTRIBUTING.md")
        with (root / path).open("a", encoding="utf-8") as file:
            file.write(f"\n\n{text}" if path.endswith(".py") else text)
    script = root / "check.py"
    script.write_text(CHECKS.replace("{node}", blocks("An attention node")[0]), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, "-W", "error", str(script)]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_node_of_ones_own(followed: dict[str, Any]) -> None:
    assert followed["node"] == {"paths": ["1.scale", "2.scale"], "grown": 16, "same": False, "undone": True}
    assert followed["identity"]["same"]


def test_a_placement_of_ones_own(followed: dict[str, Any]) -> None:
    assert len(followed["placement"]["paths"]) == 4
    assert followed["placement"]["undone"]
    assert not followed["placement"]["same"]


def test_an_edit_kind_of_ones_own(followed: dict[str, Any]) -> None:
    assert followed["edit"] == {"paths": ["1.act", "2.act"], "grown": 0, "same": True, "undone": True}
    assert any("rules[0].dropout.q: unknown key" in problem for problem in followed["refused"])


def test_a_recipe_of_ones_own(followed: dict[str, Any], make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "head-start" in followed["listed"]
    assert followed["recipe"]["paths"] == ["1.eca"]
    assert followed["recipe"]["undone"]
    page = sys.modules["recipe_page"]
    monkeypatch.setattr(page, "EXAMPLES", page.EXAMPLES[1:])
    with pytest.raises(LookupError, match="standard"):
        page.page()
