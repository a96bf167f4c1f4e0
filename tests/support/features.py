"""What people do with a model after they have it: each a function that raises where a model cannot take part.

A feature is given a family and a model of it, operated or not, and checks numbers, not only that nothing is raised.
"""

from __future__ import annotations

import copy
import io
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import timm
import torch
import torch.fx
from families import Family
from timm.models._features_fx import get_notrace_functions, get_notrace_modules
from timm.utils import ModelEmaV3
from torch import nn
from torchvision.models.feature_extraction import NodePathTracer

import sesurgery
from sesurgery.operating.backup import inserted_layers
from sesurgery.recording.nested import map_tensors, tensors_in

Feature = Callable[[Family, nn.Module], None]
FEATURES: dict[str, Feature] = {}


# What some need that is no dependency of the project's tests.
NEEDS = {
    "ONNX": ("onnxruntime", "onnxscript"),
    "OpenVINO": ("openvino",),
    "Torch-Pruning": ("torch_pruning",),
    "torchao int8": ("torchao",),
}


class NotApplicableError(Exception):
    """The library offers no such thing for this model."""


def feature(name: str) -> Callable[[Feature], Feature]:
    """Register a check under the title of its column."""

    def register(function: Feature) -> Feature:
        FEATURES[name] = function
        return function

    return register


def operate(family: Family, model: nn.Module | None = None, **options: Any) -> nn.Module:
    """A fresh model of a family (or a copy of ``model``) with the recipe that fits."""
    given = family.create() if model is None else copy.deepcopy(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return sesurgery.apply(given, family.recipe, inplace=True, input_size=family.size, **options).model


def same(found: Any, wanted: Any, tolerance: float = 1e-4) -> None:
    """Raise unless the tensors are equal up to ``tolerance`` of the largest of them."""
    ours, theirs = tensors_in(found), tensors_in(wanted)
    assert len(ours) == len(theirs), f"{len(ours)} outputs instead of {len(theirs)}"
    assert any(one.numel() for one in ours), "no output"
    for one, two in zip(ours, theirs, strict=True):
        assert one.shape == two.shape, f"shape {tuple(one.shape)} instead of {tuple(two.shape)}"
        if not one.numel():
            continue
        distance = (one.double() - two.double()).abs().max().item()
        assert distance <= tolerance * max(1.0, two.abs().max().item()), f"the output differs by {distance:.2g}"


@contextmanager
def quiet() -> Iterator[None]:
    """Leave out the libraries' own warnings (deprecations of jit and ao, traced sizes)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@feature("torch.compile")
def compiled(family: Family, model: nn.Module) -> None:
    """fullgraph=True on backend aot_eager: dynamo, AOT autograd and decompositions, without a compiler's time."""
    args = family.inputs()
    torch._dynamo.reset()
    with torch.no_grad(), quiet():
        same(torch.compile(model, fullgraph=True, backend="aot_eager")(*args), model(*args))


@feature("torch.export")
def exported(family: Family, model: nn.Module) -> None:
    """Export, and run the exported program."""
    args = family.inputs()
    with torch.no_grad(), quiet():
        same(torch.export.export(model, args).module()(*args), model(*args))


@feature("torch.jit.trace")
def jitted(family: Family, model: nn.Module) -> None:
    """Trace, save, load and run."""
    args = family.inputs()
    with torch.no_grad(), quiet():
        traced = torch.jit.trace(model, args, strict=False, check_trace=False)
        same(traced(*args), model(*args))


@feature("torch.jit.script")
def scripted(family: Family, model: nn.Module) -> None:
    """Script, save, load and run."""
    args, file = family.inputs(), io.BytesIO()
    with torch.no_grad(), quiet():
        torch.jit.save(torch.jit.script(model), file)
        file.seek(0)
        same(torch.jit.load(file)(*args), model(*args))


@feature("ONNX")
def onnx(family: Family, model: nn.Module) -> None:
    """Export with torch.onnx (dynamo) and compare the numbers that onnxruntime gives."""
    import onnxruntime

    args = family.inputs()
    file = io.BytesIO()
    with torch.no_grad(), quiet():
        program = torch.onnx.export(model, args, dynamo=True, verbose=False)
        assert program is not None
        program.save(file)
        session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
        names = [given.name for given in session.get_inputs()]
        found = session.run(None, dict(zip(names, [leaf.numpy() for leaf in tensors_in(args)], strict=True)))
        same([torch.from_numpy(array) for array in found], model(*args), 1e-3)


@feature("AOTInductor")
def aot_inductor(family: Family, model: nn.Module) -> None:
    """Exported, compiled ahead of time to a package (C++), loaded and run without Python."""
    import torch._inductor as inductor

    args = family.inputs()
    with torch.no_grad(), quiet(), tempfile.TemporaryDirectory() as folder:
        program = torch.export.export(model, args)
        quickly = {"aot_inductor.compile_wrapper_opt_level": "O0"}  # g++ takes most of the time otherwise
        file = inductor.aoti_compile_and_package(program, package_path=f"{folder}/model.pt2", inductor_configs=quickly)
        same(inductor.aoti_load_package(file)(*args), model(*args), 1e-3)


@feature("OpenVINO")
def openvino(family: Family, model: nn.Module) -> None:
    """Converted from the module, compiled for the CPU by OpenVINO and run in float32."""
    import openvino

    args = family.inputs()
    with torch.no_grad(), quiet():
        converted = openvino.convert_model(model, example_input=args)
        compiled = openvino.compile_model(converted, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        found = compiled([leaf.numpy() for leaf in tensors_in(args)])
        same([torch.from_numpy(found[output]) for output in compiled.outputs], model(*args), 1e-3)


@feature("torchao int8")
def quantized(family: Family, model: nn.Module) -> None:
    """torchao's PT2E: exported, calibrated and quantised to int8; the output points where the float one does."""
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
        X86InductorQuantizer,
        get_default_x86_inductor_quantization_config,
    )

    args = family.inputs()
    with torch.no_grad(), quiet():
        quantizer = X86InductorQuantizer().set_global(get_default_x86_inductor_quantization_config())
        prepared = prepare_pt2e(torch.export.export(model, args).module(), quantizer)
        prepared(*args)
        found, wanted = tensors_in(convert_pt2e(prepared)(*args)), tensors_in(model(*args))
    for one, two in zip(found, wanted, strict=True):
        likeness = torch.nn.functional.cosine_similarity(one.flatten(), two.flatten(), dim=0).item()
        assert likeness > 0.9, f"the cosine of its output with the float one is {likeness:.2f}"


@feature("Torch-Pruning")
def pruned(family: Family, model: nn.Module) -> None:
    """Two channels of every fourth layer with weights go, of the author's layers and of the new ones, and what hangs on
    them by its graph; the rest runs."""
    import torch_pruning

    args = family.inputs()
    with quiet():
        before = sum(weight.numel() for weight in model.parameters())
        graph = torch_pruning.DependencyGraph().build_dependency(model, args)
        new = {part for layer in inserted_layers(model) for part in layer.modules()}
        layers = [part for part in model.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
        authors = [part for part in layers if part not in new]
        groups = 0
        for layer in (*authors[:-1:4], *[part for part in layers if part in new][::4]):
            prune = torch_pruning.prune_conv_out_channels
            prune = prune if isinstance(layer, nn.Conv2d) else torch_pruning.prune_linear_out_channels
            group = graph.get_pruning_group(layer, prune, idxs=[0, 1])
            if graph.check_pruning_group(group):
                group.prune()
                groups += 1
        assert groups, "no group of layers could be pruned"
        with torch.no_grad():
            found = tensors_in(model(*args))
    assert sum(weight.numel() for weight in model.parameters()) < before
    assert all(bool(output.isfinite().all()) for output in found), "an output is not finite"


@feature("channels_last")
def channels_last(family: Family, model: nn.Module) -> None:
    """Weights and input in channels_last (channels_last_3d for video)."""
    args = family.inputs()
    rank = max(4, *(leaf.ndim for leaf in tensors_in(args)))
    layout = torch.channels_last if rank == 4 else torch.channels_last_3d

    def laid(leaf: torch.Tensor) -> torch.Tensor:
        return leaf.to(memory_format=layout) if leaf.ndim == rank else leaf

    with torch.no_grad():
        wanted = model(*args)
        other = copy.deepcopy(model).to(memory_format=layout)  # type: ignore[call-overload]
        same(other(*map_tensors(laid, args)), wanted, 1e-3)


@feature("autocast")
def autocast(family: Family, model: nn.Module) -> None:
    """bfloat16 on CPU, forward and backward."""
    args = family.inputs(training=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = tensors_in(model.train()(*args))
        loss = sum(output.float().square().mean() for output in found)
    loss.backward()
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    assert gradients, "no gradient"
    assert all(bool(gradient.isfinite().all()) for gradient in gradients), "a gradient is not finite"


@feature("checkpointing")
def checkpointing(family: Family, model: nn.Module) -> None:
    """timm's set_grad_checkpointing (where there is none, torch.utils.checkpoint) leaves the gradients alone."""
    args = family.inputs(training=True)
    wanted = _gradients(model, lambda: model(*args))
    try:
        model.set_grad_checkpointing(True)  # type: ignore[operator]
        found = _gradients(model, lambda: model(*args))
    except (AttributeError, AssertionError):  # torchvision, and models for which timm says that it has none
        found = _gradients(model, lambda: torch.utils.checkpoint.checkpoint(model, *args, use_reentrant=False))
    assert found.keys() == wanted.keys(), "other weights have a gradient"
    same(list(found.values()), list(wanted.values()), 1e-3)


def _gradients(model: nn.Module, run: Callable[[], Any]) -> dict[str, torch.Tensor]:
    model.train()
    saved = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.zero_grad()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        loss = sum(output.square().mean() for output in tensors_in(run()))
        loss.backward()
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            buffer.copy_(saved[name])
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


@feature("features_only")
def features_only(family: Family, model: nn.Module) -> None:
    """timm's features_only model, operated: with identity init it gives the original's features bit for bit."""
    if not family.reference.startswith("timm:"):
        raise NotApplicableError("timm only")
    args = {key: value for key, value in family.args.items() if key != "num_classes"}
    torch.manual_seed(0)
    plain = timm.create_model(family.reference.partition(":")[2], features_only=True, **args).eval()
    body = plain
    if _is_operated(model):
        body = operate(family, plain, init="identity")
    with torch.no_grad():
        same(body(*family.inputs()), plain(*family.inputs()), 0.0)


@feature("forward_intermediates")
def intermediates(family: Family, model: nn.Module) -> None:
    """The features that forward_intermediates gives are those of the operated network: the last leads to its output."""
    if not hasattr(model, "forward_intermediates"):
        raise NotApplicableError("timm only")
    args = family.inputs()
    with torch.no_grad():
        final, found = model.forward_intermediates(*args)  # type: ignore[operator]
        same(model.forward_head(final), model(*args))  # type: ignore[operator]
        assert len(found) > 0
        if _is_operated(model):
            plain = sesurgery.revert(copy.deepcopy(model))
            theirs = plain.forward_intermediates(*args)[1]  # type: ignore[operator]
            assert [tuple(one.shape) for one in found] == [tuple(one.shape) for one in theirs]
            assert not all(torch.equal(one, two) for one, two in zip(found, theirs, strict=True)), "no feature changed"


def _is_operated(model: nn.Module) -> bool:
    return "_sesurgery_history" in model.__dict__


@feature("EMA")
def ema(family: Family, model: nn.Module) -> None:
    """timm's ModelEmaV3: a deep copy that follows the weights."""
    args = family.inputs()
    average = ModelEmaV3(model, decay=0.0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.01)
        average.update(model)
        assert model.state_dict().keys() == average.module.state_dict().keys()
        same(average.module(*args), model.eval()(*args), 0.0)


@feature("torch.save")
def saved(family: Family, model: nn.Module) -> None:
    """The whole module through torch.save and torch.load."""
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    other = torch.load(file, weights_only=False)
    with torch.no_grad():
        same(other(*family.inputs()), model(*family.inputs()), 0.0)


@feature("FX re-trace")
def retraced(family: Family, model: nn.Module) -> None:
    """The whole model through torch.fx, with timm's lists of what is left whole (as create_feature_extractor does)."""
    args = family.inputs()
    tracer = NodePathTracer(leaf_modules=get_notrace_modules(), autowrap_functions=get_notrace_functions())
    graph = tracer.trace(model)
    with torch.no_grad():
        same(torch.fx.GraphModule(tracer.root, graph)(*args), model(*args))


@feature("fake-quant")
def fake_quantized(family: Family, model: nn.Module) -> None:
    """torch.ao's FX quantisation-aware training: prepared, calibrated and run with fake-quantisation."""
    from torch.ao.quantization import get_default_qat_qconfig_mapping
    from torch.ao.quantization.quantize_fx import prepare_qat_fx

    args = family.inputs()
    with quiet():
        prepared = prepare_qat_fx(model.train(), get_default_qat_qconfig_mapping("x86"), args)
        found = tensors_in(prepared(*args))
    assert found
    assert all(bool(output.isfinite().all()) for output in found), "an output is not finite"
