"""``verify``: an operated model beside its original, or alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from sesurgery.errors import InputError, ModelError
from sesurgery.models import zoo
from sesurgery.models.checkpoints import PREFIXES
from sesurgery.operating.edited_class import original_class
from sesurgery.recording.nested import batch_of
from sesurgery.verification.comparison import Comparison
from sesurgery.verification.inputs import Inputs
from sesurgery.verification.layers import Inserted, Watch, read_inserted
from sesurgery.verification.result import (
    DIFFERS,
    EQUAL,
    NOT_COMPARED,
    RAN,
    UNSTABLE,
    Case,
    Difference,
    LayerUse,
    Verification,
)
from sesurgery.verification.run import Run, Way, compare_runs, random_states_kept, run
from sesurgery.words.paths import within
from sesurgery.words.text import listed

RERUNS = 2  # of an original, to tell whether it differs from itself
STILL_SAID = frozenset(("error", "type", "keys", "length", "dtype", "shape"))  # of outputs that are meant to be others


def verify(
    original: nn.Module | str,
    operated: nn.Module | None = None,
    example_input: Any = None,
    *,
    input_size: Sequence[int] | str | None = None,
    model_args: Mapping[str, Any] | None = None,
) -> Verification:
    """Run an operated model and its original on the same inputs, and report what differs.

    Both run in eval mode on two batch sizes, at another resolution and under autocast, and in train mode, from equal
    seeds of torch, Python and NumPy. Compared are the outputs (types, keys, shapes, dtypes, every bit), the
    gradients of the old parameters, buffers, the inputs, plain attributes, and how many random numbers were
    drawn. Where inserted layers change something as they are, the identity takes their place, so that what is compared
    is the rewriting. Everything happens on deep copies: neither model is changed, nor any random state.

    Args:
        original: the model before the operation; or its name, to make a new one that gets the operated model's
            weights. One of the two may be compiled, or wrapped (``DataParallel``, ``AveragedModel``): what is in the
            wrapper is compared. Where ``operated`` is left out: the operated model. It then runs alone, and the result
            says whether every inserted layer is still called.
        operated: the operated model, with the weights of the original.
        example_input: a tensor (N, C, H, W), or a tuple of positional arguments; where left out, what the model was
            operated on, else derived.
        input_size: of one sample, ``(3, 224, 224)``, in the place of an example.
        model_args: arguments for the builder, where the original is given by name.

    Returns:
        A :class:`Verification`: true where nothing differs, and readable when printed.

    Raises:
        InputError: a model is none, or has no weights.
        ModelError: the original runs on no input that could be made, or a model cannot be copied.

    Example:
        >>> surgery = sesurgery.apply(model, "standard", example_input=image)
        >>> assert sesurgery.verify(model, surgery.model, image), "the operation changed more than it should"
        >>> sesurgery.verify(surgery.model).layers[0].calls
        1
    """
    subject = original if operated is None else operated
    if not isinstance(subject, nn.Module):
        raise InputError(f"a {type(subject).__name__} is no operated model", remedy="pass surgery.model")
    with random_states_kept(subject):
        if isinstance(original, str):
            original = _by_name(original, subject, model_args)
        for model in (original, subject):
            _check_weights(model)
        if operated is not None and original_class(type(original)) is not original_class(type(subject)):
            original, subject = _unwrapped(original), _unwrapped(subject)  # one is compiled, or an average
        check = _Check(None if operated is None else original, subject, read_inserted(subject))
        check.all_ways(example_input, input_size)
        return check.result()


@dataclass
class _Check:
    """A verification under way; ``original`` is None where the operated model runs alone."""

    original: nn.Module | None
    operated: nn.Module
    inserted: Inserted
    cases: list[Case] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    unstable: list[Difference] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    watches: dict[bool, Watch] = field(default_factory=dict)
    moved: set[str] = field(default_factory=set)
    halved: frozenset[str] = frozenset()

    def all_ways(self, example: Any, size: Any) -> None:
        """Run everything that can be run; the first way decides on the input of all others."""
        inputs = Inputs(self.operated)
        if self.original is not None and not self.inserted.other_actions:
            self.differences += _weights_apart(self.original, self.operated)
        examples = (Way("eval", args, backward=True) for args in inputs.examples(example, size))
        args = self.one_way("eval", examples)
        if args is None:
            raise ModelError(
                f"it runs on none of the inputs that were tried: {self.cases[-1].reason}",
                where=type(self.original or self.operated).__name__,
                remedy="give one that it takes: example_input=...",
            )
        batch = batch_of(args)
        if self.original is not None:
            others = inputs.other_batches(args, 1 if batch > 1 else 2)
            self.one_way("another batch", (Way(f"eval, batch {size}", other) for size, other in others))
            sizes = inputs.other_sizes(args)
            self.one_way("another resolution", (Way(f"eval, {name}", other) for name, other in sizes))
            self.one_way("eval, autocast", iter([Way("eval, autocast", args, autocast=True)]))
        batches = [(batch, args)] if batch > 1 else [*inputs.other_batches(args, 2), (batch, args)]
        self.one_way("train", (Way(f"train, batch {n}", given, train=True, backward=True) for n, given in batches))

    def one_way(self, name: str, ways: Iterator[Way]) -> tuple[Any, ...] | None:
        """Compare in the first of ``ways`` that the original takes, and return its arguments; None where none is."""
        first = "no input of that kind can be made"
        for index, way in enumerate(ways):
            wanted = run(self.original, way) if self.original is not None else self._alone(way)
            if wanted.error is None:
                case = replace(way, name=f"eval, batch {batch_of(way.args)}") if way.name == "eval" else way
                self._compare(case, wanted)
                return way.args
            first = wanted.error if not index else first
        self.cases.append(Case(name, NOT_COMPARED, f"it fails by itself: {first}"))
        return None

    def _alone(self, way: Way) -> Run:
        watch = Watch(self.inserted.present)
        result = run(self.operated, way, watch=watch)
        if result.error is None:
            self._note_watch(way, watch)
        return result

    def _compare(self, way: Way, wanted: Run) -> None:
        reason = f"gradients not compared: {wanted.no_gradients}" if wanted.no_gradients else ""
        if self.original is None:
            self.cases.append(Case(way.name, RAN, reason))
            return
        watch = Watch(self.inserted.present)
        as_it_is = compare_runs(way.name, wanted, run(self.operated, way, watch=watch))
        self._note_watch(way, watch)
        comparison, exchanged = as_it_is, False
        if self.inserted.other_actions:
            comparison.differences = list(_still_said(comparison.differences))
        elif as_it_is.differences and self.inserted.present:
            bare = self._without_layers(way, wanted)
            failed = [one for one in as_it_is.differences if one.kind == "error"]
            comparison, exchanged = bare, True
            comparison.differences += failed if not bare.differences else []
        differences = self._not_by_chance(way, wanted, comparison)
        self.differences += differences
        outcome = DIFFERS if differences else UNSTABLE if comparison.differences else EQUAL
        self.cases.append(Case(way.name, outcome, reason, exchanged))

    def _without_layers(self, way: Way, wanted: Run) -> Comparison:
        """Compare with the identity in the place of the inserted layers.

        Some authors double what fills a place of theirs, since a gate starts at one half (NFNets); that is no fault.
        """
        present, sockets = self.inserted.present, self.inserted.sockets
        plain = compare_runs(way.name, wanted, run(self.operated, way, without=present, halved=self.halved))
        if plain.differences and sockets and not self.halved:
            got = run(self.operated, way, without=present, halved=sockets)
            doubled = compare_runs(way.name, wanted, got)
            if not doubled.differences:
                self.halved = sockets
                return doubled
        return plain

    def _note_watch(self, way: Way, watch: Watch) -> None:
        self.watches.setdefault(way.train, watch)
        self.moved |= watch.moved
        for path, text in watch.repeated.items():
            self.differences.append(Difference(way.name, "layer", path, "called", text))
        # Under autocast some layers narrow what they are given, as convolutions do.
        for path, text in () if way.autocast else watch.dtypes.items():
            self.differences.append(Difference(way.name, "layer", path, "dtype", text))

    def _not_by_chance(self, way: Way, wanted: Run, comparison: Comparison) -> list[Difference]:
        """The differences without those that the original shows when it is compared with itself."""
        if not comparison.differences or self.original is None:
            return comparison.differences
        again = [compare_runs(way.name, wanted, run(self.original, way)) for _ in range(RERUNS)]
        own = [one for comparison in again for one in comparison.differences]
        self.unstable += {(one.place, one.path): one for one in own}.values()
        return [one for one in comparison.differences if not any(_covers(other, one) for other in own)]

    def result(self) -> Verification:
        """Everything that was seen, with what the inserted layers did."""
        layers = [self._use(path) for path in self.inserted.present]
        for use in layers:
            if not use.calls and not use.train_calls and False in self.watches:
                self.differences.append(Difference("layers", "layer", use.path, "not called", "no forward calls it"))
        for path, name in self.inserted.gone.items():
            text = "it was inserted and is not in the model any more"
            self.differences.append(Difference("layers", "layer", path, "missing", text))
            layers.append(LayerUse(path, name))
        return Verification(
            type(self.operated).__name__,
            tuple(self.cases),
            tuple(self.differences),
            tuple(self.unstable),
            tuple(layers),
            (*self.notes, *self._words(layers)),
        )

    def _use(self, path: str) -> LayerUse:
        train = self.watches.get(True)
        return LayerUse(
            path,
            type(self.operated.get_submodule(path)).__name__,
            self.watches[False].calls[path] if False in self.watches else 0,
            None if train is None else train.calls[path],
            None if train is None else train.gradients.get(path),
            path not in self.moved,
        )

    def _words(self, layers: Sequence[LayerUse]) -> Iterator[str]:
        if self.original is not None and self.inserted.other_actions:
            yield (
                f"{listed(self.inserted.other_actions)}: the model is meant to compute something else, so values of "
                "outputs, gradients and buffers were not compared, but types, keys, shapes and dtypes of outputs, and "
                "that there are gradients"
            )
        if any(case.exchanged for case in self.cases):
            yield "where inserted layers change something as they are, the check put the identity in their place"
        if self.halved:
            yield f"the author's code doubles what {listed(sorted(self.halved))} give: half of it was put there"
        idle = [use.path for use in layers if use.gradients is False]
        if idle:
            yield f"no gradient reaches {listed(idle)} in train mode"


def _unwrapped(model: nn.Module) -> nn.Module:
    """What a wrapper holds that puts one word before all keys."""
    prefixes = [prefix.rstrip(".") for prefix in PREFIXES]
    while list(model._modules) in ([name] for name in prefixes):
        (model,) = model.children()
    return model


def _by_name(name: str, operated: nn.Module, args: Mapping[str, Any] | None) -> nn.Module:
    """A new model with the weights that ``operated`` has of it."""
    model = zoo.create(zoo.resolve(name, args))
    own = model.state_dict()
    state = operated.state_dict()
    fitting = {key: state[key] for key, value in own.items() if key in state and state[key].shape == value.shape}
    model.load_state_dict(fitting, strict=False, assign=True)
    device = next((tensor.device for tensor in operated.parameters()), None)
    return model.to(device)


def _check_weights(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise InputError(f"a {type(model).__name__} is no model", where="original", remedy="give a torch.nn.Module")
    if any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()]):
        raise InputError(
            "it lies on meta: no weights to run with", where=type(model).__name__, remedy="give it weights"
        )


def _weights_apart(original: nn.Module, operated: nn.Module) -> list[Difference]:
    """Parameters and buffers of the original that the operated model has not, or has otherwise, or ties otherwise."""
    comparison = Comparison("weights")
    one, two = _weights(original), _weights(operated)
    comparison.named("weight", one, two, new=False)
    for name, twin in _ties(one).items():
        if name in two and twin in two and two[name] is not two[twin]:
            comparison.add("weight", name, "tie", f"it is not {twin} any more")
    return comparison.differences


def _weights(model: nn.Module) -> dict[str, Any]:
    named: Iterable[Callable[..., Any]] = (model.named_parameters, model.named_buffers)
    return {name: tensor for each in named for name, tensor in each(remove_duplicate=False)}


def _ties(weights: Mapping[str, Any]) -> dict[str, str]:
    """The names under which a tensor stands again, each with the first one."""
    first: dict[int, str] = {}
    ties = {name: first.setdefault(id(tensor), name) for name, tensor in weights.items()}
    return {name: twin for name, twin in ties.items() if name != twin}


def _still_said(differences: Iterable[Difference]) -> Iterator[Difference]:
    """What means something where the function is meant to be another one."""
    for one in differences:
        if one.kind in {"call": STILL_SAID, "output": STILL_SAID, "gradient": ("error", "missing")}.get(one.place, ()):
            yield one


def _covers(own: Difference, other: Difference) -> bool:
    """Whether a difference stands where the original differs from itself, or in or around that."""
    if own.place != other.place:
        return own.place == "call"
    return own.kind == "error" or within(other.path, own.path) or other.path.startswith(own.path + "[")


__all__ = ["verify"]
