"""Operate on every architecture of timm and torchvision, on meta tensors, and write docs/coverage.md.

    python benchmarks/zoo.py                    # all models, resumes where it stopped
    python benchmarks/zoo.py --filter 'resnet*' --fresh
    python benchmarks/zoo.py --report           # only write docs/coverage.md from the results there are

For each model: create, run once, survey and dissect, plan and apply the recipe that fits, with both costs, revert.
One JSON line a model goes to ``zoo.jsonl`` beside this script.
"""

from __future__ import annotations

import re
import resource
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from machine import machine
from runner import Runner, main

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests" / "support"))
# Reasons that speak of code, and not of what is asked for or of what a layer can take.
NO_ROUTE = re.compile(r"\bforward\b|\bsource\b|\bin line\b|\bits graph\b|\bcalled\b")
ROUTES = ("socket", "source", "behind", "graph", "child")
PAGE = HERE.parent / "docs" / "coverage.md"


def names() -> list[str]:
    """Every model of both libraries, as references."""
    from sesurgery.models import zoo

    listed = zoo.list_names()
    return [f"{library}:{name}" for library in ("timm", "torchvision") for name in listed[library]]


def fitting(kinds: Counter[str], blocks: int) -> list[str]:
    """The recipes to try, best first: by what the anatomy shows, never by a name."""
    order = []
    if kinds["identity"] + kinds["projected"]:
        order.append("standard")
    if kinds["concat"]:
        order.append("concat")
    return [*order, "plain", "swap-attention", "strip-attention"]


def examine(reference: str) -> list[dict[str, Any]]:
    """Put one model through everything; the row says what happened and how long it took."""
    import torch

    torch.set_num_threads(1)
    row: dict[str, Any] = {"model": reference}
    try:
        row.update(_examined(reference))
    except Exception as error:
        row.update(crash=f"{type(error).__name__}: {error}"[:500], trace=traceback.format_exc()[-2000:])
    row["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return [row]


def example(model: Any, spec: Any) -> tuple[Any, ...] | None:
    """An input on ``meta`` that the model runs on; None where its forward looks at values."""
    import torch

    from sesurgery.models import zoo

    for args in zoo.candidate_inputs(model, spec, None, device="meta"):
        try:
            with torch.no_grad():
                model(*args)
            return args
        except Exception:
            continue
    return None


def _examined(reference: str) -> dict[str, Any]:
    from reference import compare, sums_of

    from sesurgery.models import zoo
    from sesurgery.planning.operation import rehearse
    from sesurgery.tracing.survey import has_own_forward

    spec = zoo.resolve(reference)
    model, args, row = _created(spec)
    start = time.perf_counter()
    anatomy = rehearse(model, spec, args, None).look()
    seen = anatomy.survey
    merges = anatomy.reported_merges()
    kinds = Counter(merge.kind for merge in merges)
    row.update(
        look_s=round(time.perf_counter() - start, 4),
        modules=sum(map(has_own_forward, seen.probe.frames)),
        merges=dict(kinds),
        stages=len(anatomy.stages),
        blocks=len(anatomy.blocks),
        real=seen.real,
    )
    if seen.real:
        model = zoo.create(spec)
    else:
        row["reference"] = compare(model, seen.args, sums_of(merges)).row()
    row["accounts"] = accounts(anatomy, model, seen.args)
    return row | _operated(model, seen.args, fitting(kinds, len(anatomy.blocks)))


def accounts(anatomy: Any, model: Any, args: tuple[Any, ...]) -> dict[str, Any]:
    """How many convolutions, norms, activations and residual sums there are, and which no phrase edits or lists."""
    from accounts import account

    from sesurgery.placement.named_layers import layers_of
    from sesurgery.placement.placements import sites
    from sesurgery.plans import Skip
    from sesurgery.recipe.phrases import At

    there = account(model, args)
    reported = {kind: {layer.path for layer in layers_of(anatomy, At(kind))} for kind in ("conv", "norm", "activation")}
    partial = {merge.inner for group in anatomy.merges.values() for merge in group}
    merges = [merge for group in anatomy.merges.values() for merge in group if merge.node not in partial]
    sums = sum(merge.residual for merge in merges)
    places = list(sites(anatomy, At("after residual add")))
    likes = sum(isinstance(place, Skip) and place.reason.startswith("a sum of like branches") for place in places)
    missing = there.missing(reported)
    if len(places) - likes < sums:
        missing.append(f"residual sums: {sums}, reported {len(places) - likes}")
    return {**{kind: there.total(kind) for kind in reported}, "residual sums": sums, "missing": missing}


def _created(spec: Any) -> tuple[Any, tuple[Any, ...] | None, dict[str, Any]]:
    """A model on ``meta``, an input that it runs on, and how long both took."""
    from sesurgery.models import zoo

    start = time.perf_counter()
    model = zoo.create(spec, device="meta")
    created = time.perf_counter()
    args = example(model, spec)
    return (
        model,
        args,
        {
            "family": type(model).__module__.rpartition(".")[2],
            "class": type(model).__name__,
            "library": spec.source,
            "create_s": round(created - start, 4),
            "forward_s": round(time.perf_counter() - created, 4),
        },
    )


def _operated(model: Any, args: tuple[Any, ...], recipes: Iterable[str]) -> dict[str, Any]:
    """What the first of the recipes that fits did to a model, and whether it was undone."""
    from sesurgery import NothingMatchedError
    from sesurgery.api import apply, revert
    from sesurgery.errors import InputError

    def state() -> tuple[dict[str, int], list[type]]:
        tensors = {key: id(value) for key, value in model.state_dict(keep_vars=True).items()}
        return tensors, [type(module) for module in model.modules()]

    before, refusals = state(), {}
    for recipe in recipes:
        start = time.perf_counter()
        try:
            surgery = apply(model, recipe, inplace=True, example_input=args)
        except (NothingMatchedError, InputError) as refused:
            refusals[recipe] = str(refused)
            continue
        seconds, plan = round(time.perf_counter() - start, 4), surgery.plan
        revert(model)
        return {
            "apply_s": seconds,
            "recipe": recipe,
            "edits": len(plan.edits),
            "routes": dict(Counter(edit.route for edit in plan.edits)),
            "skipped": dict(Counter(skip.reason for skip in plan.skipped)),
            "hosts_refused": [(skip.path, skip.reason) for skip in plan.skipped if NO_ROUTE.search(skip.reason)],
            "params": (plan.before.params, plan.after.params),
            "macs": (plan.before.macs, plan.after.macs),
            "sum_ok": plan.after.params - plan.before.params == sum(edit.params for edit in plan.edits),
            "reverted": state() == before,
            "refused": refusals,
        }
    return {"refused": refusals}


def page(found: list[dict[str, Any]]) -> str:
    """docs/coverage.md as text."""
    families: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in found:
        families.setdefault((row.get("library", "?"), row.get("family", "?")), []).append(row)
    lines = list(_summary(found))
    lines += [
        "",
        "## By family",
        "",
        "| library | family | models | own modules | merges | edits | "
        + " | ".join(ROUTES)
        + " | operated | reverted | refused | accounted for |",
        "|---|---|" + "--:|" * (8 + len(ROUTES)),
    ]
    for (library, family), group in sorted(families.items()):
        operated = [row for row in group if "recipe" in row]
        modules = sum(row.get("modules", 0) for row in group)
        merges = sum(sum(row.get("merges", {}).values()) for row in group)
        routes = Counter[str]()
        for row in operated:
            routes.update(row["routes"])
        cells = [library, family, len(group), modules, merges, sum(row["edits"] for row in operated)]
        cells += [routes[name] for name in ROUTES]
        cells += [len(operated), sum(row["reverted"] for row in operated), len(group) - len(operated)]
        cells.append(sum(not row["accounts"]["missing"] for row in group if "accounts" in row))
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    lines += ["", "## Not operated, and why", ""]
    lines += list(_refusals(found)) or ["Every model was operated."]
    lines += ["", "## Residual adds against a whole-model trace", "", *_references(found)]
    lines += ["", "## Everything is edited or listed", "", *_accounts(found)]
    lines += ["", "## Hosts that none of source, socket, graph and behind could take", ""]
    lines += list(_without_route(found)) or ["There is none: every site that was asked for has its layer."]
    return "\n".join(lines) + "\n"


def _summary(found: list[dict[str, Any]]) -> Iterator[str]:
    operated = [row for row in found if "recipe" in row]
    modules = sum(row.get("modules", 0) for row in found)
    libraries = Counter(row.get("library", "?") for row in found)
    base = sum(row.get("create_s", 0) + row.get("forward_s", 0) for row in operated)
    work = sum(row["apply_s"] for row in operated)
    yield "# Coverage: every architecture of timm and torchvision"
    yield ""
    yield "Written by `python benchmarks/zoo.py`; do not edit. On `meta` tensors, one process a core."
    yield ""
    yield f"Machine: {machine()}."
    yield ""
    versions = ", ".join(_versions())
    yield f"- {', '.join(f'{count:,} of {name}' for name, count in sorted(libraries.items()))} ({versions})."
    every = len(names())
    if len(found) < every:
        yield f"- **Not finished: {len(found):,} of {every:,} models so far.** The command above goes on with it."
    yield f"- Crashes: {sum('crash' in row for row in found)}."
    yield (
        f"- Operated: {len(operated):,} of {len(found):,}, by "
        + ", ".join(f"`{name}` {count:,}" for name, count in Counter(row["recipe"] for row in operated).most_common())
        + f"; {sum(row['edits'] for row in operated):,} edits; reverted to the old keys, tensors and classes: "
        + (f"{sum(row['reverted'] for row in operated):,}.")
    )
    yield f"- Modules with a forward of their own: {modules:,}."
    routes: Counter[str] = Counter()
    for row in operated:
        routes.update(row["routes"])
    yield "- Edits by route: " + ", ".join(f"{name} {routes[name]:,}" for name in ROUTES) + "."
    if base:
        yield (
            f"- Time to plan and apply, both costs included, against creating the model on meta and "
            f"running it once: {work / base:.2f} x over all, {work:.0f} s against {base:.0f} s."
        )
        yield f"- Peak memory of a process: {max(row['peak_mb'] for row in found) / 1024:.2f} GiB."


def _versions() -> Iterator[str]:
    from importlib.metadata import version

    yield from (f"{name} {version(name).split('+')[0]}" for name in ("timm", "torchvision", "torch"))


def _refusals(found: list[dict[str, Any]]) -> Iterator[str]:
    for row in found:
        if "crash" in row:
            yield f"- `{row['model']}`: crash: {row['crash']}"
        elif "recipe" not in row:
            reason = next(iter(row["refused"].values())).split("; sesurgery inspect")[0]
            yield f"- `{row['model']}` ({row['class']}): {reason}"


def _references(found: list[dict[str, Any]]) -> Iterator[str]:
    """Where a whole-model torch.fx trace with timm's leaf lists shows a sum that the anatomy does not report."""
    known = [row for row in found if row.get("reference", {}).get("reference") is not None]
    total = sum(row["reference"]["reference"] for row in known)
    merges = sum(row["reference"]["found"] for row in known)
    fewer = [row for row in known if row["reference"]["found"] < row["reference"]["reference"]]
    yield (
        f"A whole-model torch.fx trace works for {len(known):,} models and shows {total:,} sums of two activations of "
        f"one shape; the one-level traces show {merges:,} `add` merges in them. Models with fewer: {len(fewer)}."
    )
    differing = [row for row in known if row["reference"]["missing"]]
    if differing:
        yield ""
        yield "Modules in which the two differ (the sums of one call of the module):"
        yield ""
    reasons: dict[str, list[str]] = {}
    for row in differing:
        for item in row["reference"]["missing"]:
            place, _, text = item.partition(": ")
            reasons.setdefault(f"{row['class']}: {text}", []).append(f"`{row['model']}` {place}")
    for reason, places in sorted(reasons.items()):
        more = f" and {len(places) - 1} more places" if len(places) > 1 else ""
        yield f"- {reason} ({places[0]}{more})"


def _accounts(found: list[dict[str, Any]]) -> Iterator[str]:
    """How many layers and sums there are by tests/support/accounts.py, and those that no phrase edits or lists."""
    known = [row["accounts"] | {"model": row["model"]} for row in found if "accounts" in row]
    kinds = ("conv", "norm", "activation", "residual sums")
    counts = ", ".join(f"{sum(row[kind] for row in known):,} {kind}{'s' * (kind[-1] != 's')}" for kind in kinds)
    lost = [row for row in known if row["missing"]]
    yield f"{len(known):,} models have {counts}. In {len(known) - len(lost):,} of them each is edited or listed."
    if lost:
        yield ""
    for row in lost:
        more = f" and {len(row['missing']) - 1} more" if len(row["missing"]) > 1 else ""
        yield f"- `{row['model']}`: {row['missing'][0]}{more}"


def _without_route(found: list[dict[str, Any]]) -> Iterator[str]:
    places: dict[str, list[str]] = {}
    for row in found:
        for path, reason in row.get("hosts_refused", ()):
            places.setdefault(reason, []).append(f"{row['model']} › {path}")
    for reason, paths in sorted(places.items(), key=lambda item: -len(item[1])):
        yield f"- {reason} ({len(paths)} sites, such as {paths[0]})"


def write(found: list[dict[str, Any]]) -> str:
    """Write docs/coverage.md; its summary."""
    PAGE.write_text(page(found), encoding="utf-8")
    return "\n".join(_summary(found))


if __name__ == "__main__":
    main(Runner(examine, HERE / "zoo.jsonl"), names, write, __doc__)
