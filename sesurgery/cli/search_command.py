"""``sesurgery search``: its options, and what it prints and writes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sesurgery.cli import compare_command as more
from sesurgery.cli import options as opt
from sesurgery.terminal import completion as tab

if TYPE_CHECKING:
    from sesurgery.selection.result import Selection

RecipeName = Annotated[
    str,
    typer.Option(
        "--recipe",
        "-r",
        metavar="NAME|FILE",
        help="Whose sites are searched, and with what layer.",
        autocompletion=tab.recipes,
        rich_help_panel=opt.CHANGE,
    ),
]
Budget = Annotated[
    str, typer.Option("--budget", metavar="COST=LIMIT,…", help="Such as params=+2%,macs=+1%.", show_default=False)
]
Train = Annotated[
    str,
    typer.Option("--train", metavar="FILE.py:run", help="run(model, trial) trains; validate beside it judges."),
]
Validate = Annotated[
    str | None, typer.Option("--validate", metavar="FILE.py:NAME", help="Another function that judges a model.")
]
Seeds = Annotated[int, typer.Option("--seeds", metavar="N", min=0, help="Trainings of each in the check; 0: no check.")]
Repeats = Annotated[int, typer.Option("--repeats", metavar="N", min=1, help="Validations of each setting.")]
Subsets = Annotated[int, typer.Option("--subsets", metavar="N", min=0, help="Random subsets in the check.")]
Folder = Annotated[
    Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where the results go.", show_default=False)
]


def search(
    context: typer.Context,
    model: opt.Model,
    budget: Budget,
    train: Train,
    output: Folder,
    recipe: RecipeName = "standard",
    module: opt.Module = None,
    settings: opt.Settings = None,
    init: opt.Init = None,
    validate: Validate = None,
    seeds: Seeds = 3,
    repeats: Repeats = 5,
    subsets: Subsets = 3,
    epochs: more.Epochs = None,
    aim: more.Aim = "value",
    storage: more.Storage = None,
    jobs: more.Jobs = 1,
    pretrained: opt.Pretrained = False,
    model_arg: opt.ModelArgs = None,
    input_size: opt.InputSize = None,
    example: opt.Example = None,
    trust_code: opt.TrustCode = False,
    weights: opt.BaseWeights = None,
    imports: opt.Imports = None,
) -> None:
    """Choose the sites that are worth most within a budget, from one training; others check the choice."""
    opt.prepare(model, model_arg, imports, pretrained=pretrained, base=weights)
    asked = _asked(context.params)
    from sesurgery.cli.progress import progress

    with progress() as step:
        import sesurgery
        from sesurgery.artifact.by_name import subject

        body, given = subject(model, asked, step, example=example, weights=weights, trust_code=trust_code)
        with more.kept(asked):
            selection = sesurgery.search(body, recipe, **given, progress=step)
    _write(selection, output)


def _asked(given: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments of ``sesurgery.search``."""
    name, smaller = more.parse_aim(given["aim"])
    same = ("budget", "train", "validate", "module", "seeds", "epochs", "repeats", "subsets", "jobs", "storage")
    return {
        **{key: given[key] for key in (*same, "pretrained")},
        "folder": given["output"],
        "options": opt.parse_options(given["settings"], given["init"]),
        "aim": name,
        "smaller": smaller,
        **opt.parse_model(given["model_arg"], given["input_size"], given["example"]),
    }


def _write(selection: Selection, folder: Path) -> None:
    text = selection.recipe_text()
    typer.echo(text, nl=False)
    if selection.check is not None:
        from sesurgery.comparison.table import render_comparison
        from sesurgery.report.plan import make_console

        render_comparison(make_console(), selection.check)
    more.write_and_say({"chosen.yaml": text}, folder)
