"""Operate on models of libraries that users bring, with real tensors, and write docs/user-libraries.md.

    pip install -e '.[libraries]'
    python benchmarks/user_libraries.py                     # all models, resumes where it stopped
    python benchmarks/user_libraries.py --filter 'monai:*' --fresh
    python benchmarks/user_libraries.py --report            # only write the page from the results there are

Each model is made small with random weights, in a process of its own. The first recipe that fits is applied with
``init=identity``; the operated model is verified beside its original, trained one step and reverted. One JSON line a
model goes to ``user_libraries.jsonl`` beside this script.
"""

from __future__ import annotations

import copy
import resource
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from library_models import LIBRARIES, make
from machine import machine
from recipe_sweep import refusal
from runner import Runner, main

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "user-libraries.md"
RECIPES = ("standard", "concat", "plain", "backbone-end")


def names() -> list[str]:
    """Every model of the libraries that are installed, as references."""
    return [
        f"{library}:{name}" for library, (_, models) in LIBRARIES.items() if find_spec(library) for name in models()
    ]


def examine(reference: str) -> list[dict[str, Any]]:
    """Put one model through everything; the row says what happened and how long it took."""
    import torch

    torch.set_num_threads(1)
    row: dict[str, Any] = {"model": reference, "date": date.today().isoformat()}
    try:
        torch.manual_seed(0)
        start = time.perf_counter()
        model, args = make(reference)
        # As a user's model is: it has run, so hooks that its library installs at the first forward are there.
        with torch.no_grad():
            model(*args)
        row.update(cls=type(model).__name__, create_s=round(time.perf_counter() - start, 2))
    except Exception as error:
        return [row | {"unusable": f"{type(error).__name__}: {error}"[:300], "trace": traceback.format_exc()[-1500:]}]
    try:
        row.update(_operated(model, args))
    except Exception as error:
        row.update(crash=f"{type(error).__name__}: {error}"[:500], trace=traceback.format_exc()[-2000:])
    row["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return [row]


def _operated(model: Any, args: tuple[Any, ...]) -> dict[str, Any]:
    """The first recipe that fits, applied, verified, trained and undone."""
    import sesurgery

    refused: dict[str, str] = {}
    for recipe in RECIPES:
        original, before = copy.deepcopy(model), state(model)
        start = time.perf_counter()
        try:
            surgery = sesurgery.apply(model, recipe, inplace=True, example_input=args, init="identity")
        except (sesurgery.NothingMatchedError, sesurgery.InputError) as error:
            refused[recipe] = str(error)
            if state(model) != before:
                return {"crash": f"{recipe}: a refusal changed the model"}
            continue
        applied = time.perf_counter()
        checked = sesurgery.verify(original, model, example_input=args)
        verified = time.perf_counter()
        trained = train(model.train(), args, layers_of(surgery), original.train())
        sesurgery.revert(model.eval())
        return {
            "recipe": recipe,
            "edits": len(surgery.plan.edits),
            "routes": dict(Counter(edit.route for edit in surgery.plan.edits)),
            "skipped": dict(Counter(skip.reason for skip in surgery.plan.skipped)),
            "notes": sorted({note for edit in surgery.plan.edits for note in edit.notes}),
            "equal": bool(checked),
            "identical": checked.identical,
            "cases": {case.name: f"{case.outcome} {case.reason}".strip() for case in checked.cases},
            "differences": [str(one) for one in checked.differences][:10],
            "trained": trained,
            "reverted": state(model) == before,
            "apply_s": round(applied - start, 2),
            "verify_s": round(verified - applied, 2),
            "refused": refused,
        }
    return {"refused": refused}


def state(model: Any) -> Any:
    """The tensors, classes and attributes of a model, by identity and in order."""
    return (
        [(key, id(value)) for key, value in model.state_dict(keep_vars=True).items()],
        [(type(module), tuple(module.__dict__), tuple(module._modules)) for module in model.modules()],
    )


def layers_of(surgery: Any) -> dict[str, list[Any]]:
    """The parameters of each inserted layer."""
    paths = [edit.path for edit in surgery.plan.edits]
    return {path: list(surgery.model.get_submodule(path).parameters()) for path in paths}


def train(model: Any, args: tuple[Any, ...], layers: dict[str, list[Any]], original: Any) -> str:
    """``yes`` where every new parameter gets a gradient and every inserted layer moves; else what went wrong.

    Where a norm starts at zero, or a branch is dropped at random, nothing behind a layer asks for anything at first.
    """
    import torch

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = {path: [each.detach().clone() for each in parameters] for path, parameters in layers.items()}
    stuck = list(layers)
    for step in range(1, 9):
        try:
            _backward(model, args)
        except Exception as error:
            return f"FAILS: {type(error).__name__}: {error}"[:300] if _trainable(original, args) else "no"
        missing = [path for path, parameters in layers.items() if any(each.grad is None for each in parameters)]
        if missing:
            return f"FAILS: {len(missing)} layers get no gradient: {missing[:3]}"
        optimizer.step()
        stuck = [path for path, old in before.items() if all(map(torch.equal, layers[path], old))]
        if not stuck:
            return "yes" if step == 1 else f"yes, at step {step}"
    return f"FAILS: {len(stuck)} of {len(layers)} layers do not move: {stuck[:3]}"


def _trainable(original: Any, args: tuple[Any, ...]) -> bool:
    try:
        _backward(original, args)
    except Exception:
        return False
    return True


def _backward(model: Any, args: tuple[Any, ...]) -> None:
    import torch

    from sesurgery.recording.nested import map_tensors, tensors_in

    two = map_tensors(
        lambda leaf: torch.cat([leaf, leaf * 0.5]) if leaf.is_floating_point() else leaf.repeat(2, 1), args
    )
    outputs = [leaf for leaf in tensors_in(model(*two)) if leaf.is_floating_point() and leaf.requires_grad]
    # Weighted by random numbers: the plain mean of what a norm gives is a constant.
    sum((leaf * torch.rand_like(leaf)).mean() for leaf in outputs).backward()


def page(rows: list[dict[str, Any]]) -> str:
    """docs/user-libraries.md as text."""
    lines = [*_summary(rows), ""]
    for library, (package, _) in LIBRARIES.items():
        group = [row for row in rows if row["model"].startswith(library + ":") and "recipe" in row]
        lines += ["", f"## {package} {_version(package)}", ""]
        if not group:
            lines.append("No result.")
            continue
        lines += ["| model | recipe | edits | routes | verified | one step | reverted | apply, verify (s) |"]
        lines += ["|---|---|--:|---|---|---|---|--:|"]
        lines += [_line(row) for row in group]
    lines += ["", "## Why not `standard`", "", *_other_recipes(rows)]
    refusing = [row for row in rows if "refused" in row and "recipe" not in row]
    lines += ["", "## Refused, and why", ""]
    lines += [f"- `{row['model']}`: {_why(row['refused'])}" for row in refusing] or ["None."]
    lines += ["", "## Failures", ""]
    lines += list(_failures(rows)) or ["None."]
    lines += ["", "## Could not be made or run without sesurgery", ""]
    lines += [f"- `{row['model']}`: {_cut(row['unusable'])}" for row in rows if "unusable" in row] or ["None."]
    return "\n".join(lines) + "\n"


def _line(row: dict[str, Any]) -> str:
    routes = ", ".join(f"{route} {count}" for route, count in sorted(row["routes"].items()))
    compared = sum(text.startswith("equal") for text in row["cases"].values())
    verified = f"equal in {compared} of {len(row['cases'])} cases" if row["equal"] else "**differs**"
    trained = "**fails**" if row["trained"].startswith("FAILS") else row["trained"]
    reverted = "yes" if row["reverted"] else "**no**"
    name = row["model"].partition(":")[2]
    seconds = f"{row['apply_s']:.1f}, {row['verify_s']:.1f}"
    return f"| {name} | {row['recipe']} | {row['edits']} | {routes} | {verified} | {trained} | {reverted} | {seconds} |"


def _summary(rows: list[dict[str, Any]]) -> Iterator[str]:
    operated = [row for row in rows if "recipe" in row]
    usable = [row for row in rows if "unusable" not in row]
    yield "# Models of other libraries"
    yield ""
    yield "Written by `python benchmarks/user_libraries.py`; do not edit. Small configurations with random weights,"
    yield "real tensors, one process and one thread a model, `init=identity`."
    yield ""
    yield f"Machine: {machine()}."
    yield ""
    days = Counter(row["date"] for row in rows)
    yield f"- Run {', '.join(f'on {day} ({count} models)' for day, count in sorted(days.items()))}."
    missing = set(names()) - {row["model"] for row in rows}
    if missing:
        yield f"- **Not finished: {len(missing)} models have no result yet.** The command above goes on with them."
    routes = Counter[str]()
    for row in operated:
        routes.update(row["routes"])
    ways = ", ".join(f"{route} {count:,}" for route, count in routes.most_common())
    yield f"- Operated: {len(operated)} of {len(usable)} models, {routes.total():,} edits: {ways}."
    cases = Counter(text.partition(" ")[0] for row in operated for text in row["cases"].values())
    yield (
        f"- Verified by `sesurgery.verify`: {sum(row['equal'] for row in operated)} of {len(operated)}; "
        f"{cases['equal']:,} of {cases.total():,} cases equal bit for bit, the others not comparable (the original "
        "fails in them, or differs from itself)."
    )
    yield (
        f"- Trained one step, a gradient for every new parameter: "
        f"{sum(row['trained'].startswith('yes') for row in operated)} of {len(operated)}."
    )
    yield f"- Reverted to the same tensors, classes and attributes: {sum(row['reverted'] for row in operated)}."
    yield f"- Crashes: {sum('crash' in row for row in rows)}."


def _other_recipes(rows: list[dict[str, Any]]) -> Iterator[str]:
    """The reasons of the first recipe to refuse where another one was taken, with the models."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if "recipe" in row and RECIPES[0] in row["refused"]:
            reasons.setdefault(refusal(row["refused"][RECIPES[0]]), []).append(row["model"])
    for reason, models in sorted(reasons.items(), key=lambda item: -len(item[1])):
        yield f"- {reason}: {', '.join(f'`{name}`' for name in models)}"


def _why(refused: dict[str, str]) -> str:
    return "; ".join(f"{recipe}: {text.split('; sesurgery inspect')[0]}" for recipe, text in refused.items())


def _failures(rows: list[dict[str, Any]]) -> Iterator[str]:
    for row in rows:
        name = f"- `{row['model']}`"
        if "crash" in row:
            yield f"{name}: {_cut(row['crash'])}"
        if "recipe" not in row:
            continue
        if not row["equal"]:
            yield f"{name}: {_cut('; '.join(row['differences'][:2]))}"
        if not row["trained"].startswith("yes"):
            yield f"{name}: one step: {_cut(row['trained'])}"
        if not row["reverted"]:
            yield f"{name}: revert leaves something behind"


def _cut(text: str) -> str:
    return text.partition("\n")[0][:300]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"


def write(rows: list[dict[str, Any]]) -> str:
    """Write docs/user-libraries.md; its summary."""
    PAGE.write_text(page(rows), encoding="utf-8")
    return "\n".join(_summary(rows))


if __name__ == "__main__":
    main(Runner(examine, HERE / "user_libraries.jsonl", alone=True), names, write, __doc__)
