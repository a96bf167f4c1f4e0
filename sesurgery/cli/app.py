"""The command line: reads options, calls the package, prints. No logic of its own; torch is imported late."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sesurgery.artifact.names import NEW_FOLDER
from sesurgery.cli import catalogue
from sesurgery.cli import options as opt
from sesurgery.cli.compare_command import compare
from sesurgery.cli.exit_codes import Guarded
from sesurgery.cli.search_command import search

if TYPE_CHECKING:
    from rich.console import Console

    from sesurgery.api import Surgery
    from sesurgery.plans import Plan
    from sesurgery.timing.result import Latency
    from sesurgery.verification.result import Verification

CONTEXT = {"help_option_names": ["-h", "--help"]}
app = typer.Typer(cls=Guarded, add_completion=False, pretty_exceptions_enable=False, context_settings=CONTEXT)
recipes_app = typer.Typer(context_settings=CONTEXT)
app.add_typer(recipes_app, name="recipes")
app.add_typer(catalogue.layers_app, name="layers")
app.command()(catalogue.places)
app.command()(compare)
app.command()(search)


def main() -> None:
    """Entry point of the ``sesurgery`` command."""
    app(prog_name="sesurgery")


@app.callback(invoke_without_command=True)
def top(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Squeeze-and-excitation, and other surgery, at chosen places of any network."""
    if version:
        from sesurgery import __version__

        typer.echo(__version__)
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def apply(
    model: opt.Model,
    recipe: opt.RecipeName,
    stages: opt.Stages = None,
    module: opt.Module = None,
    settings: opt.Settings = None,
    init: opt.Init = None,
    pretrained: opt.Pretrained = False,
    weights: opt.Weights = None,
    model_arg: opt.ModelArgs = None,
    input_size: opt.InputSize = None,
    output: opt.Output = None,
    force: opt.Force = False,
    delta: opt.Delta = False,
    verify: opt.Verify = False,
    latency: opt.Latency = False,
    device: opt.Device = None,
    batch: opt.Batch = None,
    threads: opt.Threads = None,
    imports: opt.Imports = None,
    as_json: opt.AsJson = False,
) -> None:
    """Operate on a model: what changes, what it costs, and with -o the result as a folder."""
    opt.check_weights(weights, pretrained)
    opt.check_output(output, force)
    timing = opt.timing(latency, device, batch, threads)
    opt.check_delta(delta, output, pretrained or weights is not None)
    opt.import_files(imports)
    asked = _asked(recipe, stages, module, settings, init, model_arg, input_size)
    real = bool(output or weights or pretrained or verify or latency)
    start: dict[str, Any] = {"pretrained": pretrained, "weights": weights, "device": "cpu" if real else "meta"}
    surgery, verification = _operate(model, recipe, verify, output, force, delta, **asked, **start)
    differs = verification is not None and not verification
    times = None if timing is None else _timed(surgery, timing)
    _print_surgery(surgery, (verification, times), recipe, None if differs else output, real, as_json)
    if differs:
        typer.echo(f"nothing was saved in {output}: the operated model differs" if output else "it differs", err=True)
        raise typer.Exit(1)


@app.command()
def preview(
    model: opt.Model,
    recipe: opt.RecipeName,
    stages: opt.Stages = None,
    module: opt.Module = None,
    settings: opt.Settings = None,
    init: opt.Init = None,
    model_arg: opt.ModelArgs = None,
    input_size: opt.InputSize = None,
    imports: opt.Imports = None,
    as_json: opt.AsJson = False,
) -> None:
    """Show what apply would do, as a diff of the code and as tables; no weights, nothing written."""
    opt.import_files(imports)
    asked = _asked(recipe, stages, module, settings, init, model_arg, input_size)
    from sesurgery.cli.progress import progress

    with progress() as step:
        import sesurgery

        plan = sesurgery.plan(model, recipe, **asked, progress=step)
    _print_plan(plan, recipe, as_json)


@app.command()
def inspect(
    model: opt.Model,
    model_arg: opt.ModelArgs = None,
    input_size: opt.InputSize = None,
    imports: opt.Imports = None,
    as_json: opt.AsJson = False,
) -> None:
    """Look into a model: stages, blocks, merges, and what could not be traced."""
    opt.import_files(imports)
    asked = opt.parse_model(model_arg, input_size)
    from sesurgery.cli.progress import progress

    with progress() as step:
        import sesurgery

        inspection = sesurgery.inspect(model, **asked, progress=step)
    if as_json:
        from sesurgery.cli.json_output import dump, inspection_data

        typer.echo(dump(inspection_data(inspection)))
        return
    from sesurgery.report.inspection import render_inspection

    render_inspection(_console(), inspection)


@app.command()
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


@app.command()
def merge(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="What apply --delta wrote.", show_default=False)],
    output: opt.RevertOutput,
    weights: opt.BaseWeights = None,
) -> None:
    """Make of a delta and its base a folder that holds every weight."""
    opt.check_output(output, force=False, remedy=NEW_FOLDER)
    from sesurgery.cli.progress import progress

    with progress() as step:
        step("merging", 0, 0)
        import sesurgery

        sesurgery.save(sesurgery.load(folder, weights=weights), output)
    typer.echo(f"{output} holds the operated model with all of its weights")


@app.command()
def eject(
    model: opt.ModelOrFolder,
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
    hf: opt.Hub = False,
    trust_code: opt.TrustCode = False,
    imports: opt.Imports = None,
    as_json: opt.AsJson = False,
) -> None:
    """Write an operated model as Python that needs no sesurgery: model.py, weights.safetensors, check.py."""
    opt.check_weights(weights, pretrained)
    opt.check_new(output)
    opt.import_files(imports)
    asked = None if recipe is None else _asked(recipe, stages, module, settings, init, model_arg, input_size)
    if asked is None:
        opt.check_folder(model)
    from sesurgery.cli.progress import progress

    with progress() as step:
        import sesurgery

        if asked is None:
            step("loading", 0, 0)
            operated: Any = sesurgery.load(model, weights=weights, trust_code=trust_code)
        else:
            start: dict[str, Any] = {"pretrained": pretrained, "weights": weights}
            operated = sesurgery.apply(model, str(recipe), **asked, **start, progress=step)
        step("ejecting", 0, 0)
        sesurgery.eject(operated, output, hf=hf)
    said = f"{output} holds the model as plain Python; python {output / 'check.py'} proves it"
    typer.echo(opt.folder_data(output) if as_json else said)


@app.command()
def gates(
    model: opt.ModelOrFolder,
    data: opt.Data = None,
    samples: opt.Samples = 1000,
    picture: opt.Picture = None,
    pretrained: opt.Pretrained = False,
    weights: opt.Weights = None,
    model_arg: opt.ModelArgs = None,
    input_size: opt.InputSize = None,
    trust_code: opt.TrustCode = False,
    imports: opt.Imports = None,
    as_json: opt.AsJson = False,
) -> None:
    """Show what the gates of attention layers do: mean, spread, saturation, movement, by depth and class."""
    opt.check_weights(weights, pretrained)
    opt.check_picture(picture)
    opt.import_files(imports)
    asked = opt.parse_model(model_arg, input_size)
    from sesurgery.cli.progress import progress

    with progress() as step:
        step("running the model", 0, 0)
        from sesurgery.excitation.by_name import gates_by_name

        start: dict[str, Any] = {"weights": weights, "pretrained": pretrained, "trust_code": trust_code}
        result = gates_by_name(model, data, samples, **asked, **start)
        if picture is not None:
            result.figure().savefig(picture)
    if as_json:
        from sesurgery.cli.json_output import dump, gates_data

        typer.echo(dump(gates_data(result)))
        return
    from sesurgery.excitation.result import render_gates

    render_gates(_console(), result)


@recipes_app.callback(invoke_without_command=True)
def recipes(context: typer.Context) -> None:
    """List, show and check recipes, and print their schema."""
    if context.invoked_subcommand is None:
        list_()


@recipes_app.command("list")
def list_() -> None:
    """Every recipe that comes with the package."""
    from sesurgery.recipe.recipe import list_recipes
    from sesurgery.report.recipes import render_recipes

    render_recipes(_console(), list_recipes())


@recipes_app.command("show")
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A recipe of the list, or a file.", show_default=False)],
    imports: opt.Imports = None,
) -> None:
    """One recipe: its text, and what it means."""
    opt.import_files(imports)
    from sesurgery.recipe.recipe import load_recipe, recipe_text
    from sesurgery.report.recipes import render_recipe

    render_recipe(_console(), load_recipe(name), recipe_text(name))


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


def _asked(
    recipe: str,
    stages: str | None,
    module: str | None,
    settings: list[str] | None,
    init: str | None,
    model_arg: list[str] | None,
    input_size: str | None,
) -> dict[str, Any]:
    """Keyword arguments of plan and apply; whatever can be wrong without a model is found here."""
    options = opt.parse_options(settings, init)
    looked = opt.parse_model(model_arg, input_size)
    from sesurgery.recipe.recipe import load_recipe, override

    override(load_recipe(recipe), stages=stages, module=module, options=options)
    return {"stages": stages, "module": module, **looked, **options}


def _operate(
    model: str, recipe: str, verify: bool, output: Path | None, force: bool, delta: bool, **asked: Any
) -> tuple[Surgery, Verification | None]:
    """Operate, verify, and save what differs in nothing."""
    from sesurgery.cli.progress import progress

    verification = None
    with progress() as step:
        import sesurgery

        surgery = sesurgery.apply(model, recipe, **asked, progress=step)
        if verify:
            step("verifying", 0, 0)
            inputs = {key: asked[key] for key in ("input_size", "model_args")}
            verification = sesurgery.verify(model, surgery.model, **inputs)
        if output is not None and (verification is None or verification):
            step("saving", 0, 0)
            sesurgery.save(surgery, output, overwrite=force, delta=delta)
    return surgery, verification


def _timed(surgery: Surgery, timing: dict[str, Any]) -> Latency:
    from sesurgery.cli.progress import progress

    with progress() as step:
        step("measuring the latency", 0, 0)
        import sesurgery

        return sesurgery.latency(surgery, **timing)


def _print_plan(plan: Plan, recipe: str, as_json: bool) -> None:
    if as_json:
        from sesurgery.cli.json_output import dump, plan_data

        typer.echo(dump(plan_data(plan, recipe, diffs=True)))
        return
    from sesurgery.report.plan import render_report

    render_report(_console(), plan, code=True)


def _print_surgery(
    surgery: Surgery,
    extra: tuple[Verification | None, Latency | None],
    recipe: str,
    output: Path | None,
    real: bool,
    as_json: bool,
) -> None:
    verification, times = extra
    if as_json:
        from sesurgery.cli.json_output import dump, surgery_data

        typer.echo(dump(surgery_data(surgery, recipe, output, verification, times)))
        return
    from sesurgery.report.plan import render_surgery

    render_surgery(_console(), surgery, output=output, real=real)
    if verification is not None:
        from sesurgery.verification.result import render_verification

        typer.echo()
        render_verification(_console(), verification)
    if times is not None:
        typer.echo()
        typer.echo(str(times))


def _console() -> Console:
    from sesurgery.report.plan import make_console

    return make_console()
