"""From a name, a port and options to a node, or to the reason why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from sesurgery.attention.options import Entry
from sesurgery.attention.port import LAYOUTS, Port
from sesurgery.attention.registry import check_options, entry
from sesurgery.errors import InputError, Unfit
from sesurgery.words.text import reason

NEAR = 0.1


@dataclass(frozen=True)
class _Case:
    layer: Entry
    port: Port
    key: str
    settings: Mapping[str, Any] = field(compare=False)


def build(name: str, port: Port, options: Mapping[str, Any] | None = None) -> nn.Module:
    """Build the node ``name`` for a port, on the default device, in train mode.

    Raises:
        UnknownNameError: where no node has that name.
        InputError: where an option is unknown or its value will not do.
        Unfit: where the node has no meaning at the port; its text says why.
    """
    case = _case(name, port, options or {})
    refused = _reason(case)
    if refused:
        raise Unfit(refused)
    return _construct(case)


def refusal(name: str, port: Port, options: Mapping[str, Any] | None = None) -> str | None:
    """Why the node ``name`` has no meaning at a port, or None. Allocates nothing and draws no random number.

    Raises:
        UnknownNameError, InputError: as ``build``.
    """
    return _reason(_case(name, port, options or {}))


def _case(name: str, port: Port, options: Mapping[str, Any]) -> _Case:
    layer = entry(name)
    problems = check_options(name, options)
    if problems:
        raise InputError("; ".join(problems), where=layer.name)
    settings = {**layer.defaults, **{key: value for key, value in options.items() if key != "reduce_from"}}
    settings["init"] = settings.get("init") or "paper"
    return _Case(layer, port, repr(sorted(settings.items(), key=lambda item: item[0])), settings)


@lru_cache(maxsize=4096)
def _reason(case: _Case) -> str | None:
    layer, port = case.layer, case.port
    if port.layout not in layer.layouts:
        wanted = " and ".join(words for layout, words in LAYOUTS.items() if layout in layer.layouts)
        return f"{layer.name} works on {wanted} maps; this site is {port.words}"
    if 0 in port.shape:
        return f"{layer.name} needs a map that is not empty; this one has shape {port.shape}"
    try:
        # A trial on meta tensors costs nothing and finds what no list of conditions would.
        with torch.random.fork_rng(devices=[]), torch.device("meta"), torch.no_grad():
            output = _construct(case).eval()(torch.empty(port.shape))
    except Unfit as refused:
        return str(refused)
    except InputError:
        raise
    except NotImplementedError:
        return None  # a node that has no meta kernels cannot be tried out
    except Exception as error:
        return f"{layer.name} cannot take {port.words} of shape {port.shape}: {reason(error)}"
    shape = tuple(output.shape) if isinstance(output, torch.Tensor) else None
    if shape == port.shape:
        return None
    return f"{layer.name} turns shape {port.shape} into {shape or type(output).__name__}; a node has to keep the shape"


def _construct(case: _Case) -> nn.Module:
    settings = dict(case.settings)
    init = settings["init"]
    if not case.layer.starts_as_identity:
        del settings["init"]
    elif init == "near":
        settings["init"] = "paper"
    node = case.layer.load()(case.port, **settings)
    if not isinstance(node, nn.Module):
        problem = f"its builder returned a {type(node).__name__}"
        raise InputError(problem, where=case.layer.name, remedy="return an nn.Module")
    if init == "near":
        return IdentityStart(node, NEAR)
    wrap = init == "identity" and not case.layer.starts_as_identity
    return IdentityStart(node) if wrap else node


class IdentityStart(nn.Module):
    """``x + scale * (node(x) - x)`` with a learned scale that starts at 0 (ReZero, Bachlechner et al. 2020,
    arXiv:2003.04887): at insertion the output is ``x``, at scale 1 it is the node's own.

    Input and output have the shape that ``node`` keeps. With ``init: near`` the scale starts at ``NEAR``: the output is
    ``NEAR * abs(node(x) - x)`` away from ``x``, so at most ``NEAR * abs(x)`` where gates lie between 0 and 1, and the
    node's own weights learn from the first step on.
    """

    def __init__(self, node: nn.Module, start: float = 0.0) -> None:
        super().__init__()
        self.node = node
        self.scale = nn.Parameter(torch.full((1,), start))

    def forward(self, x: Tensor) -> Tensor:
        """Shape of ``x`` in, the same out."""
        # Under autocast the scale is wider than x, and the sum would be as wide.
        return x + (self.scale * (self.node(x) - x)).to(x.dtype)
