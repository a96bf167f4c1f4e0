"""``sesurgery compare``: its options, and what it prints and writes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sesurgery.cli import options as opt
from sesurgery.errors import InputError, NothingMatchedError
from sesurgery.terminal import completion as tab

if TYPE_CHECKING:
    from sesurgery.comparison.rows import Comparison

TRAINING = "Training"
Recipes = Annotated[
    str,
    typer.Option(
        "--recipe",
        "-r",
        metavar="A,B,…",
        help="Recipes to compare, with commas.",
        show_default=False,
        autocompletion=tab.each_of(tab.recipes),
        rich_help_panel=opt.CHANGE,
    ),
]
Stages = Annotated[
    str | None,
    typer.Option(
        "--stages",
        "-s",
        metavar="each,all,…",
        help="each: a candidate a stage; subsets: every set of stages; or selections, such as all,2-4,1+3.",
        autocompletion=tab.each_of(tab.among("each", "all", "subsets", "last", "1", "2", "3", "4")),
        rich_help_panel=opt.CHANGE,
    ),
]
Modules = Annotated[
    str | None,
    typer.Option(
        "--module",
        "-m",
        metavar="A,B,…",
        help="Layers to try in their places.",
        autocompletion=tab.each_of(tab.layers),
        rich_help_panel=opt.CHANGE,
    ),
]
Values = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=A,B,…",
        help="Values of an option to try, such as reduction=4,8. Repeatable.",
        rich_help_panel=opt.CHANGE,
    ),
]
Budget = Annotated[
    str | None,
    typer.Option(
        "--budget",
        metavar="COST=LIMIT,…",
        help="Such as params=+5%,macs=+1%: what is above it is greyed.",
        rich_help_panel=opt.CHANGE,
    ),
]
Sort = Annotated[
    str | None,
    typer.Option(
        "--sort",
        metavar="COST",
        help="params, macs, flops, edits, value or none.",
        autocompletion=tab.among("params", "macs", "flops", "edits", "value", "none"),
        rich_help_panel=opt.RESULT,
    ),
]
Train = Annotated[
    str | None,
    typer.Option(
        "--train",
        metavar="FILE.py:run",
        help="Train each candidate: run(model, trial) gives a number.",
        rich_help_panel=TRAINING,
    ),
]
Seeds = Annotated[
    int, typer.Option("--seeds", metavar="N", min=1, help="Trainings of each candidate.", rich_help_panel=TRAINING)
]
Epochs = Annotated[
    int | None,
    typer.Option("--epochs", metavar="N", min=1, help="Handed on as trial.epochs.", rich_help_panel=TRAINING),
]
Aim = Annotated[
    str,
    typer.Option(
        "--aim",
        metavar="NAME[:min]",
        help="The result that counts; :min where less of it is better.",
        rich_help_panel=TRAINING,
    ),
]
Pruner = Annotated[
    str | None,
    typer.Option(
        "--pruner",
        metavar="NAME",
        help="median or hyperband: stop hopeless trainings early.",
        autocompletion=tab.among("median", "hyperband"),
        rich_help_panel=TRAINING,
    ),
]
Sampler = Annotated[
    str | None,
    typer.Option(
        "--sampler",
        metavar="NAME",
        help="grid trains all; tpe and nsga2 choose --trials candidates as results come in.",
        autocompletion=tab.among("grid", "tpe", "nsga2"),
        rich_help_panel=TRAINING,
    ),
]
Trials = Annotated[
    int | None,
    typer.Option(
        "--trials", metavar="N", min=1, help="How many candidates tpe or nsga2 train.", rich_help_panel=TRAINING
    ),
]
Against = Annotated[
    str | None,
    typer.Option(
        "--against",
        metavar="MODEL,…",
        help="Other models beside it, such as a wider one of equal cost.",
        rich_help_panel=opt.CHANGE,
    ),
]
Latency = Annotated[
    bool,
    typer.Option("--latency", help="Measure on this CPU what is within the budget.", rich_help_panel=opt.CHANGE),
]
Storage = Annotated[
    str | None,
    typer.Option(
        "--storage",
        metavar="URL",
        help="postgresql://… or mysql://…: workers on several machines share it.",
        rich_help_panel=TRAINING,
    ),
]
Jobs = Annotated[int, typer.Option("--jobs", metavar="N", min=1, help="Worker processes.", rich_help_panel=TRAINING)]
Folder = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FOLDER",
        help="Results; the same command goes on from there.",
        rich_help_panel=opt.RESULT,
    ),
]
Plot = Annotated[
    Path | None,
    typer.Option(
        "--plot",
        metavar="FILE.svg",
        help="A picture: cost against value, or cost against cost.",
        rich_help_panel=opt.RESULT,
    ),
]
AsCsv = Annotated[
    bool, typer.Option("--csv", help="Print CSV on stdout instead of tables.", rich_help_panel=opt.RESULT)
]


def compare(
    context: typer.Context,
    model: opt.Model,
    recipe: Recipes,
    stages: Stages = None,
    module: Modules = None,
    settings: Values = None,
    budget: Budget = None,
    against: Against = None,
    latency: Latency = False,
    sort: Sort = None,
    train: Train = None,
    seeds: Seeds = 3,
    epochs: Epochs = None,
    aim: Aim = "value",
    pruner: Pruner = None,
    sampler: Sampler = None,
    trials: Trials = None,
    storage: Storage = None,
    jobs: Jobs = 1,
    output: Folder = None,
    plot: Plot = None,
    pretrained: opt.Pretrained = False,
    model_arg: opt.ModelArgs = None,
    input_size: opt.InputSize = None,
    example: opt.Example = None,
    trust_code: opt.TrustCode = False,
    weights: opt.BaseWeights = None,
    imports: opt.Imports = None,
    as_json: opt.AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """Compare placements: what each costs and, with --train, what it is worth beside the unmodified model."""
    opt.prepare(model, model_arg, imports, pretrained=pretrained, base=weights)
    asked = _asked(context.params)
    comparison = _compared(model, recipe, asked, example=example, weights=weights, trust_code=trust_code)
    _show(comparison, as_json, as_csv)
    _write(comparison, output, plot)
    _refuse_none(comparison, budget)


def _refuse_none(comparison: Comparison, budget: str | None) -> None:
    if not comparison.recipes():
        from sesurgery.comparison.rows import nearest

        raise NothingMatchedError(nearest(comparison), where="--budget" if budget else None)


def _compared(model: str, recipe: str, asked: dict[str, Any], **looked: Any) -> Comparison:
    from sesurgery.cli.progress import progress

    with progress() as step:
        import sesurgery
        from sesurgery.artifact.by_name import subject

        body, asked = subject(model, asked, step, **looked)
        with kept(asked):
            return sesurgery.compare(body, recipe, **asked, progress=step)


@contextlib.contextmanager
def kept(asked: Mapping[str, Any]) -> Iterator[None]:
    """Say what becomes of trainings that ended before Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        if asked["train"] is not None:
            place = asked["storage"] or asked["folder"]
            typer.echo(f"trainings that ended are kept in {place}: the same command goes on from there", err=True)
        raise


def _asked(given: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments of ``sesurgery.compare``; whatever can be wrong without a model is found here."""
    name, smaller = parse_aim(given["aim"])
    if given["train"] is not None and given["output"] is None:
        raise InputError("trainings need a folder for their results", where="--train", remedy="give one: -o FOLDER")
    same = ("stages", "budget", "latency", "sort", "train", "seeds", "epochs", "pruner", "sampler", "trials", "storage")
    return {
        **{key: given[key] for key in (*same, "jobs", "pretrained")},
        "against": given["against"] or (),
        "modules": given["module"],
        "options": _values(given["settings"]),
        "aim": name,
        "smaller": smaller,
        "folder": given["output"],
        **opt.parse_model(given["model_arg"], given["input_size"], given["example"]),
    }


def parse_aim(text: str) -> tuple[str, bool]:
    """The name of the result that counts, and whether less of it is better."""
    name, _, direction = text.partition(":")
    if direction not in ("", "min", "max"):
        raise InputError(f'"{direction}" is no direction', where="--aim", remedy="write NAME, NAME:min or NAME:max")
    return name, direction == "min"


def _values(settings: list[str] | None) -> dict[str, str]:
    values: dict[str, str] = {}
    for pair in settings or ():
        key, equals, text = pair.partition("=")
        if not equals or not key.strip():
            raise InputError(f'"{pair}" sets nothing', where="--set", remedy="write KEY=A,B, such as reduction=4,8")
        values[key.strip()] = text
    return values


def _show(comparison: Comparison, as_json: bool, as_csv: bool) -> None:
    if as_json:
        from sesurgery.cli.json_output import dump
        from sesurgery.comparison.rows import as_data

        typer.echo(dump(as_data(comparison)))
    elif as_csv:
        typer.echo(comparison.to_csv(), nl=False)
    else:
        from sesurgery.comparison.table import render_comparison
        from sesurgery.report.plan import make_console

        render_comparison(make_console(), comparison)


def _write(comparison: Comparison, output: Path | None, plot: Path | None) -> None:
    """The results as files: a table, a picture, and the best candidate as an ordinary recipe."""
    if plot is not None:
        from sesurgery.comparison.picture import draw

        draw(comparison, plot)
    if output is not None:
        from sesurgery.comparison.files import texts_of

        write_and_say(texts_of(comparison), output)


def write_and_say(texts: Mapping[str, str], folder: Path) -> None:
    """Write files into a folder, and name them on stderr."""
    from sesurgery.comparison.files import write_texts

    for path in write_texts(texts, folder):
        typer.echo(f"written: {path}", err=True)
