"""Equal calls of equal modules: the first runs, the others are told what it gave and what it cost.

The blocks of a stage differ in their weights, which no forward on ``meta`` can see. A call stands for others only where
all that it does is in sight: it sets no attribute, writes into no argument, and gives tensors in memory of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sesurgery.recording.channel_axes import copy_labels, labels
from sesurgery.recording.compat import Unnoted, modules_in, storage_of, undispatched
from sesurgery.recording.costs import CountingMode, Tally
from sesurgery.recording.module_state import Attributes

_ATOMS = (type(None), bool, int, float, str, torch.dtype, torch.device, torch.Size)


@dataclass(frozen=True)
class _Gives:
    """One tensor that a call gave: a view of it, whether it has gradients, whether autograd kept it inside the call."""

    like: torch.Tensor
    gradients: bool
    kept: bool


@dataclass
class EqualCall:
    """A call as it stands for all that are equal to it.

    Attributes:
        ran: whether one of them has run; until then nothing of the following is known.
        gives: the tensors that it gave, one alone or several in a tuple or list.
        tallies: what its module and the modules inside cost, by their place among ``module.modules()``.
        keeps: which of its tensors autograd keeps since.
        frame: what the recorder noted of it.
    """

    ran: bool = False
    gives: Any = None
    tallies: tuple[tuple[int, Tally], ...] = ()
    keeps: tuple[int, ...] = ()
    frame: Any = None


class EqualCalls:
    """The calls of one forward, by what they have in common.

    Args:
        counting: counts the forward; what a call cost is counted again for those that do not run.
        modules: all that are called.
        structure: equal for modules that are equal but for their weights, None for one of which that cannot be said;
            left out, it is said of none.
    """

    def __init__(
        self,
        counting: CountingMode,
        modules: Iterable[nn.Module] = (),
        structure: Callable[[nn.Module], Any] | None = None,
    ) -> None:
        self.counting = counting
        self._forms: dict[nn.Module, Any] = {} if structure is None else _repeated(modules, structure)
        self._calls: dict[Any, EqualCall] = {}

    def find(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> EqualCall | None:
        """What stands for this call; None for one that has to run for itself."""
        form = self._forms.get(module)
        if form is None:
            return None
        with Unnoted():
            try:
                given = self._form((args, tuple(kwargs.items())), {})
            except TypeError:
                return None
        key = (form, given, torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"))
        return self._calls.setdefault(key, EqualCall())

    def called(self, call: EqualCall, module: nn.Module, inputs: list[torch.Tensor], run: Callable[[], Any]) -> Any:
        """What a call of ``module`` with ``inputs`` gives: ``run()`` unless an equal one ran before."""
        return self._again(call, module, inputs) if call.ran else self._first(call, module, inputs, run)

    def _first(self, call: EqualCall, module: nn.Module, inputs: list[torch.Tensor], run: Callable[[], Any]) -> Any:
        modules = modules_in(module)
        before = Attributes(modules)
        versions = [tensor._version for tensor in inputs]
        kept = [self._is_kept(tensor) for tensor in inputs]
        with self.counting.aside() as tallies:
            self.counting.enter(module)
            output = run()
        with Unnoted(), undispatched():
            gives = self._given(output, {storage_of(tensor) for tensor in inputs})
            places = {part: index for index, part in enumerate(modules)}
            pure = gives is not None and tallies.keys() <= places.keys() and next(before.changes(), None) is None
            if pure and versions == [tensor._version for tensor in inputs]:
                call.gives = gives
                call.tallies = tuple((places[part], tally) for part, tally in tallies.items() if part is not None)
                call.keeps = tuple(
                    index for index, tensor in enumerate(inputs) if not kept[index] and self._is_kept(tensor)
                )
                call.ran = True
        return output

    def _again(self, call: EqualCall, module: nn.Module, inputs: list[torch.Tensor]) -> Any:
        modules = modules_in(module)
        for index, tally in call.tallies:
            self.counting.tally_of(modules[index]).add(tally)
        for index in call.keeps:
            self._keep(inputs[index])
        if isinstance(call.gives, _Gives):
            return self._made(call.gives, inputs)
        return type(call.gives)(self._made(each, inputs) for each in call.gives)

    def _made(self, gives: _Gives, inputs: list[torch.Tensor]) -> torch.Tensor:
        like = gives.like
        with Unnoted(), undispatched():
            tensor = torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device="meta")
            if gives.gradients:
                tensor = tensor.requires_grad_().clone()  # no leaf: the forward may write into it
            copy_labels(like, tensor)
            if gives.kept:
                self._keep(tensor)
            if self.counting.labels:
                self.counting.origins.note(tuple(inputs), tensor)
        return tensor

    def _given(self, output: Any, inputs: set[int]) -> Any:
        """The tensors of an output, where each has memory of its own; else None."""
        several = type(output) in (tuple, list)
        tensors = list(output) if several else [output]
        if not tensors or not all(map(_is_plain, tensors)):
            return None
        memory = {storage_of(tensor) for tensor in tensors}
        if memory & inputs or len(memory) < len(tensors) or not all(map(_fills_its_memory, tensors)):
            return None
        gives: list[_Gives] = []
        for tensor in tensors:
            like = tensor.detach()
            copy_labels(tensor, like)
            gives.append(_Gives(like, tensor.requires_grad, self._is_kept(tensor)))
        return type(output)(gives) if several else gives[0]

    def _form(self, value: Any, seen: dict[int, int]) -> Any:
        """What a call can depend on in an argument. Raises ``TypeError`` for one whose insides cannot be told."""
        if isinstance(value, torch.Tensor):
            if not _is_plain(value):
                raise TypeError
            place = seen.setdefault(storage_of(value), len(seen))
            memory = value.storage_offset(), value.untyped_storage().nbytes(), self._is_kept(value)
            return place, value.shape, value.stride(), value.dtype, value.requires_grad, labels(value), memory
        if type(value) is tuple:
            return tuple(self._form(item, seen) for item in value)
        if not isinstance(value, _ATOMS):
            raise TypeError
        return type(value), value

    def _is_kept(self, tensor: torch.Tensor) -> bool:
        return self.counting.kept is not None and self.counting.kept.has(tensor)

    def _keep(self, tensor: torch.Tensor) -> None:
        if self.counting.kept is not None:
            self.counting.kept.keep(tensor, None)


def _repeated(modules: Iterable[nn.Module], structure: Callable[[nn.Module], Any]) -> dict[nn.Module, Any]:
    """The structure of each module that another one has as well."""
    forms = {module: structure(module) for module in modules if not _is_layer_of_torch(module)}
    times = Counter(forms.values())
    return {module: form for module, form in forms.items() if form is not None and times[form] > 1}


def _is_layer_of_torch(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.nn.modules.") and not module._modules


def _is_plain(value: Any) -> bool:
    return type(value) is torch.Tensor and value.is_meta and value.layout is torch.strided and not value.is_inference()


def _fills_its_memory(tensor: torch.Tensor) -> bool:
    return tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
