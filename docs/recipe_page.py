"""docs/recipes.md: every recipe, what it did to a model in a real run, and the published figure where there is one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

FACTS = Path(__file__).parents[1] / "tests" / "facts"
SHUFFLENET = "torchvision:shufflenet_v2_x1_0"


@dataclass(frozen=True)
class Example:
    """One row: a recipe on a model that it is meant for.

    Attributes:
        published: reads the published figure out of tests/facts, given by the name of their file.
    """

    recipe: str
    model: str
    args: Mapping[str, Any] = field(default_factory=dict)
    published: Callable[[], str] = lambda: ""


@cache
def _facts(name: str) -> Any:
    return yaml.safe_load((FACTS / f"{name}.yaml").read_text(encoding="utf-8"))


def _senet(*keys: Any) -> Callable[[], str]:
    def read() -> str:
        value = _facts("senet")
        for key in keys:
            value = value[key]
        return f"{value['params_m']} M parameters (SENet paper)"

    return read


def _shufflenet(variant: str) -> Callable[[], str]:
    def read() -> str:
        row = _facts("shufflenet")[variant]
        return f"{row['params_m']} M parameters, {row['mflops']} MFLOPs in its unit (notebook 03)"

    return read


def _stripped(name: str) -> Callable[[], str]:
    def read() -> str:
        pair = next(pair for pair in _facts("native_pairs") if pair["native"] == name)
        return f"timm's {pair['plain']}: {-pair['params']:+,} parameters"

    return read


def _native(name: str) -> Callable[[], str]:
    def read() -> str:
        pair = next(pair for pair in _facts("native_pairs") if pair["native"] == name)
        return f"timm's {name}: {pair['params']:+,} parameters"

    return read


def _rework(recipe: str, variant: str) -> Example:
    return Example(recipe, SHUFFLENET, {"num_classes": 10}, _shufflenet(variant))


EXAMPLES = (
    Example("standard", "resnet50", published=_senet("reduction", 16)),
    Example("pre", "resnet50"),
    Example("post", "resnet50"),
    Example("identity", "resnet50"),
    Example("se-3x3", "resnet50", published=_senet("after_3x3")),
    Example("effective-se", "resnet18"),
    Example("regnety", "regnetx_002", published=_native("regnety_002")),
    Example("plain", "torchvision:vgg11_bn"),
    Example("inception", "torchvision:googlenet"),
    Example("concat", "vovnet39a"),
    Example("pp-lcnet", "mobilenetv1_100"),
    Example("mbconv", "mobilenetv2_100"),
    Example("mobilenetv3", "mobilenetv2_100"),
    Example("mobilenetv3-end", "mobilenetv2_100"),
    Example("yolov5-c3", "cs3darknet_l", published=_native("cs3sedarknet_l")),
    Example("yolov5-c3-second", "cs3darknet_l"),
    Example("backbone-end", "cs3darknet_l"),
    _rework("shufflenet-se", "se"),
    _rework("shufflenet-sk", "sk"),
    _rework("shufflenet-skconv", "sk"),
    _rework("shufflenet-k5", "k5"),
    _rework("shufflenet-liteconv", "liteconv"),
    _rework("shufflenet-csp", "csp"),
    Example("swap-attention", "seresnet18"),
    Example("strip-attention", "seresnet18", published=_stripped("seresnet18")),
)

HEAD = """\
# Recipes

<!-- Written by python docs/make.py from recipes/*.yaml and from real runs; do not edit. -->

A recipe is a YAML file of [recipes/](../recipes). `sesurgery recipes show NAME` prints one with its meaning;
[recipe-schema.json](recipe-schema.json) lets an editor complete and check your own. Every row below is a run of the
recipe on the model named, on meta tensors. Cost is that of one sample; MACs are multiply-accumulates, which most
papers print as "FLOPs".

"""


def page() -> str:
    """The text of docs/recipes.md. Raises ``LookupError`` where a recipe has no example or an example no recipe."""
    from sesurgery import list_recipes

    recipes = {recipe.name: recipe for recipe in list_recipes()}
    shown = {example.recipe for example in EXAMPLES}
    if recipes.keys() != shown:
        raise LookupError(f"give each recipe an example in {Path(__file__).name}: {sorted(recipes.keys() ^ shown)}")
    rows = [_row(example) for example in EXAMPLES]
    return HEAD + "\n".join([*_table(rows), "", *_details(recipes)]) + "\n"


def _row(example: Example) -> tuple[str, ...]:
    import sesurgery

    plan = sesurgery.plan(example.model, example.recipe, model_args=example.args)
    before, after = plan.before, plan.after
    assert before is not None
    assert after is not None
    arguments = "".join(f", {key}={value}" for key, value in example.args.items())
    return (
        f"[{example.recipe}](#{example.recipe})",
        f"{example.model.partition(':')[2] or example.model}{arguments}",
        str(len(plan.edits)),
        f"{before.params:,}",
        f"{after.params:,}",
        _mega(before.macs),
        _mega(after.macs),
        example.published(),
    )


def _mega(macs: int) -> str:
    return f"{macs / 1e6:,.2f}"


def _table(rows: list[tuple[str, ...]]) -> Iterator[str]:
    yield "| recipe | model | edits | parameters before | after | MACs before, M | after, M | published |"
    yield "|---|---|---:|---:|---:|---:|---:|---|"
    yield from (f"| {' | '.join(row)} |" for row in rows)


def _details(recipes: Mapping[str, Any]) -> Iterator[str]:
    for example in EXAMPLES:
        recipe = recipes[example.recipe]
        yield f"## {recipe.name}\n"
        yield f"{recipe.summary[0].upper()}{recipe.summary[1:]}. {_sentence(recipe.when)}\n"
        yield f"Source: {_sentence(recipe.source)}\n"
        yield f"    sesurgery preview {example.model}{flags(example)} --recipe {recipe.name}\n"


def flags(example: Example) -> str:
    """The arguments of its model, as options."""
    return "".join(f" --model-arg {key}={value}" for key, value in example.args.items())


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."
