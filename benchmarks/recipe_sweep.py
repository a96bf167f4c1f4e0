"""Every recipe on one small model of each family of timm and torchvision; writes docs/recipes-by-family.md.

    python benchmarks/recipe_sweep.py                 # on meta: forward and backward, train and eval mode, revert
    python benchmarks/recipe_sweep.py --filter 'timm:res*'
    python benchmarks/recipe_sweep.py --report        # only write the page from the results there are

A recipe either operates or refuses with a reason. An operated model must run forward and backward (shapes, graph and
in-place versions are those of real tensors; there are no numbers), every new parameter must get a gradient, and after
``revert`` the model must hold the very tensors, classes and attributes that it held before.
"""

from __future__ import annotations

import re
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

from runner import Runner, main
from zoo import example, names

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "recipes-by-family.md"
_SMALL = "test_ atto femto pico nano xxs tiny mini _xs small 050 _0 18 _s lite 10 26".split()


def small_models() -> list[str]:
    """One reference a family: of its models, the one whose name speaks most of smallness."""
    import timm

    chosen: dict[str, tuple[tuple[int, int, int], str]] = {}
    for reference in names():
        library, _, name = reference.partition(":")
        family = library + ":" + (_timm_family(timm, name) if library == "timm" else _torchvision_family(name))
        hint = next((index for index, word in enumerate(_SMALL) if word in name), len(_SMALL))
        rank = (name.startswith("test_") and hint > 0, hint, len(name))
        if family not in chosen or rank < chosen[family][0]:
            chosen[family] = (rank, reference)
    return sorted(reference for _, reference in chosen.values())


def _timm_family(timm: Any, name: str) -> str:
    return timm.model_entrypoint(name).__module__.rpartition(".")[2]


def _torchvision_family(name: str) -> str:
    import torchvision

    return torchvision.models.get_model_builder(name).__module__.removeprefix("torchvision.models.")


def sweep(reference: str) -> list[dict[str, Any]]:
    """Every recipe on one model, which is the same again after each; made anew where one failed."""
    import torch

    torch.set_num_threads(1)
    from sesurgery.models import zoo
    from sesurgery.recipe.recipe import recipe_names

    spec = zoo.resolve(reference)
    rows = []
    model = args = None
    for recipe in recipe_names():
        if model is None:
            model = zoo.create(spec, device="meta")
            args = example(model, spec)
            if args is None:  # its forward looks at values, so meta tensors cannot run it
                model = _detector(spec)
        row: dict[str, Any] = {"model": reference, "recipe": recipe}
        try:
            row.update(_tried(model, args, spec, recipe))
        except Exception as error:
            row.update(crash=f"{type(error).__name__}: {error}"[:300], trace=traceback.format_exc()[-1500:])
        if "crash" in row:
            model = None
        rows.append(row)
    return rows


def _tried(model: Any, args: Any, spec: Any, recipe: str) -> dict[str, Any]:
    import torch

    import sesurgery

    before = _state(model)
    try:
        surgery = sesurgery.apply(model, recipe, inplace=True, example_input=args or ([torch.rand(3, 96, 96)],))
    except (sesurgery.NothingMatchedError, sesurgery.InputError) as refused:
        if _state(model) != before:
            return {"crash": "a refusal changed the model"}
        return {"refused": refused.what}
    new = surgery.new_parameters()
    modes = (False, True)
    wrong = [_detect(model, new)] if args is None else [_run(model, args, spec, train, new) for train in modes]
    sesurgery.revert(model.eval())
    if _state(model) != before:
        wrong.append("revert leaves something behind")
    problems = "; ".join(problem for problem in wrong if problem)
    return {"edits": len(surgery.plan.edits), **({"crash": problems} if problems else {})}


def _detector(spec: Any) -> Any:
    """A detection model with weights, for images as small as its builder allows."""
    import sesurgery
    from sesurgery.models import zoo

    try:
        return zoo.create(zoo.resolve(spec.reference, {"min_size": 96, "max_size": 128}))
    except sesurgery.SurgeryError:
        return zoo.create(spec)


def _detect(model: Any, new: list[Any]) -> str | None:
    """Detection in eval mode, and a training step on one object; what went wrong."""
    import torch

    images = [torch.rand(3, 96, 96)]
    target = {
        "boxes": torch.tensor([[8.0, 8.0, 60.0, 70.0]]),
        "labels": torch.tensor([1]),
        "masks": torch.ones(1, 96, 96, dtype=torch.uint8),
        "keypoints": torch.tensor([[[20.0, 20.0, 1.0]] * 17]),
    }
    try:
        with torch.no_grad():
            model.eval()(images)
        sum(model.train()(images * 2, [target] * 2).values()).backward()
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:300]
    return _without_gradient(model, new, "train")


def _run(model: Any, args: Any, spec: Any, train: bool, new: list[Any]) -> str | None:
    """Forward and backward; what went wrong, unless the plain model cannot do it either."""
    import torch

    from sesurgery.models import zoo
    from sesurgery.recording.nested import map_tensors, tensors_in

    def step(body: Any) -> None:
        two = map_tensors(lambda leaf: torch.cat([leaf, leaf]) if leaf.ndim == 4 else leaf, args)
        body.train(train)
        loss = sum(leaf.sum() for leaf in tensors_in(body(*two)) if leaf.is_floating_point() and leaf.requires_grad)
        loss.backward()

    mode = "train" if train else "eval"
    try:
        step(model)
    except Exception as error:
        try:
            step(zoo.create(spec, device="meta"))
        except Exception:
            return None
        return f"{mode}: {type(error).__name__}: {error}"[:300]
    return _without_gradient(model, new, mode)


def _without_gradient(model: Any, new: list[Any], mode: str) -> str | None:
    """How many of the new parameters a backward left out; the gradients are taken away."""
    missing = sum(parameter.grad is None for parameter in new)
    for parameter in model.parameters():
        parameter.grad = None
    return f"{mode}: {missing} of {len(new)} new parameters get no gradient" if missing else None


def _state(model: Any) -> Any:
    return (
        [(key, id(value)) for key, value in model.state_dict(keep_vars=True).items()],
        [(type(module), tuple(module.__dict__), tuple(module._modules)) for module in model.modules()],
    )


def page(rows: list[dict[str, Any]]) -> str:
    """docs/recipes-by-family.md as text."""
    models = sorted({row["model"] for row in rows})
    recipes = sorted({row["recipe"] for row in rows})
    cells = {(row["model"], row["recipe"]): row for row in rows}
    crashes = [row for row in rows if "crash" in row]
    lines = ["# Every recipe on every family", "", "Written by `python benchmarks/recipe_sweep.py`; do not edit.", ""]
    lines += [
        f"{len(models)} models (a small one of each family), {len(recipes)} recipes, {len(rows):,} tries: "
        f"{sum('edits' in row for row in rows):,} operated, {sum('refused' in row for row in rows):,} refused with a "
        f"reason, {len(crashes)} failed. A number counts edits; an empty cell is a refusal. On `meta`: forward "
        "and backward in eval and train mode (detection models: with weights, detecting and one training step), a "
        "gradient for every new parameter, `revert` to the same tensors.",
        "",
        "| model | " + " | ".join(recipes) + " |",
        "|---|" + "--:|" * len(recipes),
    ]
    for model in models:
        shown = [_cell(cells.get((model, recipe), {})) for recipe in recipes]
        lines.append(f"| {model} | " + " | ".join(shown) + " |")
    lines += ["", "## Failures", ""]
    lines += [f"- {row['model']}, {row['recipe']}: {row['crash']}" for row in crashes] or ["None."]
    reasons = Counter(refusal(row["refused"]) for row in rows if "refused" in row)
    lines += ["", "## The commonest reasons to refuse", ""]
    lines += [f"- {reason} ({count})" for reason, count in reasons.most_common(25)]
    return "\n".join(lines) + "\n"


def refusal(refused: str) -> str:
    """Why, without the place and the model."""
    miss = refused.split("; sesurgery inspect")[0].split(" matched nothing in ")[-1].partition("; ")[2] or refused
    nearest = re.fullmatch(r"nearest miss: [^:]*: (.*)", miss)
    return re.sub(r" \(line \d+ of .*", "", nearest[1] if nearest else miss.partition("; ")[0])


def _cell(row: dict[str, Any]) -> str:
    return "**fails**" if "crash" in row else str(row.get("edits", ""))


def write(rows: list[dict[str, Any]]) -> str:
    """Write docs/recipes-by-family.md; its summary."""
    PAGE.write_text(page(rows), encoding="utf-8")
    return page(rows).splitlines()[4]


if __name__ == "__main__":
    main(Runner(sweep, HERE / "recipe_sweep.jsonl", ("model", "recipe")), small_models, write, __doc__)
