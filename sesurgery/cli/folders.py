"""The commands on what ``apply -o`` wrote: revert, merge, eject, gates."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sesurgery.artifact.names import NEW_FOLDER
from sesurgery.cli import options as opt


def revert(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="What apply -o wrote.", show_default=False)],
    output: opt.RevertOutput,
) -> None:
    """Undo a saved operation: the original model, with the weights it has in FOLDER."""
    opt.check_output(output, force=False, remedy=NEW_FOLDER)
    from sesurgery.cli.progress import progress

    with progress() as step:
        step("reverting", 0, 0)
        import sesurgery

        sesurgery.revert_folder(folder, output)
    typer.echo(f"the model without the operation is in {output}")


def merge(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="What apply --delta wrote.", show_default=False)],
    output: opt.RevertOutput,
    weights: opt.BaseWeights = None,
    trust_code: opt.TrustCode = False,
    imports: opt.Imports = None,
) -> None:
    """Make of a delta and its base a folder that holds every weight."""
    opt.check_output(output, force=False, remedy=NEW_FOLDER)
    opt.import_files(imports)
    from sesurgery.cli.progress import progress

    with progress() as step:
        step("merging", 0, 0)
        import sesurgery

        sesurgery.save(sesurgery.load(folder, weights=weights, trust_code=trust_code), output)
    typer.echo(f"{output} holds the operated model with all of its weights")


def eject(
    model: opt.Model,
    output: opt.EjectOutput,
    recipe: opt.OptionalRecipe = None,
    stages: opt.Stages = None,
    module: opt.Module = None,
    settings: opt.Settings = None,
    init: opt.Init = None,
    pretrained: opt.Pretrained = False,
    weights: opt.Weights = None,
    model_arg: opt.ModelArgs = None,
    input_size: opt.InputSize = None,
    example: opt.Example = None,
    hf: opt.Hub = False,
    trust_code: opt.TrustCode = False,
    imports: opt.Imports = None,
    as_json: opt.AsJson = False,
) -> None:
    """Write an operated model as Python that needs no sesurgery: model.py, weights.safetensors, check.py."""
    opt.check_weights(weights, pretrained)
    opt.check_new(output)
    opt.prepare(model, model_arg, imports, pretrained=pretrained)
    opt.check_folder(model, recipe)
    change = (stages, module, settings, init, model_arg, input_size, example)
    asked = opt.asked(recipe, *change) if recipe else None
    from sesurgery.cli.progress import progress

    with progress() as step:
        import sesurgery
        from sesurgery.artifact.by_name import subject

        looked: dict[str, Any] = {"example": example, "weights": weights, "trust_code": trust_code}
        operated, given = subject(model, asked or {}, step, **looked)
        if asked is not None:
            start: dict[str, Any] = {"pretrained": pretrained, "weights": weights if operated is model else None}
            operated = sesurgery.apply(operated, str(recipe), **given, **start, progress=step)
        step("ejecting", 0, 0)
        sesurgery.eject(operated, output, hf=hf)
    said = f"{output} holds the model as plain Python; python {output / 'check.py'} proves it"
    typer.echo(opt.folder_data(output) if as_json else said)


def gates(
    model: opt.Model,
    data: opt.Data = None,
    samples: opt.Samples = 1000,
    picture: opt.Picture = None,
    pretrained: opt.Pretrained = False,
    weights: opt.Weights = None,
    model_arg: opt.ModelArgs = None,
    input_size: opt.InputSize = None,
    example: opt.Example = None,
    trust_code: opt.TrustCode = False,
    imports: opt.Imports = None,
    as_json: opt.AsJson = False,
) -> None:
    """Show what the gates of attention layers do: mean, spread, saturation, movement, by depth and class."""
    opt.check_weights(weights, pretrained)
    opt.check_picture(picture)
    opt.prepare(model, model_arg, imports, pretrained=pretrained)
    asked = opt.parse_model(model_arg, input_size, example)
    from sesurgery.cli.progress import progress

    with progress() as step:
        step("running the model", 0, 0)
        from sesurgery.excitation.by_name import gates_by_name

        start: dict[str, Any] = {"weights": weights, "pretrained": pretrained, "trust_code": trust_code}
        result = gates_by_name(model, data, samples, **asked, **start, example=example)
        if picture is not None:
            result.figure().savefig(picture)
    if as_json:
        from sesurgery.cli.json_output import dump, gates_data

        typer.echo(dump(gates_data(result)))
        return
    from sesurgery.excitation.result import render_gates
    from sesurgery.report.layout import make_console

    render_gates(make_console(), result)
