"""The commands that say what there is: layers and places."""

from __future__ import annotations

from typing import Annotated

import typer

from sesurgery.cli import options as opt

layers_app = typer.Typer(context_settings={"help_option_names": ["-h", "--help"]})
Name = Annotated[str, typer.Argument(metavar="NAME", help="A layer of the list.", show_default=False)]
Looked = Annotated[str | None, typer.Argument(metavar="[MODEL]", help=opt.MODEL_HELP, show_default=False)]


@layers_app.callback(invoke_without_command=True)
def layers(context: typer.Context) -> None:
    """List and show the layers that can be inserted."""
    if context.invoked_subcommand is None:
        list_()


@layers_app.command("list")
def list_(imports: opt.Imports = None) -> None:
    """Every layer that recipes and --module know."""
    opt.import_files(imports)
    from sesurgery.attention.registry import REGISTRY
    from sesurgery.report.catalogue import render_layers
    from sesurgery.report.layout import make_console

    render_layers(make_console(), REGISTRY.values())


@layers_app.command("show")
def show(name: Name, imports: opt.Imports = None) -> None:
    """One layer: its options, their defaults, its source."""
    opt.import_files(imports)
    from sesurgery.attention.registry import entry
    from sesurgery.report.catalogue import render_layer
    from sesurgery.report.layout import make_console

    render_layer(make_console(), entry(name))


def places(
    model: Looked = None,
    model_arg: opt.ModelArgs = None,
    input_size: opt.InputSize = None,
    imports: opt.Imports = None,
    as_json: opt.AsJson = False,
) -> None:
    """Every phrase of at:, with an example; with a model, how many places each has there."""
    opt.import_files(imports)
    counts = None if model is None else _counted(model, model_arg, input_size)
    if as_json:
        from sesurgery.cli.json_output import dump
        from sesurgery.recipe.phrases import PHRASES

        places = [{"at": each.name, "role": each.role, "summary": each.summary} for each in PHRASES.values()]
        counted = {} if counts is None else {"counts": counts}
        typer.echo(dump({"places": places, **counted}))
        return
    from sesurgery.report.catalogue import render_places
    from sesurgery.report.layout import make_console

    render_places(make_console(), counts)


def _counted(model: str, model_arg: list[str] | None, input_size: str | None) -> dict[str, int]:
    asked = opt.parse_model(model_arg, input_size)
    from sesurgery.cli.progress import progress

    with progress() as step:
        import sesurgery

        return sesurgery.places(model, **asked, progress=step)
