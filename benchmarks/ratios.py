"""What sesurgery costs in time, as ratios against a named peer in paired runs; writes docs/benchmarks.md.

    python benchmarks/ratios.py              # about five minutes on two cores
    python benchmarks/ratios.py --runs 3     # quicker, noisier
    python benchmarks/ratios.py --planning   # only the tables about planning, the others stay as they are

Each pair runs in turn, A B A B ..., and the ratio is taken pair by pair, so a machine whose speed drifts does not
decide. The median is quoted, with the smallest and the largest. Needs the ``dev`` extra (fvcore).
"""

from __future__ import annotations

import argparse
import copy
import logging
import os
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import depth
from machine import machine

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"


@dataclass(frozen=True)
class Result:
    """One comparison: seconds of A and of B, and their ratios, pair by pair."""

    name: str
    peer: str
    bound: float
    ours: tuple[float, ...]
    theirs: tuple[float, ...]

    @property
    def ratios(self) -> tuple[float, ...]:
        return tuple(a / b for a, b in zip(self.ours, self.theirs, strict=True))


def paired(
    name: str, peer: str, bound: float, ours: Callable[[], None], theirs: Callable[[], None], runs: int
) -> Result:
    """Run both in turn, after one warm-up of each."""
    ours(), theirs()
    a, b = [], []
    for index in range(runs):
        order = [(ours, a), (theirs, b)]
        for call, seconds in order if index % 2 == 0 else reversed(order):
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
    return Result(name, peer, bound, tuple(a), tuple(b))


def process(*command: str) -> Callable[[], None]:
    """A whole process, its output thrown away."""
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}

    def call() -> None:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)

    return call


def cli(*arguments: str) -> Callable[[], None]:
    """The command line as its installed script runs it."""
    script = Path(sys.executable).with_name("sesurgery")
    return (
        process(str(script), *arguments) if script.exists() else process(sys.executable, "-m", "sesurgery", *arguments)
    )


def planning(runs: int) -> Result:
    """Plan, rewrite and both costs in process against one FLOP count of fvcore."""
    import timm
    import torch
    from fvcore.nn import FlopCountAnalysis

    import sesurgery

    model = timm.create_model("resnet50").eval()
    image = torch.randn(1, 3, 224, 224)

    def ours() -> None:
        sesurgery.apply(model, "standard", inplace=True)
        sesurgery.revert(model)

    def theirs() -> None:
        FlopCountAnalysis(model, image).unsupported_ops_warnings(False).uncalled_modules_warnings(False).total()

    peer = "`fvcore.nn.FlopCountAnalysis(model, x).total()`"
    return paired("`sesurgery.apply` on timm resnet50, in process (and `revert`)", peer, 0.5, ours, theirs, runs)


def networks(runs: int, train: bool) -> Result:
    """The operated resnet50 against timm's own seresnet50."""
    import timm
    import torch

    import sesurgery

    native = timm.create_model("seresnet50")
    operated = sesurgery.apply(timm.create_model("resnet50"), "standard", inplace=True).model
    operated.load_state_dict(native.state_dict())
    image = torch.randn(4, 3, 160, 160) if train else torch.randn(4, 3, 224, 224)

    def step(model: torch.nn.Module) -> Callable[[], None]:
        model.train(train)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

        def call() -> None:
            if not train:
                with torch.inference_mode():
                    model(image)
                return
            optimizer.zero_grad()
            model(image).square().mean().backward()
            optimizer.step()

        return call

    what = "training step" if train else "eager inference"
    return paired(
        f"{what} of the operated resnet50", "timm's native seresnet50", 1.02, step(operated), step(native), runs
    )


def results(runs: int) -> list[Result]:
    """Every comparison."""
    python = sys.executable
    torch_import = process(python, "-c", "import torch")
    timm_model = process(python, "-c", "import timm; timm.create_model('resnet50')")
    apply = cli("apply", "resnet50", "--recipe", "standard", "--stages", "4")
    line = "`sesurgery apply resnet50 --recipe standard --stages 4`, whole process"
    return [
        planning(runs * 2),
        paired(line, "`python -c \"import timm; timm.create_model('resnet50')\"`", 1.25, apply, timm_model, runs),
        paired(
            "`sesurgery --help`, whole process", '`python -c "import torch"`', 0.3, cli("--help"), torch_import, runs
        ),
        paired(
            "`sesurgery recipes`, whole process", '`python -c "import torch"`', 0.3, cli("recipes"), torch_import, runs
        ),
        networks(runs * 10, train=False),
        networks(runs * 6, train=True),
    ]


MODELS = {
    "resnet50": "standard",
    "resnet152": "standard",
    "mobilenetv2_100": "standard",
    "efficientnet_b0": "standard",
    "vit_base_patch16_224": "standard",
    "convnext_base": "standard",
    "swin_base_patch4_window7_224": "standard",
    "densenet201": "concat",
}


def floors(runs: int) -> str:
    """CPU time of apply against what nobody can avoid, copy.deepcopy and one forward on ``meta``, pair by pair."""
    import timm
    import torch

    import sesurgery

    lines = ["| model | recipe | apply (s) | floor (s) | ratio | aim | holds |", "|---|---|--:|--:|--:|--:|---|"]
    for name, recipe in MODELS.items():
        with torch.device("meta"):
            model, image = timm.create_model(name).eval(), torch.empty(1, 3, 224, 224)
        pairs = []
        for _ in range(runs + 1):  # the first is the warm-up
            start = time.process_time()
            with torch.no_grad():
                copy.deepcopy(model)(image)
            middle = time.process_time()
            sesurgery.apply(model, recipe, example_input=image)
            pairs.append((time.process_time() - middle, middle - start))
        ours, floor = (statistics.median(column) for column in zip(*pairs[1:], strict=True))
        ratio = statistics.median(one / other for one, other in pairs[1:])
        cells = [name, f"`{recipe}`", f"{ours:.3f}", f"{floor:.3f}", f"**{ratio:.2f}**", "≤ 1.5"]
        lines.append("| " + " | ".join([*cells, "yes" if ratio <= 1.5 else "no"]) + " |")
        print(lines[-1], flush=True)
    return "\n".join(lines) + "\n"


GRID = ("standard,pre,post,identity,se-3x3", "each,all", "se,cbam")


def candidates() -> str:
    """CPU time and memory of costing many candidates on resnet50, beside one plan of it."""
    import sesurgery

    sesurgery.plan("resnet50", "standard")  # the warm-up
    start = time.process_time()
    sesurgery.plan("resnet50", "standard")
    plan = time.process_time() - start
    lines = ["| candidates | CPU (s) | plans of resnet50 | aim | peak memory (MiB) |", "|--:|--:|--:|--:|--:|"]
    recipes, stages, modules = GRID
    for most in (2, 20):
        start = time.process_time()
        asked = {"stages": stages, "modules": modules, "options": {"reduction": list(range(2, 2 + most))}}
        rows = sesurgery.compare("resnet50", recipes, **asked)
        seconds = time.process_time() - start
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        lines.append(f"| {len(rows):,} | {seconds:.2f} | {seconds / plan:.0f} | ≤ 100, 10 s | {memory:,} |")
        print(lines[-1], flush=True)
    return "\n".join(lines) + "\n"


PLANNING = "## Planning"


def planning_section(runs: int, blocks: list[int]) -> str:
    """The tables of CPU time: real models against the floor, and networks of many blocks."""
    import torch

    torch.set_num_threads(1)
    many = candidates()  # first, so that the peak of memory is its own
    return "\n".join(
        [
            PLANNING,
            "",
            f"Written by `python benchmarks/ratios.py --planning --runs {runs}`. CPU seconds of one thread, models on",
            "`meta`, warm, medians of pairs run in turn. The machine was shared with other work. The floor is",
            "`copy.deepcopy` and one forward on `meta`; apply plans, rewrites and counts both costs.",
            "",
            f"Machine: {machine()}.",
            "",
            floors(runs),
            "Networks made for it (`python benchmarks/depth.py`): seconds, in brackets the ratio to the floor.",
            "",
            depth.table(blocks),
            "`sesurgery.compare` without a training: five recipes, each stage and all, two layers, many reductions.",
            "One plan is of `standard`, warm; peak memory is the process's.",
            "",
            many,
        ]
    )


def table(found: list[Result]) -> str:
    """The page."""
    lines = [
        "# Benchmarks",
        "",
        "Written by `python benchmarks/ratios.py`; do not edit. Medians of paired runs; ratio = ours / peer.",
        "",
        f"Machine: {machine()}.",
        "",
        "| what | against | ours (s) | peer (s) | ratio | smallest | largest | aim | holds |",
        "|---|---|--:|--:|--:|--:|--:|--:|---|",
    ]
    for one in found:
        ratio = statistics.median(one.ratios)
        cells = [one.name, one.peer, f"{statistics.median(one.ours):.3f}", f"{statistics.median(one.theirs):.3f}"]
        cells += [f"**{ratio:.3f}**", f"{min(one.ratios):.3f}", f"{max(one.ratios):.3f}", f"≤ {one.bound}"]
        lines.append("| " + " | ".join([*cells, "yes" if ratio <= one.bound else "no"]) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--planning", action="store_true", help="only the tables about planning")
    parser.add_argument("--blocks", type=int, nargs="+", default=list(depth.BLOCKS), help="numbers of blocks")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    import torch

    torch.set_num_threads(2)
    above = PAGE.read_text(encoding="utf-8").partition(PLANNING)[0].rstrip() + "\n"
    if not options.planning:
        above = table(results(options.runs))
    text = f"{above}\n{planning_section(options.runs, options.blocks)}"
    PAGE.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
