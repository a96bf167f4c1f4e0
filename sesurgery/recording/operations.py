"""What a host's own code does in one call, as a torch.fx graph: noted while real tensors flow.

Nothing stands in for a tensor, so C++ code, ``isinstance`` and custom autograd functions see what they expect. A
tensor is known by its identity. What no mode sees (a scripted function, a C extension, vmap) is one opaque operation.
"""

from __future__ import annotations

import operator
import sys
import threading
import types
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.fx import Graph, Node
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import CheckpointFunction

from sesurgery.recording.author_places import own_code, place_in
from sesurgery.recording.channel_axes import assume, copy_labels, is_activation
from sesurgery.recording.compat import Unnoted, is_wrapped, paths_in, storage_of, unwrapped
from sesurgery.recording.costs import Origins
from sesurgery.recording.nested import map_tensors, tensors_in

# Operators reach a mode as methods of the tensor; in a graph they are what the author wrote.
_OPERATORS: dict[str, Any] = {
    "add": operator.add,
    "__radd__": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "__rmul__": operator.mul,
    "div": operator.truediv,
    "true_divide": operator.truediv,
    "matmul": operator.matmul,
    "__matmul__": operator.matmul,
    "neg": operator.neg,
    "__getitem__": operator.getitem,
    "__setitem__": operator.setitem,
}
_IN_PLACE: dict[str, Any] = {
    "add_": operator.add,
    "__iadd__": operator.add,
    "mul_": operator.mul,
    "__imul__": operator.mul,
    "sub_": operator.sub,
    "div_": operator.truediv,
}


def opaque(*inputs: Any) -> Any:
    """Stands in a graph for an operation that no mode sees. Never called."""
    raise AssertionError("an opaque operation is only looked at")


def written(value: Any, by: Any) -> Any:
    """Stands in a graph for a tensor after somebody wrote into it. Never called."""
    raise AssertionError("a written tensor is only looked at")


class HostGraph:
    """The graph of one call of a module, as it grows."""

    def __init__(self, module: nn.Module, arguments: Iterable[tuple[str, Any]], end: types.CodeType) -> None:
        self.module = module
        self.end = end
        self.graph = Graph()
        self.own = own_code(module)
        self.values: dict[int, tuple[torch.Tensor, Node, tuple[Any, ...]]] = {}
        self.writers: dict[int, Node] = {}
        self.samples: set[int] = set()
        self.names: dict[int, str] | None = None
        self.children: dict[nn.Module, str] | None = None
        for name, value in arguments:
            node = self.graph.placeholder(name.lstrip("*"))
            node.meta["val"] = light(value)
            self.bind(value, node)

    def bind(self, value: Any, node: Node, path: tuple[Any, ...] = ()) -> None:
        """From now on the tensors in ``value`` are what ``node`` gave."""
        if isinstance(value, torch.Tensor):
            whole = unwrapped(value)
            (self.samples.discard if whole is value else self.samples.add)(id(whole))
            value = whole
            self.values[id(value)] = (value, node, path)
            self.writers.pop(id(value), None)
        elif isinstance(value, (list, tuple)):
            for index, item in enumerate(value):
                self.bind(item, node, (*path, index))
        elif isinstance(value, dict):
            for key, item in value.items():
                self.bind(item, node, (*path, key))
        elif _holds_tensors(value):
            for name, item in vars(value).items():
                self.bind(item, node, (*path, name))

    def node_of(self, tensor: torch.Tensor, origins: Origins) -> Any:
        """The node that gave a tensor."""
        entry = self.values.get(id(whole := unwrapped(tensor)))
        if entry is not None and whole is tensor and id(tensor) in self.samples:
            return self._left_samples(tensor, entry[1])
        tensor = whole
        if entry is None:
            return self._unknown(tensor, origins)
        _, node, path = entry
        for key in path:
            whole = node.meta["val"]
            function = operator.getitem if isinstance(whole, (list, tuple, dict)) else getattr
            node = self.graph.call_function(function, (node, key))
            node.meta["val"] = function(whole, key)
        if path:
            self.values[id(tensor)] = (tensor, node, ())
        writer = self.writers.get(id(tensor))
        if writer is not None:
            node = self.graph.call_function(written, (node, writer))
            node.meta["val"] = light(tensor)
            self.bind(tensor, node)
        return node

    def _left_samples(self, tensor: torch.Tensor, inside: Node) -> Node:
        """What a value inside of vmap or torch.func is when it has come out of it."""
        node = self.graph.call_function(opaque, (inside,))
        node.meta.update(val=light(tensor), place=place_in(sys._getframe(1), self.end, self.own))
        self.bind(tensor, node)
        return node

    def _unknown(self, tensor: torch.Tensor, origins: Origins) -> Any:
        if self.names is None:
            self.names = {id(value): name for name, value in _own_tensors(self.module)}
        name = self.names.get(id(tensor))
        if name is not None:
            node = self.graph.create_node("get_attr", name)
        else:
            inputs = tuple(self.node_of(source, origins) for source in origins.of(tensor, self.values))
            node = self.graph.call_function(opaque, inputs)
            node.meta["place"] = place_in(sys._getframe(1), self.end, self.own)
        node.meta["val"] = light(tensor)
        self.values[id(tensor)] = (tensor, node, ())
        return node

    def argument(self, value: Any, origins: Origins) -> Any:
        """An argument with its tensors exchanged for the nodes that gave them."""
        if isinstance(value, torch.Tensor):
            return self.node_of(value, origins)
        if isinstance(value, (list, tuple)):
            items = [self.argument(item, origins) for item in value]
            return items if isinstance(value, list) else tuple(items)
        if isinstance(value, dict):
            return {key: self.argument(item, origins) for key, item in value.items()}
        if isinstance(value, slice):
            return slice(*(self.argument(item, origins) for item in (value.start, value.stop, value.step)))
        if _holds_tensors(value):
            return {name: self.argument(item, origins) for name, item in vars(value).items()}
        return value

    def path_of(self, child: nn.Module) -> str | None:
        """The path of a module in the host; None where it is none of its children."""
        if self.children is None:
            self.children = {module: path for module, path in paths_in(self.module).items() if path}
        return self.children.get(child)

    def wrote(self, tensors: Iterable[torch.Tensor], node: Node) -> None:
        """``node`` wrote into ``tensors``: whoever reads them, or another view of their memory, reads what it wrote."""
        for tensor in map(unwrapped, tensors):
            memory = storage_of(tensor)
            for other, _, _ in self.values.values():
                if other is not tensor and storage_of(other) == memory:
                    self.writers[id(other)] = node
            self.bind(tensor, node)

    def close(self, output: Any, origins: Origins) -> None:
        """The call returned ``output``."""
        node = self.graph.output(self.argument(output, origins))
        node.meta["val"] = light(output)


class OperationsMode(TorchFunctionMode):
    """Notes the operations of the innermost host that runs.

    Attributes:
        current: the graph of the call that runs; None while a layer of torch does.
        gradients: whether gradients are on where a forward does not turn them off.
    """

    def __init__(self, origins: Origins, gradients: bool) -> None:
        super().__init__()
        self.gradients = gradients
        self.current: HostGraph | None = None
        self.origins = origins
        self.thread = threading.get_ident()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        host = self.current
        kwargs = kwargs or {}
        if host is None or threading.get_ident() != self.thread:
            return func(*args, **kwargs)
        given = flat_tensors((args, kwargs)) if kwargs else flat_tensors(args)
        if any(is_wrapped(tensor) for tensor in given):
            return func(*args, **kwargs)  # inside of vmap or torch.func: seen from outside as one operation
        versions = [version_of(tensor) for tensor in given]
        output = func(*args, **kwargs)
        changed = [tensor for tensor, version in zip(given, versions, strict=True) if version_of(tensor) != version]
        sets = getattr(func, "__name__", "") == "__set__"  # y.requires_grad = True
        if not changed and not sets and not _has_tensors(output):
            return output
        if isinstance(output, torch.Tensor) and not changed and any(output is tensor for tensor in given):
            if not is_activation(output):
                return output
            if func is not torch.Tensor.requires_grad_:  # another object would be no leaf
                output = another_name(output)
        self._note(host, func, (args, kwargs), args[0] if sets else output, changed)
        return output

    def _note(self, host: HostGraph, func: Any, given: Any, output: Any, changed: list[torch.Tensor]) -> None:
        kind, target, name = _named(func, given[0])
        args = tuple(host.argument(arg, self.origins) for arg in given[0])
        if kind == "call_method" and not (args and isinstance(args[0], Node)):
            kind, target = "call_function", func
        if target is getattr or target is setattr:
            args = (args[0], func.__self__.__name__, *args[1:])
        kwargs = {key: host.argument(value, self.origins) for key, value in given[1].items()}
        node = host.graph.create_node(kind, target, args, kwargs, name=name)
        node.meta["val"] = light(output if output is not None else changed[0])
        node.meta["place"] = place_in(sys._getframe(2), host.end, host.own)
        node.meta.update(grad=not self.gradients or grad_is_on(), autocast=autocast_devices())
        if changed:
            node.meta["writes"] = tuple(host.node_of(tensor, self.origins) for tensor in changed)
        host.wrote(changed, node)
        host.bind(output, node)


def grad_is_on() -> bool:
    """Whether what is computed now can get gradients: neither ``no_grad`` nor ``inference_mode`` is around it.

    Reentrant checkpoints turn gradients off too, and compute all once more with them.
    """
    if torch.is_grad_enabled() and not torch.is_inference_mode_enabled():
        return True
    frame = None if torch.is_inference_mode_enabled() else sys._getframe(1)
    while frame is not None and frame.f_code is not CheckpointFunction.forward.__code__:
        frame = frame.f_back
    return frame is not None


def autocast_devices() -> tuple[str, ...]:
    """The kinds of device for which autocast is on."""
    return tuple(device for device in ("cpu", "cuda") if torch.is_autocast_enabled(device))


def another_name(tensor: torch.Tensor) -> torch.Tensor:
    """The same tensor as another object: what passes its input on is told from its input."""
    alias = torch.ops.aten.alias.default(tensor)
    copy_labels(tensor, alias)
    return alias


def _named(func: Any, args: tuple[Any, ...]) -> tuple[str, Any, str]:
    """How an operation stands in a graph: kind, target, and the name to number."""
    name = getattr(func, "__name__", None) or type(func).__name__
    if name == "__get__":
        return "call_function", getattr, "getattr"
    if name == "__set__":
        return "call_function", setattr, "setattr"
    plain = name.partition(".")[0]
    is_overload = hasattr(func, "overloadpacket")  # aten's own, as graphs of torch.export call it
    if is_overload or _is_method(func):
        known = _IN_PLACE.get(plain) or _OPERATORS.get(plain)
        if known is not None:
            return "call_function", known, known.__name__.strip("_")
    if is_overload:
        return "call_function", getattr(torch, plain, func), plain
    if _is_method(func):
        return "call_method", name, name.strip("_")
    return "call_function", func, plain


def _is_method(func: Any) -> bool:
    owner = getattr(func, "__objclass__", None)
    if owner is not None:
        return True
    return getattr(func, "__qualname__", "").startswith(("Tensor.", "TensorBase."))


def flat_tensors(value: Any) -> list[torch.Tensor]:
    """The tensors in nested lists, tuples and dicts, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    tensors: list[torch.Tensor] = []
    if isinstance(value, (list, tuple)):
        for item in value:
            if isinstance(item, torch.Tensor):
                tensors.append(item)
            elif isinstance(item, (list, tuple, dict)):
                tensors += flat_tensors(item)
    elif isinstance(value, dict):
        tensors += flat_tensors(list(value.values()))
    return tensors


def light(value: Any) -> Any:
    """The value with its tensors on ``meta``, labels kept, in new containers: a forward may go on filling its own."""
    if isinstance(value, torch.Tensor):
        return _light_tensor(value)
    if value is None or (type(value) in (tuple, dict) and not value):  # an array does not say whether it is empty
        return value
    return map_tensors(_light_tensor, value)


def _light_tensor(tensor: torch.Tensor) -> torch.Tensor:
    samples = is_wrapped(tensor)  # of vmap: they live no longer than its call, and have axes of their own
    if tensor.is_meta and not samples:
        return tensor
    with Unnoted():  # not .to("meta"), which would be counted as a copy that the model makes
        light = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
    copy_labels(unwrapped(tensor), light)
    if samples:
        assume(light, None)
    return light


def _has_tensors(value: Any) -> bool:
    return isinstance(value, torch.Tensor) or (
        isinstance(value, (list, tuple, dict)) and type(value) is not torch.Size and bool(tensors_in(value))
    )


def version_of(tensor: torch.Tensor) -> int:
    """How often a tensor was written into; -1 where torch does not count."""
    return -1 if tensor.is_inference() else tensor._version


def _own_tensors(module: nn.Module) -> Iterable[tuple[str, torch.Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()
    for part, path in paths_in(module).items():
        for name, value in part.__dict__.items():
            if isinstance(value, torch.Tensor):
                yield f"{path}.{name}" if path else name, value


def _holds_tensors(value: Any) -> bool:
    fields = getattr(value, "__dict__", None)
    return (
        fields is not None
        and not isinstance(value, (nn.Module, type, types.FunctionType, types.ModuleType))
        and any(isinstance(item, torch.Tensor) for item in fields.values())
    )
