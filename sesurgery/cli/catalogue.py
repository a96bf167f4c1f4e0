"""The commands that say what there is: recipes, layers and places."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sesurgery.cli import options as opt
from sesurgery.terminal import completion as tab
from sesurgery.terminal.help import App

recipes_app = App()
layers_app = App()
RecipeArgument = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help="A recipe of the list, or a file.", show_default=False, autocompletion=tab.recipes
    ),
]
Name = Annotated[
    str, typer.Argument(metavar="NAME", help="A layer of the list.", show_default=False, autocompletion=tab.layers)
]
Looked = Annotated[
    str | None, typer.Argument(metavar="MODEL", help=opt.MODEL_HELP, show_default=False, autocompletion=tab.models)
]
At = Annotated[
    str | None,
    typer.Option(
        "--at",
        metavar="PHRASE",
        help="Only the phrases that hold this.",
        show_default=False,
        autocompletion=tab.phrases,
    ),
]


@recipes_app.callback(invoke_without_command=True)
def recipes(context: typer.Context, as_json: opt.AsJson = False) -> None:
    """List, show and check recipes, and print their schema."""
    if context.invoked_subcommand is None:
        list_recipes(as_json)


@recipes_app.command("list")
def list_recipes(as_json: opt.AsJson = False) -> None:
    """Every recipe that comes with the package."""
    from sesurgery.recipe import recipe as language

    shipped = language.list_recipes()
    if as_json:
        _dump({"recipes": [language.to_data(each) for each in shipped]})
        return
    from sesurgery.report.layout import make_console
    from sesurgery.report.recipes import render_recipes

    render_recipes(make_console(), shipped)


@recipes_app.command("show")
def show_recipe(name: RecipeArgument, imports: opt.Imports = None, as_json: opt.AsJson = False) -> None:
    """One recipe: its text, and what it means."""
    opt.import_files(imports)
    from sesurgery.recipe import recipe as language

    recipe = language.load_recipe(name)
    if as_json:
        _dump(language.to_data(recipe))
        return
    from sesurgery.report.layout import make_console
    from sesurgery.report.recipes import render_recipe

    render_recipe(make_console(), recipe, language.recipe_text(name))


@recipes_app.command("schema")
def schema(imports: opt.Imports = None) -> None:
    """The JSON schema of a recipe, for editors."""
    opt.import_files(imports)
    from sesurgery.recipe.recipe import schema_text

    typer.echo(schema_text(), nl=False)


@recipes_app.command("check")
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A recipe of your own.", show_default=False)],
    imports: opt.Imports = None,
) -> None:
    """Find every mistake in a recipe file."""
    opt.import_files(imports)
    from sesurgery.recipe.recipe import check_file
    from sesurgery.report.layout import plural

    typer.echo(f"{file}: a recipe of {plural(len(check_file(file).rules), 'rule')}, no mistakes")


@layers_app.callback(invoke_without_command=True)
def layers(context: typer.Context, as_json: opt.AsJson = False) -> None:
    """List and show the layers that can be inserted."""
    if context.invoked_subcommand is None:
        list_layers(as_json=as_json)


@layers_app.command("list")
def list_layers(imports: opt.Imports = None, as_json: opt.AsJson = False) -> None:
    """Every layer that recipes and --module know."""
    opt.import_files(imports)
    from sesurgery.attention.registry import REGISTRY

    if as_json:
        from sesurgery.cli.json_output import layer_data

        _dump({"layers": [layer_data(each) for each in REGISTRY.values()]})
        return
    from sesurgery.report.catalogue import render_layers
    from sesurgery.report.layout import make_console

    render_layers(make_console(), REGISTRY.values())


@layers_app.command("show")
def show_layer(name: Name, imports: opt.Imports = None, as_json: opt.AsJson = False) -> None:
    """One layer: its options, their defaults, its source."""
    opt.import_files(imports)
    from sesurgery.attention.registry import entry

    if as_json:
        from sesurgery.cli.json_output import layer_data

        _dump(layer_data(entry(name)))
        return
    from sesurgery.report.catalogue import render_layer
    from sesurgery.report.layout import make_console

    render_layer(make_console(), entry(name))


def completion(
    context: typer.Context,
    shell: Annotated[
        str,
        typer.Argument(
            metavar="bash|zsh|fish", help="The shell.", autocompletion=tab.among(*tab.SHELLS), show_default=False
        ),
    ],
) -> None:
    """Print the completion of a shell, to be put where it looks; --install-completion does so for the present one."""
    typer.echo(tab.script(context.find_root().command, shell))


def places(
    model: Looked = None,
    at: At = None,
    model_arg: opt.ModelArgs = None,
    input_size: opt.InputSize = None,
    example: opt.Example = None,
    trust_code: opt.TrustCode = False,
    weights: opt.BaseWeights = None,
    imports: opt.Imports = None,
    as_json: opt.AsJson = False,
) -> None:
    """Every phrase of at:, with an example; with a model, how many places each has there."""
    opt.import_files(imports)
    from sesurgery.recipe.phrases import named_like

    phrases = named_like(at)
    counts = None
    if model is not None:
        opt.prepare(model, model_arg, None, base=weights)
        asked = opt.parse_model(model_arg, input_size, example)
        counts = _counted(model, asked, example=example, weights=weights, trust_code=trust_code)
    if as_json:
        known = [{"at": each.name, "role": each.role, "summary": each.summary} for each in phrases]
        _dump({"places": known, **({} if counts is None else {"counts": counts})})
        return
    from sesurgery.report.catalogue import render_places
    from sesurgery.report.layout import make_console

    render_places(make_console(), phrases, counts)


def _counted(model: str, asked: dict[str, Any], **looked: Any) -> dict[str, int]:
    from sesurgery.cli.progress import progress

    with progress() as step:
        import sesurgery
        from sesurgery.artifact.by_name import subject

        body, asked = subject(model, asked, step, **looked)
        return sesurgery.places(body, **asked, progress=step)


def _dump(data: dict[str, Any]) -> None:
    from sesurgery.cli.json_output import dump

    typer.echo(dump(data))
