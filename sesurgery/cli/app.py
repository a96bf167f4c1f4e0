"""The command line: reads options, calls the package, prints. No logic of its own; torch is imported late."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sesurgery.artifact.names import holds_model
from sesurgery.cli import catalogue, folders
from sesurgery.cli import options as opt
from sesurgery.cli.compare_command import compare
from sesurgery.cli.search_command import search
from sesurgery.terminal.exit_codes import Guarded
from sesurgery.terminal.help import App

if TYPE_CHECKING:
    from rich.console import Console

    from sesurgery.api import Surgery
    from sesurgery.plans import Plan
    from sesurgery.timing.result import Latency
    from sesurgery.verification.result import Verification

OPERATE, LOOK, CHOOSE, KEEP, LISTS = "Operate", "Look", "Choose", "Operated models", "Lists"
app = App(cls=Guarded, add_completion=True)


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


@app.command(rich_help_panel=OPERATE)
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
    example: opt.Example = None,
    trust_code: opt.TrustCode = False,
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
    opt.prepare(model, model_arg, imports, pretrained=pretrained)
    asked = opt.asked(recipe, stages, module, settings, init, model_arg, input_size, example)
    trained = bool(weights or pretrained or holds_model(model))
    real = bool(output or verify or latency or trained)
    start: dict[str, Any] = {"pretrained": pretrained, "weights": weights, "device": "cpu" if real else "meta"}
    saved: dict[str, Any] = {"output": output, "overwrite": force, "delta": delta}
    surgery, verification = _operate(model, recipe, {**asked, **start}, (example, trust_code), verify, saved)
    differs = verification is not None and not verification
    times = None if timing is None else _timed(surgery, timing)
    _print_surgery(surgery, (verification, times), recipe, None if differs else output, real, as_json)
    _say_of_result(output, differs, silent=trained or as_json)


@app.command(rich_help_panel=OPERATE)
def preview(
    model: opt.Model,
    recipe: opt.RecipeName,
    stages: opt.Stages = None,
    module: opt.Module = None,
    settings: opt.Settings = None,
    init: opt.Init = None,
    model_arg: opt.ModelArgs = None,
    input_size: opt.InputSize = None,
    example: opt.Example = None,
    trust_code: opt.TrustCode = False,
    weights: opt.BaseWeights = None,
    every: opt.All = False,
    svg: opt.Svg = None,
    html: opt.Html = None,
    imports: opt.Imports = None,
    as_json: opt.AsJson = False,
) -> None:
    """Show what apply would do, as a diff of the code and as tables; no weights, nothing written."""
    opt.check_picture(svg, "--svg", (".svg",))
    opt.check_picture(html, "--html", (".html", ".htm"))
    opt.prepare(model, model_arg, imports, base=weights)
    asked = opt.asked(recipe, stages, module, settings, init, model_arg, input_size, example)
    from sesurgery.cli.progress import progress

    with progress() as step:
        import sesurgery
        from sesurgery.artifact.by_name import subject

        body, asked = subject(model, asked, step, example=example, weights=weights, trust_code=trust_code)
        plan = sesurgery.plan(body, recipe, **asked, progress=step)
    _print_plan(plan, recipe, every, as_json)
    _draw_plan(plan, every, svg, html)


@app.command(rich_help_panel=LOOK)
def inspect(
    model: opt.Model,
    model_arg: opt.ModelArgs = None,
    input_size: opt.InputSize = None,
    example: opt.Example = None,
    trust_code: opt.TrustCode = False,
    weights: opt.BaseWeights = None,
    recipes: opt.Recipes = False,
    picture: opt.Bars = None,
    imports: opt.Imports = None,
    as_json: opt.AsJson = False,
) -> None:
    """Look into a model: stages, blocks, merges, and what each costs."""
    opt.check_picture(picture)
    opt.prepare(model, model_arg, imports, base=weights)
    asked = opt.parse_model(model_arg, input_size, example)
    from sesurgery.cli.progress import progress

    with progress() as step:
        import sesurgery
        from sesurgery.artifact.by_name import subject

        body, asked = subject(model, asked, step, example=example, weights=weights, trust_code=trust_code)
        inspection = sesurgery.inspect(body, **asked, recipes=recipes, progress=step)
        if picture is not None:
            from sesurgery.drawing.stages import save_figure, stage_figure

            save_figure(stage_figure(inspection), picture)
    if as_json:
        from sesurgery.cli.json_output import dump, inspection_data

        typer.echo(dump(inspection_data(inspection)))
        return
    from sesurgery.report.inspection import render_inspection

    render_inspection(_console(), inspection)


@app.command(rich_help_panel=LOOK)
def draw(
    model: opt.Model,
    recipe: opt.RecipeName,
    output: opt.Drawing,
    block: opt.Block = None,
    stages: opt.Stages = None,
    module: opt.Module = None,
    settings: opt.Settings = None,
    init: opt.Init = None,
    model_arg: opt.ModelArgs = None,
    input_size: opt.InputSize = None,
    example: opt.Example = None,
    trust_code: opt.TrustCode = False,
    weights: opt.BaseWeights = None,
    imports: opt.Imports = None,
) -> None:
    """Draw a block before and after as a graph, with what changes marked. Needs graphviz."""
    opt.check_picture(output, "-o", (".svg", ".png", ".pdf", ".dot"))
    opt.prepare(model, model_arg, imports, base=weights)
    asked = opt.asked(recipe, stages, module, settings, init, model_arg, input_size, example)
    from sesurgery.cli.progress import progress

    with progress() as step:
        import sesurgery
        from sesurgery.artifact.by_name import subject

        body, asked = subject(model, asked, step, example=example, weights=weights, trust_code=trust_code)
        picture = sesurgery.draw(body, recipe, block=block, form=output.suffix[1:], **asked, progress=step)
    output.write_bytes(picture)
    typer.echo(f"{output} shows what changes")


app.command(rich_help_panel=LOOK)(catalogue.places)
app.command(rich_help_panel=LOOK)(folders.gates)
app.command(rich_help_panel=CHOOSE)(compare)
app.command(rich_help_panel=CHOOSE)(search)
app.command(rich_help_panel=KEEP)(folders.revert)
app.command(rich_help_panel=KEEP)(folders.merge)
app.command(rich_help_panel=KEEP)(folders.eject)
app.add_typer(catalogue.recipes_app, name="recipes", rich_help_panel=LISTS)
app.add_typer(catalogue.layers_app, name="layers", rich_help_panel=LISTS)
app.command(rich_help_panel=LISTS)(catalogue.completion)


def _operate(
    model: str,
    recipe: str,
    asked: dict[str, Any],
    looked: tuple[str | None, bool],
    verify: bool,
    saved: dict[str, Any],
) -> tuple[Surgery, Verification | None]:
    """Operate, verify, and save what differs in nothing."""
    from sesurgery.cli.progress import progress

    verification, output = None, saved.pop("output")
    with progress() as step:
        import sesurgery
        from sesurgery.artifact.by_name import subject

        body, given = subject(model, asked, step, example=looked[0], trust_code=looked[1], weights=asked["weights"])
        if body is not model:
            given["weights"] = None  # those of a delta's base are in it already
        surgery = sesurgery.apply(body, recipe, **given, progress=step)
        if verify:
            step("verifying", 0, 0)
            inputs: dict[str, Any] = {key: given.get(key) for key in ("input_size", "model_args")}
            if looked[0] is not None:
                inputs["example_input"] = given["example_input"]
            verification = sesurgery.verify(body, surgery.model, **inputs)
        if output is not None and (verification is None or verification):
            step("saving", 0, 0)
            sesurgery.save(surgery, output, **saved)
    return surgery, verification


def _say_of_result(output: Path | None, differs: bool, silent: bool) -> None:
    if differs:
        typer.echo(f"nothing was saved in {output}: the operated model differs" if output else "it differs", err=True)
        raise typer.Exit(1)
    if output is not None and not silent:
        typer.echo("its weights are new and random: --pretrained, or --weights FILE, starts from trained ones")


def _timed(surgery: Surgery, timing: dict[str, Any]) -> Latency:
    from sesurgery.cli.progress import progress

    with progress() as step:
        step("measuring the latency", 0, 0)
        import sesurgery

        return sesurgery.latency(surgery, **timing)


def _print_plan(plan: Plan, recipe: str, every: bool, as_json: bool) -> None:
    if as_json:
        from sesurgery.cli.json_output import dump, plan_data

        typer.echo(dump(plan_data(plan, recipe, diffs=True)))
        return
    from sesurgery.report.plan import render_report

    render_report(_console(), plan, code=True, every=every)


def _draw_plan(plan: Plan, every: bool, svg: Path | None, html: Path | None) -> None:
    """What was printed, as files."""
    if svg is None and html is None:
        return
    from sesurgery.report.layout import render_html, render_svg
    from sesurgery.report.plan import recipe_name, render_report

    title = f"sesurgery preview {plan.model} --recipe {recipe_name(plan)}"
    for path, render in ((svg, render_svg), (html, render_html)):
        if path is not None:
            text = render(lambda console: render_report(console, plan, code=True, every=every), title=title)
            opt.write_file(path, text)


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
