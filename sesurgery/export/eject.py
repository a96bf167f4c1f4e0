"""``eject``: an operated model as files that need no sesurgery, written only where they give the same model."""

from __future__ import annotations

import copy
import importlib.util
import inspect
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file, save_model
from torch import Tensor, nn

from sesurgery.api import Surgery
from sesurgery.artifact.names import check_target
from sesurgery.artifact.save_load import guarded, load
from sesurgery.errors import ArtifactError, InputError, ModelError, Unfit
from sesurgery.export.differences import Differences
from sesurgery.export.hub import HUB_WEIGHTS, check_hub, hub_of
from sesurgery.export.texts import CHECK, RUFF, WEIGHTS, bind_all, check_text, model_text
from sesurgery.models import zoo
from sesurgery.models.weightless import to_meta
from sesurgery.operating.backup import HOST_MARK, MODEL_MARK, without_history
from sesurgery.operating.distributed import refuse_to_write
from sesurgery.operating.perform import revert
from sesurgery.plans import Plan
from sesurgery.recording.nested import tensors_in
from sesurgery.verification.inputs import Inputs
from sesurgery.words.text import reason
from sesurgery.words.user_code import importable

_NEW = "name a new or empty folder"


def eject(
    operated: Surgery | nn.Module | str | Path, folder: str | Path, *, example_input: Any = None, hf: bool = False
) -> Path:
    """Write an operated model as Python that needs no sesurgery.

    ``model.py`` holds subclasses of the author's own classes with the edited methods, and ``build(pretrained=True)``;
    ``weights.safetensors`` the weights; ``check.py`` compares keys and output with what the operated model gave on an
    input stored in ``check.safetensors``. The folder appears only once that comparison holds.

    Args:
        operated: what ``apply`` returned, its model, trained further or not, or a folder that ``save`` wrote.
        folder: a new or empty folder.
        hf: for the Hugging Face hub: ``AutoModel.from_pretrained(folder, trust_remote_code=True)`` loads it; one of
            transformers' own the ``AutoModelFor...`` of its task. One file of code; the weights are
            ``model.safetensors``. Needs transformers, and a model of transformers, timm or torchvision.
        example_input: a tensor (N, C, H, W), or a tuple of positional arguments, to compare on; derived where left out.

    Returns:
        The folder.

    Raises:
        InputError: nothing was operated, or the folder is not free.
        ModelError: the model cannot be written as Python; the text says why and where.
    """
    model = _operated(operated)
    place = Path(folder)
    if place.exists() and not (place.is_dir() and not any(place.iterdir())):
        raise ArtifactError("holds files already" if place.is_dir() else "is a file", where=str(place), remedy=_NEW)
    check_target(place, str(place), _NEW)
    if hf:
        check_hub(model)
    body = _copied(model).cpu().eval()
    inputs, outputs = _ran(body, example_input)
    history = model.__dict__[MODEL_MARK]
    try:
        files, prefix = _files(to_meta(_copied(model)), history, inputs, hf)
    except Unfit as unfit:
        path = getattr(unfit, "path", "")
        remedy = "sesurgery.save keeps the whole model, and sesurgery.load gives it back"
        raise ModelError(
            f"cannot be written as Python: {unfit}", where=path or type(model).__name__, remedy=remedy
        ) from unfit

    def fill(beside: Path) -> None:
        _write(beside, files, prefix, body, inputs, outputs)
        _prove(beside, body, inputs, outputs, given="base: nn.Module" in files["model.py"])

    guarded(place, lambda: _put(place, fill))
    return place


def _put(place: Path, fill: Callable[[Path], None]) -> None:
    """Have a folder filled beside its place, and rename it there: all of it or nothing."""
    place.absolute().parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.absolute().parent))
    try:
        fill(temporary)
        temporary.chmod(0o755)
        if place.is_dir():
            place.rmdir()
        temporary.rename(place)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _operated(operated: Surgery | nn.Module | str | Path) -> nn.Module:
    if isinstance(operated, str | Path):
        operated = load(operated)
    model = operated.model if isinstance(operated, Surgery) else operated
    if not isinstance(model, nn.Module) or not model.__dict__.get(MODEL_MARK):
        given = isinstance(model, nn.Module)
        problem, remedy = without_history(model) if given else ("is no model", "give what sesurgery.apply returned")
        raise InputError(problem, where=type(model).__name__, remedy=remedy)
    refuse_to_write(model)
    if any(tensor.is_meta for tensor in model.parameters()):
        raise InputError("is on meta, which holds no weights", where="model", remedy='operate on it with device="cpu"')
    return model


def _copied(model: nn.Module) -> nn.Module:
    """A deep copy with its marks, which a GraphModule leaves behind."""
    twin = copy.deepcopy(model)
    for original, part in zip(model.modules(), twin.modules(), strict=True):
        for name in (HOST_MARK, MODEL_MARK):
            if name in original.__dict__ and name not in part.__dict__:
                part.__dict__[name] = copy.deepcopy(original.__dict__[name])
    return twin


def _files(
    body: nn.Module, history: dict[str, Any], inputs: tuple[Any, ...], hub: bool
) -> tuple[dict[str, str], str | None]:
    """The texts to write, and for the hub what stands before the keys of the weights."""
    plans = tuple(Plan.from_json(text) for text in history["plans"])
    spec = zoo.resolve(history["base"]["reference"], history["base"]["args"]) if history["base"] else None
    before = revert(_copied(body)) if spec is None else zoo.create(spec, device="meta")
    differences = Differences(before, body, plans)
    create = None if spec is None else _create(spec, differences)
    dtypes = {tensor.dtype for tensor in body.state_dict().values() if tensor.is_floating_point()}
    single = next(iter(dtypes), torch.float32) if len(dtypes) == 1 else None
    dtype = (
        str(single).replace("torch", differences.names.bind("torch", torch, "torch"), 1)
        if single not in (None, torch.float32)
        else None
    )
    casts = len(dtypes) > 1
    bind_all(differences)
    seen = hub_of(body, differences.names) if hub else None
    steps = "; ".join(f"{len(plan.edits)} edits of recipe {plan.recipe.get('name', '')}" for plan in plans)
    about = f"{spec.name if spec else type(body).__name__} after {steps}."
    tensors = {id(tensor): f"input.{index}" for index, tensor in enumerate(tensors_in(inputs))}
    texts = {
        "model.py": model_text(about, differences, create, dtype, casts, seen),
        "check.py": check_text(inputs, tensors, create is None and not (seen and seen.create)),
        "ruff.toml": RUFF,
        **({"config.json": seen.config} if seen else {}),
    }
    own = {f"{stem}.py": path.read_text(encoding="utf-8") for stem, path in differences.names.files.items()}
    return texts | own, seen.prefix if seen else None


def _create(spec: zoo.ModelSpec, differences: Differences) -> str:
    """An expression that makes the base, with new weights."""
    names = differences.names
    args = [f"{key}={differences.value(value)}" for key, value in spec.args.items()]
    name = f'"{spec.name}"'
    if spec.source == "timm":
        import timm

        return f"{names.bind('timm', timm, 'timm')}.create_model({', '.join([name, *args])})"
    if spec.source == "torchvision":
        from torchvision import models

        empty = ["weights=None"]
        if "weights_backbone" in inspect.signature(models.get_model_builder(spec.name)).parameters:
            empty.append("weights_backbone=None")
        called = names.bind("get_model", models.get_model, "torchvision.models")
        return f"{called}({', '.join([name, *empty, *args])})"
    factory = zoo.factory_of(spec)
    return f"{names.reference(factory)}({', '.join(args)})"


def _ran(model: nn.Module, example: Any) -> tuple[tuple[Any, ...], list[Tensor]]:
    """Inputs on which the model runs, and what it gives: each tensor of its output."""
    problem: Exception | None = None
    for inputs in Inputs(model).examples(example, None):
        try:
            return inputs, _outputs(model, inputs)
        except Exception as error:
            problem = problem or error
    said = reason(problem) if problem else "no input could be made for it"
    raise ModelError(f"cannot be run: {said}", where=type(model).__name__, remedy="give example_input=...")


def _outputs(model: nn.Module, inputs: tuple[Any, ...]) -> list[Tensor]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return [tensor.clone() for tensor in _leaves(model(*copy.deepcopy(inputs)))]
    finally:
        torch.set_num_threads(threads)


def _leaves(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    parts = value.values() if hasattr(value, "values") else value if isinstance(value, list | tuple) else ()
    return [leaf for part in parts for leaf in _leaves(part)]


def _write(
    folder: Path,
    files: dict[str, str],
    prefix: str | None,
    body: nn.Module,
    inputs: tuple[Any, ...],
    outputs: list[Tensor],
) -> None:
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    weights = WEIGHTS if prefix is None else HUB_WEIGHTS
    try:
        if prefix is not None:  # transformers wants every name
            state = {f"{prefix}{key}": tensor.clone().contiguous() for key, tensor in body.state_dict().items()}
            save_file(state, folder / weights, {"format": "pt"})
        else:
            save_model(body, str(folder / weights))
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"its weights cannot be stored: {reason(error)}", where=type(body).__name__) from error
    stored = {f"input.{index}": tensor.clone().contiguous() for index, tensor in enumerate(tensors_in(inputs))}
    stored |= {f"output.{index}": tensor.contiguous() for index, tensor in enumerate(outputs)}
    save_file(stored, folder / CHECK, {"keys": json.dumps(list(body.state_dict()))})
    for name in (weights, CHECK):
        (folder / name).chmod(0o644)


def _prove(folder: Path, body: nn.Module, inputs: tuple[Any, ...], outputs: list[Tensor], given: bool) -> None:
    """Build the ejected model here, and compare. Raises ``ModelError`` where anything differs."""
    where = type(body).__name__
    with _imported(folder) as module:
        try:
            with torch.random.fork_rng(devices=[]):
                model = module.build(*([revert(_copied(body))] if given else []))
            again = _outputs(model, inputs)
        except Exception as error:
            raise ModelError(f"the ejected model cannot be built: {reason(error)}", where=where) from error
        same = list(model.state_dict()) == list(body.state_dict()) and len(again) == len(outputs)
        kinds = {type(part).__module__.partition(".")[0] for part in model.modules()}
        if not same or not all(torch.equal(one, other) for one, other in zip(again, outputs, strict=True)):
            raise ModelError("the ejected model differs: its keys or its output", where=where)
        if "sesurgery" in kinds:
            raise ModelError("the ejected model has layers of sesurgery's own", where=where)


@contextmanager
def _imported(folder: Path) -> Iterator[Any]:
    """The ``model.py`` of a folder as a module, for a while."""
    before = set(sys.modules)
    spec = importlib.util.spec_from_file_location("_ejected_model", folder / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    written = sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    try:
        with importable(folder):
            spec.loader.exec_module(module)
            yield module
    finally:
        sys.dont_write_bytecode = written
        own = {path.stem for path in folder.glob("*.py")} | {spec.name}
        for name in (set(sys.modules) - before) & own:
            del sys.modules[name]
