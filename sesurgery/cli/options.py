"""Options of the commands: their help, and the checks that need neither torch nor a model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from sesurgery.artifact.names import NEW_FOLDER, check_target, holds_model
from sesurgery.errors import ArtifactError, InputError, WeightsError
from sesurgery.models.input_size import read_input_size
from sesurgery.terminal import completion as tab

MODEL_HELP = (
    "resnet50, timm:NAME, torchvision:NAME, path/net.py:factory, package.module:factory, "
    "or a folder that apply -o wrote."
)
# The sections of --help.
MODEL, CHANGE, RESULT, MEASURE = "Model", "What changes", "Result", "Checks"
STAGES_HELP = (
    "4, 1,3, 2-4, -1, last, last2 or all, counted from 1 after the stem (ResNet's layer1 is 1). "
    "The SENet paper counts convN_x: its SE_Stage_4 is stage 3 here. `sesurgery inspect` lists them."
)
RESERVED = {
    "model": "it is the first argument",
    "recipe": "use --recipe",
    "stages": "use --stages",
    "module": "use --module",
    "weights": "use --weights",
    "pretrained": "use --pretrained",
    "input_size": "use --input-size",
    "model_args": "use --model-arg",
    "inplace": "the command always works on a model of its own",
    "example_input": "use --example",
    "device": "the command chooses it",
    "progress": "it shows whenever stderr is a terminal",
}

Model = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP, show_default=False, autocompletion=tab.models)]
RecipeName = Annotated[
    str,
    typer.Option(
        "--recipe",
        "-r",
        metavar="NAME|FILE",
        help="`sesurgery recipes` lists the names.",
        autocompletion=tab.recipes,
        rich_help_panel=CHANGE,
    ),
]
STAGE_WORDS = tab.each_of(tab.among("all", "last", "last2", "1", "2", "3", "4", "5"))
Stages = Annotated[
    str | None,
    typer.Option(
        "--stages",
        "-s",
        metavar="S",
        help=STAGES_HELP,
        show_default=False,
        autocompletion=STAGE_WORDS,
        rich_help_panel=CHANGE,
    ),
]
Module = Annotated[
    str | None,
    typer.Option(
        "--module",
        "-m",
        metavar="NAME",
        help="Another layer in place of the recipe's, such as eca.",
        autocompletion=tab.layers,
        rich_help_panel=CHANGE,
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override an option of the layer, such as reduction=8. Repeatable.",
        autocompletion=tab.settings,
        rich_help_panel=CHANGE,
    ),
]
Init = Annotated[
    str | None,
    typer.Option(
        "--init",
        metavar="paper|near|identity",
        help="identity: the output stays bit for bit what it was. near: a tenth of the way. paper: gates at about 0.5.",
        autocompletion=tab.among("paper", "near", "identity"),
        rich_help_panel=CHANGE,
    ),
]
ModelArgs = Annotated[
    list[str] | None,
    typer.Option(
        "--model-arg", metavar="KEY=VALUE", help="Passed to the model's factory. Repeatable.", rich_help_panel=MODEL
    ),
]
InputSize = Annotated[
    str | None,
    typer.Option(
        "--input-size",
        metavar="C,H,W",
        help="Shape of one sample, such as 3,224,224, or just 224.",
        rich_help_panel=MODEL,
    ),
]
Example = Annotated[
    str | None,
    typer.Option(
        "--example",
        metavar="FILE.py:NAME",
        help="A function that gives an input, a tuple of several; instead of --input-size.",
        show_default=False,
        rich_help_panel=MODEL,
    ),
]
Pretrained = Annotated[
    bool, typer.Option("--pretrained", help="Start from the library's pretrained weights.", rich_help_panel=MODEL)
]
Weights = Annotated[
    Path | None,
    typer.Option(
        "--weights", metavar="FILE", help="Start from a checkpoint: .safetensors, .pth or .pt.", rich_help_panel=MODEL
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FOLDER",
        help="Save the operated model there; nothing is written without.",
        rich_help_panel=RESULT,
    ),
]
RevertOutput = Annotated[
    Path, typer.Option("--output", "-o", metavar="FOLDER", help="A new folder.", show_default=False)
]
All = Annotated[
    bool, typer.Option("--all", help="Show every host's code, and not the first few.", rich_help_panel=RESULT)
]
OptionalRecipe = Annotated[
    str | None, typer.Option("--recipe", "-r", metavar="NAME|FILE", help="Operate on MODEL first.", show_default=False)
]
EjectOutput = Annotated[
    Path, typer.Option("--output", "-o", metavar="FOLDER", help="A new folder for the code.", show_default=False)
]
Hub = Annotated[bool, typer.Option("--hf", help="For the Hugging Face hub: AutoModel loads it. Needs transformers.")]
TrustCode = Annotated[
    bool, typer.Option("--trust-code", help="Let FOLDER import and call the factory it names.", rich_help_panel=MODEL)
]
Delta = Annotated[
    bool,
    typer.Option(
        "--delta", help="Save only what is new or changed against --weights or --pretrained.", rich_help_panel=RESULT
    ),
]
BaseWeights = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        metavar="FILE",
        help="Of a delta, the checkpoint it was made from.",
        show_default=False,
        rich_help_panel=MODEL,
    ),
]
Data = Annotated[
    Path | None,
    typer.Option("--data", metavar="FOLDER", help="Images, in a folder for each class.", show_default=False),
]
Samples = Annotated[int, typer.Option("--samples", metavar="N", min=1, help="How many images to look at.")]
Picture = Annotated[
    Path | None,
    typer.Option("--picture", metavar="FILE", help="Draw the gates by channel: .svg, .png, .pdf.", show_default=False),
]
Svg = Annotated[
    Path | None,
    typer.Option(
        "--svg", metavar="FILE", help="Draw what is printed as a picture.", show_default=False, rich_help_panel=RESULT
    ),
]
Html = Annotated[
    Path | None,
    typer.Option(
        "--html", metavar="FILE", help="Write what is printed as a page.", show_default=False, rich_help_panel=RESULT
    ),
]
Drawing = Annotated[
    Path,
    typer.Option(
        "--output", "-o", metavar="FILE", help="The picture: .svg, .png, .pdf or .dot.", rich_help_panel=RESULT
    ),
]
Block = Annotated[
    str | None,
    typer.Option("--block", metavar="PATH", help="Which module, such as layer4.0; the first that changes without."),
]
Bars = Annotated[
    Path | None,
    typer.Option(
        "--picture", metavar="FILE", help="Draw what each stage costs: .svg, .png, .pdf.", rich_help_panel=RESULT
    ),
]
Force = Annotated[
    bool, typer.Option("--force", help="Replace an artefact that is already in FOLDER.", rich_help_panel=RESULT)
]
Verify = Annotated[
    bool,
    typer.Option(
        "--verify",
        help="Run it beside the original; exit code 1, and nothing saved, if it differs.",
        rich_help_panel=MEASURE,
    ),
]
Latency = Annotated[
    bool,
    typer.Option(
        "--latency",
        help="Measure the time of one forward before and after, in alternating pairs.",
        rich_help_panel=MEASURE,
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="cpu|cuda",
        help="Where --latency measures.",
        autocompletion=tab.among("cpu", "cuda"),
        rich_help_panel=MEASURE,
    ),
]
Batch = Annotated[
    int | None,
    typer.Option("--batch", metavar="N", min=1, help="Samples of one forward of --latency.", rich_help_panel=MEASURE),
]
Threads = Annotated[
    int | None,
    typer.Option("--threads", metavar="N", min=1, help="Threads of the CPU for --latency.", rich_help_panel=MEASURE),
]
Imports = Annotated[
    list[Path] | None,
    typer.Option(
        "--import",
        metavar="FILE.py",
        help="Run a file of your own layers, placements or edits. Repeatable.",
        rich_help_panel=CHANGE,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout instead of tables.", rich_help_panel=RESULT)]
Recipes = Annotated[
    bool,
    typer.Option("--recipes", help="Count what each shipped recipe would add, too.", rich_help_panel=RESULT),
]


def import_files(files: list[Path] | None) -> None:
    """Import what ``--import`` names, so that recipes know what is registered there."""
    from sesurgery.words.user_code import import_file

    for file in files or ():
        import_file(file)


def parse_pairs(option: str, pairs: list[str] | None) -> dict[str, Any]:
    """``["reduction=8"]`` as ``{"reduction": 8}``; where a key comes twice the last one counts."""
    from sesurgery.recipe.recipe import parse_setting

    parsed: dict[str, Any] = {}
    for pair in pairs or ():
        try:
            key, value = parse_setting(pair)
        except InputError as error:
            raise InputError(error.what, where=error.where or option, remedy=error.remedy) from None
        parsed[key] = value
    return parsed


def parse_model_args(pairs: list[str] | None) -> dict[str, Any]:
    """Arguments of the model's factory; weights are asked for by an option of their own."""
    arguments = parse_pairs("--model-arg", pairs)
    for key in ("pretrained", "weights"):
        if key in arguments:
            raise InputError(f'"{key}" is not passed on', where="--model-arg", remedy="use --pretrained or --weights")
    return arguments


def parse_options(settings: list[str] | None, init: str | None) -> dict[str, Any]:
    """Node options of ``--set`` and ``--init``; refuses what has an option of its own."""
    options = parse_pairs("--set", settings)
    for key in options:
        if key in RESERVED:
            raise InputError(f'"{key}" is no option of a layer', where=f"--set {key}=", remedy=RESERVED[key])
    if init is not None and options.get("init", init) != init:
        raise InputError(f"--init {init} and --set init={options['init']} contradict each other", remedy="give one")
    return options if init is None else {**options, "init": init}


def parse_input_size(text: str | None) -> tuple[int, ...] | None:
    """What ``--input-size`` says, read as ``input_size=`` is in Python."""
    return None if text is None else read_input_size(text, where="--input-size")


def parse_model(model_arg: list[str] | None, input_size: str | None, example: str | None = None) -> dict[str, Any]:
    """``model_args`` and ``input_size``: what every function that takes a model by name wants to know of it."""
    if example is not None and input_size is not None:
        raise InputError("--example and --input-size exclude each other", remedy="give one of them")
    return {"model_args": parse_model_args(model_arg), "input_size": parse_input_size(input_size)}


def asked(
    recipe: str,
    stages: str | None,
    module: str | None,
    settings: list[str] | None,
    init: str | None,
    model_arg: list[str] | None,
    input_size: str | None,
    example: str | None,
) -> dict[str, Any]:
    """Keyword arguments of plan and apply; whatever can be wrong without a model is found here."""
    options = parse_options(settings, init)
    looked = parse_model(model_arg, input_size, example)
    from sesurgery.recipe.recipe import load_recipe, override

    override(load_recipe(recipe), stages=stages, module=module, options=options)
    return {"stages": stages, "module": module, **looked, **options}


def check_weights(weights: Path | None, pretrained: bool) -> None:
    """Raise unless ``weights`` is a file that can be read and no second source of weights is asked for."""
    if weights is None:
        return
    if pretrained:
        raise InputError("--pretrained and --weights exclude each other", remedy="give one of them")
    if not weights.exists():
        raise WeightsError("no such file", where=f"--weights {weights}", remedy=_neighbours(weights))
    if not weights.is_file():
        raise WeightsError("not a file", where=f"--weights {weights}", remedy="give a .safetensors, .pth or .pt file")
    if not os.access(weights, os.R_OK):
        raise WeightsError("may not be read", where=f"--weights {weights}", remedy="check its permissions")


def timing(latency: bool, device: str | None, batch: int | None, threads: int | None) -> dict[str, Any] | None:
    """How ``--latency`` is to measure, as arguments of ``sesurgery.latency``; None where it was not asked for."""
    given = {"device": device, "batch": batch, "threads": threads}
    settings = {key: value for key, value in given.items() if value is not None}
    if settings and not latency:
        name = next(iter(settings))
        raise InputError(f"--{name} says how --latency measures", where=f"--{name}", remedy="add --latency")
    if device not in (None, "cpu", "cuda"):
        raise InputError("only cpu and cuda are measured", where=f"--device {device}")
    return settings if latency else None


def check_output(folder: Path | None, force: bool, remedy: str = "--force replaces it") -> None:
    """Raise where ``folder`` cannot take an artefact; ``remedy`` is for one that is there and may not be replaced."""
    if folder is not None:
        check_target(folder, f"-o {folder}", None if force else remedy)


def check_new(folder: Path) -> None:
    """Raise where ``folder`` is not free."""
    check_target(folder, f"-o {folder}", NEW_FOLDER)
    if folder.is_dir() and any(folder.iterdir()):
        raise ArtifactError("holds files already", where=f"-o {folder}", remedy=NEW_FOLDER)


def check_delta(delta: bool, output: Path | None, known: bool) -> None:
    """Raise where a delta is asked for and there is nothing to save, or nothing to save it against."""
    if delta and output is None:
        raise InputError("a delta is something to save", where="--delta", remedy="add -o FOLDER")
    if delta and not known:
        raise InputError("of new random weights nothing can be left out", where="--delta", remedy="add --weights FILE")


def check_picture(
    picture: Path | None, option: str = "--picture", endings: tuple[str, ...] = (".svg", ".png", ".pdf")
) -> None:
    """Raise where a picture could not be written, before any work is done for it."""
    if picture is None:
        return
    if picture.suffix not in endings:
        remedy = f"end it in {' or '.join(endings)}"
        raise InputError("is no file name of a picture", where=f"{option} {picture}", remedy=remedy)
    if not picture.absolute().parent.is_dir():
        raise InputError("its folder does not exist", where=f"{option} {picture}", remedy="make the folder first")


def write_file(path: Path, text: str) -> None:
    """Write a picture or a page, and name it on stderr."""
    path.write_text(text, encoding="utf-8")
    typer.echo(f"written: {path}", err=True)


def check_folder(model: str, recipe: str | None) -> None:
    """Raise unless ``model`` is a folder, or is to be operated on first: one by name has not been."""
    if recipe is None and not holds_model(model):
        remedy = "name a folder that apply -o wrote, or add --recipe NAME to operate on the model first"
        raise InputError("is no folder of an operated model", where=model, remedy=remedy)


def check_kept(model: str, model_arg: list[str] | None, pretrained: bool) -> None:
    """Raise where a folder is given what only a name can be told: it knows how its model was made, and has weights."""
    if holds_model(model):
        for option, given in (("--model-arg", model_arg), ("--pretrained", pretrained)):
            if given:
                raise InputError("goes with a name; a folder knows how its model was made", where=option)


def prepare(
    model: str,
    model_arg: list[str] | None,
    imports: list[Path] | None,
    *,
    pretrained: bool = False,
    base: Path | None = None,
) -> None:
    """Check what a model is given, and import the user's files; ``base`` holds the weights that a delta lacks."""
    check_kept(model, model_arg, pretrained)
    check_base(model, base)
    import_files(imports)


def check_base(model: str, weights: Path | None) -> None:
    """Raise where a base's weights are given and there is no delta to complete: costs and plans need none."""
    if weights is not None and not holds_model(model):
        raise InputError("is for a folder that apply --delta wrote", where="--weights", remedy="leave it out")
    check_weights(weights, False)


def folder_data(folder: Path) -> str:
    """A folder that was written, as JSON."""
    from sesurgery.cli.json_output import dump

    return dump({"output": str(folder), "files": sorted(path.name for path in folder.iterdir())})


def _neighbours(weights: Path) -> str:
    from sesurgery.errors import either, nearest

    if not weights.parent.is_dir():
        return f"the folder {weights.parent} does not exist either"
    near = nearest(weights.name, (path.name for path in weights.parent.iterdir() if path.is_file()))
    return f"did you mean {either(near)}?" if near else "check the path"
