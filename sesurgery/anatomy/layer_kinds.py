"""What kind of layer a node of a graph is: convolution, norm, activation, pooling, or one that passes things on."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn
from torch.fx import Node

from sesurgery.anatomy.elementwise import is_elementwise
from sesurgery.operating.edited_class import as_it_was
from sesurgery.recording.compat import AvgPool, Dropout, LPPool, MaxPool, NormBase

_NORMS = (
    NormBase,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.LocalResponseNorm,
)
_POOLS = (
    MaxPool,
    AvgPool,
    LPPool,
    nn.FractionalMaxPool2d,
)
_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
ACTIVATION_FUNCTIONS = frozenset(
    "relu relu_ relu6 silu gelu elu leaky_relu hardswish hardtanh mish selu celu prelu softplus sigmoid tanh "
    "hardsigmoid threshold".split()
)
_POOL_FUNCTIONS = frozenset("max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d".split())
CONV_FUNCTIONS = frozenset(("conv1d", "conv2d", "conv3d"))
NORM_FUNCTIONS = frozenset("batch_norm layer_norm group_norm instance_norm rms_norm".split())
_KEEPING_FUNCTIONS = frozenset("dropout dropout1d dropout2d dropout3d feature_dropout contiguous".split())

Child = Callable[[str], nn.Module]


def is_conv(module: nn.Module) -> bool:
    """A convolution, of any rank; transposed ones are none."""
    return isinstance(module, _CONVS)


def is_depthwise(module: nn.Module) -> bool:
    """A convolution with as many groups as input channels (and more than one)."""
    return isinstance(module, _CONVS) and module.groups == module.in_channels and module.groups > 1


def is_norm(module: nn.Module) -> bool:
    """A normalisation: torch's, or a module of vectors only that is called one."""
    module = as_it_was(module)
    if isinstance(module, _NORMS):
        return True
    flat = all(weight.ndim <= 1 or weight.numel() == max(weight.shape) for weight in module.parameters())
    convolves = any(isinstance(part, _CONVS) for part in module.modules())
    return "norm" in type(module).__name__.lower() and flat and not convolves


def is_activation_layer(module: nn.Module) -> bool:
    """An activation: torch's, timm's, one of the author's own, or a module without kernels among activations."""
    module = as_it_was(module)
    home = type(module).__module__
    flat = all(weight.ndim <= 1 for weight in module.parameters())
    if flat and "activation" in home.rsplit(".", 1)[-1]:
        return not isinstance(module, nn.MultiheadAttention)
    return is_elementwise(module)


def is_dropping(module: nn.Module) -> bool:
    """A layer that keeps the activation as it is in eval mode: identity, dropout, stochastic depth, drop block."""
    module = as_it_was(module)
    if isinstance(module, (nn.Identity, Dropout)):
        return True
    name = type(module).__name__.lower()
    return not list(module.parameters()) and any(word in name for word in ("drop", "stochasticdepth", "identity"))


def is_pool(module: nn.Module) -> bool:
    """A pooling with a window; pooling to one place is none."""
    return isinstance(module, _POOLS)


def follows(node: Node, child: Child) -> bool:
    """Whether a node still belongs to the layer before it: its norm, its activation, a dropout."""
    if node.op == "call_module":
        module = child(str(node.target))
        return is_norm(module) or is_activation_layer(module) or is_dropping(module)
    name = function_name(node)
    return name in ACTIVATION_FUNCTIONS or name in NORM_FUNCTIONS or name in _KEEPING_FUNCTIONS


def activates(node: Node, child: Child) -> bool:
    """Whether a node is an activation, or passes its input on."""
    if node.op == "call_module":
        module = child(str(node.target))
        return is_activation_layer(module) or is_dropping(module)
    name = function_name(node)
    return name in ACTIVATION_FUNCTIONS or name in _KEEPING_FUNCTIONS


def drops(node: Node, child: Child) -> bool:
    """Whether a node is a dropout of some kind or an identity."""
    if node.op == "call_module":
        return is_dropping(child(str(node.target)))
    return function_name(node) in _KEEPING_FUNCTIONS


def pools(node: Node, child: Child) -> bool:
    """Whether a node is a pooling with a window."""
    if node.op == "call_module":
        return is_pool(child(str(node.target)))
    return function_name(node) in _POOL_FUNCTIONS


def function_name(node: Node) -> str:
    """Name of the function or method that a node calls; empty for other nodes."""
    if node.op == "call_method":
        return str(node.target).rstrip("_")
    if node.op == "call_function":
        return str(getattr(node.target, "__name__", "")).partition(".")[0].rstrip("_")  # "alias.default" is alias
    return ""
