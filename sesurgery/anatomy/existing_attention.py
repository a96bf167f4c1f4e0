"""Attention that is there already: modules that gate what they are given, and gates written out in a host's forward."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.fx import Node

from sesurgery.anatomy.dataflow import Flow, added, carries, multiplied, shape, sources
from sesurgery.anatomy.merges import Merge, passes
from sesurgery.tracing.survey import Survey
from sesurgery.tracing.trace import output_of
from sesurgery.words.paths import join

_LARGEST = (torch.max, torch.maximum, "max", "maximum")
_SUM = (torch.sum, "sum", torch.mean, "mean")


class Gated:
    """Which values are a gated form of another one: a product with a gate, several of them, or a sum of such."""

    def __init__(self, survey: Survey, gates: Mapping[nn.Module, tuple[Merge, ...]]) -> None:
        self.survey = survey
        self._gates = {host: {merge.node.name: merge for merge in group} for host, group in gates.items()}
        self._attention: dict[nn.Module, bool] = {}

    def is_attention(self, module: nn.Module) -> bool:
        """Whether a module returns its own input, gated."""
        if module not in self._attention:
            self._attention[module] = False  # as long as it is looked at
            output = output_of(self.survey.trace(module))
            self._attention[module] = output is not None and self._form(module, output) is True
        return self._attention[module]

    def _form(self, host: nn.Module, node: Node) -> bool | None:
        """True for a gated form of the host's input, False for that input as it is, None for anything else."""
        if node.op == "placeholder":
            return False
        gate = self._gates.get(host, {}).get(node.name)
        if gate is not None:
            return None if gate.identity is None or self._form(host, gate.identity) is None else True
        parts = _alike(node)
        if parts:  # scSE adds up what two gates leave, or takes the larger
            return all(self._form(host, part) is True for part in parts) or None
        if node.op == "call_module" and len(sources(node)) == 1:
            module = host.get_submodule(str(node.target))
            inner = True if self.is_attention(module) else False if passes(node, host) else None
            outer = None if inner is None else self._form(host, sources(node)[0])
            return None if outer is None else inner or outer
        return None

    def where(self, host: nn.Module, node: Node) -> str | None:
        """The place, in ``host``, of the attention that makes the value of ``node``; None where there is none."""
        if node.name in self._gates.get(host, {}):
            return node.name
        if _selects(host, node) or (_alike(node) and all(self.where(host, part) for part in _alike(node))):
            return node.name
        before = sources(node)
        if node.op == "call_module":
            module, path = host.get_submodule(str(node.target)), str(node.target)
            last = output_of(self.survey.trace(module))
            if self.is_attention(module):
                return path
            inside = None if last is None else self.where(module, last)
            if inside is not None:
                return join(path, inside)
        if len(before) == 1 and (passes(node, host) or node.target in _SUM):
            return self.where(host, before[0])
        return None


def _alike(node: Node) -> tuple[Node, ...]:
    """The activations that a node adds up, or of which it takes the largest."""
    if node.target in _LARGEST and carries(node):
        terms = tuple(term for term in node.args if carries(term))
        return terms if len(terms) > 1 else ()
    return added(node)


def _selects(host: nn.Module, node: Node) -> bool:
    """Whether a sum weighs branches by gates that are made from all of them (SK)."""
    products = [multiplied(term) for term in added(node)]
    if not products or any(product is None for product in products):
        return False
    flow = Flow.of(node.graph)
    pairs = [sorted(product, key=lambda factor: -shape(factor).numel()) for product in products if product is not None]
    return all(flow.leads(branch, [gate for _, gate in pairs]) for branch, _ in pairs)
