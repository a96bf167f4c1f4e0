"""The layers that a phrase of ``at:`` names: convolutions, activations and norms of the blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import nn

from sesurgery.anatomy.anatomy import Anatomy
from sesurgery.anatomy.layer_kinds import is_activation_layer, is_conv, is_depthwise, is_norm, is_pointwise, is_spatial
from sesurgery.operating.backup import mark_of
from sesurgery.placement.sites import chosen, convs_of
from sesurgery.plans import Skip
from sesurgery.recipe.phrases import At
from sesurgery.recipe.rules import Rule
from sesurgery.tracing.survey import hidden_in

_CONVS: dict[str, Callable[[nn.Module], bool]] = {
    "conv": is_conv,
    "depthwise conv": is_depthwise,
    "pointwise conv": is_pointwise,
    "spatial conv": is_spatial,
}
_LAYERS: dict[str, Callable[[nn.Module], bool]] = {"activation": is_activation_layer, "norm": is_norm}


def layers_of(anatomy: Anatomy, at: At) -> Iterator[nn.Module]:
    """The layers of all blocks (of the model where it has none) that a phrase names, in order; attention is left out.

    Convolutions on an identity branch are no part of what a block's n-th convolution counts, and are left out too.
    """
    if at.role == "conv":
        for block, convs in convs_of(anatomy, _counted(anatomy, at)):
            if block is not None or not anatomy.blocks:
                yield from chosen(convs, at.nth)
        return
    test = _LAYERS[at.name]
    survey = anatomy.survey
    layers: list[nn.Module] = []
    for module in survey.probe.frames:
        if not survey.paths[module] or not test(module) or hidden_in(survey, module, [*anatomy.attention, *layers]):
            continue
        layers.append(module)
        if not anatomy.blocks or anatomy.block_of(survey.paths[module]) is not None:
            yield module


def _counted(anatomy: Anatomy, at: At) -> Callable[[nn.Module], bool]:
    """What a phrase counts: with a number also the convolutions that were removed, so that it means the same again."""
    test = _CONVS[at.name]
    if at.nth is None:
        return test
    removed = {module for module, old in _removed(anatomy.survey.twin) if test(old)}
    return lambda module: test(module) or module in removed


def _removed(model: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    """The identities that an operation put in the place of a layer, each with that layer."""
    for host in model.modules():
        mark = mark_of(host)
        for name, (kind, old) in (mark.attributes if mark is not None else {}).items():
            child = host._modules.get(name)
            if kind == "module" and type(child) is nn.Identity and isinstance(old, nn.Module):
                yield child, old


def too_few(anatomy: Anatomy, rule: Rule) -> Iterator[Skip]:
    """A refusal for every block that has fewer convolutions than the phrase counts."""
    if rule.at.role != "conv" or rule.at.nth is None:
        return
    for block, convs in convs_of(anatomy, _counted(anatomy, rule.at)):
        if (block is not None or not anatomy.blocks) and not chosen(convs, rule.at.nth):
            path = anatomy.survey.paths[block] if block is not None else ""
            reason = f"it has {len(convs)} such convolutions, so none is number {rule.at.nth}"
            yield Skip(path, reason, str(rule.at))
