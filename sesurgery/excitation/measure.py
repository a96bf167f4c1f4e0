"""``gates``: what each attention layer multiplies its channels by, measured while a model runs on data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sesurgery.api import Surgery, network_of
from sesurgery.errors import InputError, ModelError
from sesurgery.excitation.result import Gate, Gates
from sesurgery.planning.operation import rehearse
from sesurgery.recording.channel_axes import channel_axis
from sesurgery.verification.inputs import Inputs
from sesurgery.words.text import reason

_EDGE = 0.05
_NOISE = 16
_BATCHES = "give batches (N, ...), each alone or in a pair with its labels, whole numbers (N)"


def gates(
    model: Surgery | nn.Module,
    loader: Iterable[Any] | None = None,
    *,
    classes: Sequence[str] | None = None,
    samples: int | None = None,
    example_input: Any = None,
    name: str = "",
) -> Gates:
    """Measure what the attention layers of a model do: inserted ones and those that its author gave it.

    A layer's gate for a channel of a sample is the factor that comes nearest to what the layer does to it, output over
    input in least squares: of an SE layer its very gate. The model runs in eval mode and is left as it was.

    Args:
        model: what ``apply`` returned, or any model.
        loader: gives batches (N, ...), or pairs of a batch and its labels (N); a ``DataLoader`` does. Random noise
            where left out.
        classes: names of the labels 0, 1, ...; their numbers where left out.
        samples: to stop after; None goes through all of ``loader``.
        example_input: what the model is looked at with, (N, C, H, W); derived where left out.
        name: how the result calls the model.

    Raises:
        InputError: the model has no attention layer, or the loader gives nothing.
        ModelError: the model fails on a batch.
    """
    body = network_of(model, "gates")
    meters = _meters(body, example_input)
    if not meters:
        remedy = "sesurgery.inspect shows what there is; sesurgery.apply inserts some"
        raise InputError("has no attention layer that is called", where=name or type(body).__name__, remedy=remedy)
    notes: list[str] = []
    if loader is None:
        loader = _noise(body, example_input)
        notes.append("no data were given: random noise, on which a trained gate says little")
    count, labels = _run(body, meters, loader, samples)
    if not count:
        raise InputError("gives no batch", where="loader", remedy="give at least one")
    known = sorted(labels)
    named = tuple(str(classes[label] if classes and 0 <= label < len(classes) else label) for label in known)
    used = [meter for meter in meters if meter.count.any()]
    if len(used) < len(meters):
        notes.append(f"{len(meters) - len(used)} layers were not called, or on zeros only")
    if any(meter.broken for meter in meters):
        notes.append("some samples gave values that are not finite, and were left out")
    return Gates(name or type(body).__name__, count, named, tuple(meter.gate(known) for meter in used), tuple(notes))


@dataclass
class _Meter:
    """Sums over samples of one layer's gates, channel by channel."""

    path: str
    layer: nn.Module
    axis: int
    stage: int | None
    channels: int
    ends: tuple[float, float] | None
    start: float
    labels: Tensor | None = None
    sums: dict[int, Tensor] = field(default_factory=dict)
    counts: dict[int, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        zeros = [torch.zeros(self.channels, dtype=torch.float64) for _ in range(3)]
        self.count, self.total, self.squares = zeros
        self.closed = self.opened = self.moved = 0.0
        self.broken = False

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """The hook."""
        given = args[0] if args else None
        if not isinstance(given, Tensor) or not isinstance(output, Tensor) or given.shape != output.shape:
            return
        x, y = (tensor.detach().movedim(self.axis, 1).flatten(2).double().cpu() for tensor in (given, output))
        energy, both = (x * x).sum(2), (x * y).sum(2)
        finite = energy.isfinite() & both.isfinite()
        self.broken = self.broken or not bool(finite.all())
        seen = (energy > 0) & finite
        gate = torch.where(seen, both / energy.clamp_min(1e-300), 0.0)
        self.count += seen.sum(0)
        self.total += gate.sum(0)
        self.squares += (gate * gate).sum(0)
        self.moved += float(((gate - self.start).abs() * seen).sum())
        if self.ends is not None:
            low, high = self.ends
            edge = _EDGE * (high - low)
            self.closed += float(((gate < low + edge) & seen).sum())
            self.opened += float(((gate > high - edge) & seen).sum())
        for label in () if self.labels is None else self.labels.unique().tolist():
            mine = self.labels == label
            self.sums[label] = self.sums.get(label, 0) + gate[mine].sum(0)
            self.counts[label] = self.counts.get(label, 0) + seen[mine].sum(0)

    def gate(self, labels: Sequence[int]) -> Gate:
        """What was measured."""
        count = self.count.clamp_min(1)
        profile = self.total / count
        alive = self.count > 0
        deviation = (self.squares / count - profile**2).clamp_min(0).sqrt()
        by_class = [self.sums[label] / self.counts[label].clamp_min(1) for label in labels if label in self.sums]
        spread = torch.stack(by_class).std(0, correction=0)[alive].mean() if by_class else None
        total = float(self.count.sum())
        return Gate(
            self.path,
            type(self.layer).__name__,
            self.stage,
            self.channels,
            mean=float(self.total.sum()) / total,
            by_sample=float(deviation[alive].mean()),
            by_channel=float(profile[alive].std(correction=0)),
            by_class=None if spread is None else float(spread),
            closed=None if self.ends is None else self.closed / total,
            open=None if self.ends is None else self.opened / total,
            moved=self.moved / total,
            profile=tuple(profile.tolist()),
            class_profiles=tuple(tuple(each.tolist()) for each in by_class),
        )


def _meters(model: nn.Module, example: Any) -> list[_Meter]:
    """One for each attention layer that the model calls, in the order of execution."""
    anatomy = rehearse(model, None, example, None).look()
    survey = anatomy.survey
    meters: list[_Meter] = []
    for layer in anatomy.attention_modules():
        frame = survey.frame(layer)
        value = None if frame is None else frame.output
        axis = channel_axis(value) if isinstance(value, Tensor) else None
        if axis is None or not isinstance(value, Tensor):
            continue
        path = survey.paths[layer]
        own = model.get_submodule(path)
        ends, start = _range(own)
        meters.append(_Meter(path, own, axis, anatomy.stage_of(value, path), value.shape[axis], ends, start))
    return meters


def _range(layer: nn.Module) -> tuple[tuple[float, float] | None, float]:
    """Between which values the layer's gate lies, and its value at 0, by its last activation that has bounds."""
    far = torch.tensor([-1e4, 0.0, 1e4])
    bounds, start = None, 1.0
    for part in layer.modules():
        if list(part.parameters()) or list(part.children()):
            continue
        try:
            with torch.no_grad():
                low, middle, high = part(far.clone()).tolist()
        except Exception:  # no activation
            continue
        if low < high and max(abs(low), abs(high)) < 100:
            bounds, start = (low, high), middle
    return bounds, start


def _run(
    model: nn.Module, meters: Sequence[_Meter], loader: Iterable[Any], samples: int | None
) -> tuple[int, set[int]]:
    """Run the model on batches. Returns how many samples there were, and their labels."""
    tensors = [tensor for tensor in (*model.parameters(), *model.buffers()) if not tensor.is_meta]  # not offloaded
    first = next(iter(tensors), torch.empty(0))
    count, seen = 0, set[int]()
    try:
        batches = iter(loader)
    except TypeError:
        raise InputError(f"a {type(loader).__name__} gives no batches", where="loader", remedy=_BATCHES) from None
    with _measured(model, meters), torch.no_grad():
        for batch in batches:
            if samples is not None and count >= samples:
                break
            args, labels = _split(batch)
            for meter in meters:
                meter.labels = labels
            moved = tuple(arg.to(first.device) if isinstance(arg, Tensor) else arg for arg in args)
            try:
                model(*moved)
            except Exception as error:
                problem = f"fails on a batch: {reason(error)}"
                raise ModelError(problem, where=type(model).__name__, remedy=_BATCHES) from error
            count += len(args[0])
            seen.update(() if labels is None else labels.tolist())
    return count, seen


def _split(batch: Any) -> tuple[tuple[Any, ...], Tensor | None]:
    """The arguments of a forward, and one whole number a sample."""
    if isinstance(batch, Tensor):
        return (batch,), None
    if not isinstance(batch, list | tuple) or not batch or not hasattr(batch[0], "__len__"):
        raise InputError(f"gives a {type(batch).__name__}", where="loader", remedy=_BATCHES)
    *args, last = batch
    if args and isinstance(last, Tensor) and last.ndim == 1 and not last.is_floating_point():
        if len(last) != len(args[0]):
            problem = f"gives {len(last)} labels for {len(args[0])} samples"
            raise InputError(problem, where="loader", remedy=_BATCHES)
        return tuple(args), last.cpu()
    return tuple(batch), None


@contextmanager
def _measured(model: nn.Module, meters: Sequence[_Meter]) -> Iterator[None]:
    """A model in eval mode whose layers tell the meters what they do."""
    modes = [(part, part.training) for part in model.modules()]
    hooks = [meter.layer.register_forward_hook(meter) for meter in meters]
    try:
        model.eval()
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for part, training in modes:
            part.training = training


def _noise(model: nn.Module, example: Any) -> Iterator[Any]:
    """The first inputs that the model runs on, with random values."""
    inputs = Inputs(model)
    args = next(iter(inputs.examples(example, None)))
    for _, batch in inputs.other_batches(args, _NOISE):
        yield batch
        return
    yield args
