"""The edit ``remove``: a layer, or attention however it is written, leaves the graph."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torch.fx import Node

from sesurgery.anatomy.anatomy import Anatomy
from sesurgery.anatomy.in_place import check_in_place, overwriting
from sesurgery.anatomy.layer_kinds import is_norm
from sesurgery.anatomy.merges import Merge
from sesurgery.edits.child_swap import keeps_shape, named_targets, only_place, places, swap
from sesurgery.edits.kinds import Proposal, Target, edit_kind
from sesurgery.edits.written_gates import bypass
from sesurgery.errors import Unfit
from sesurgery.plans import Identity, Skip, Substitute, WithoutNorm
from sesurgery.recipe.rules import Remove, Rule
from sesurgery.substitutes.norm_activation import companions
from sesurgery.tracing.survey import Survey


@edit_kind
class RemoveKind:
    """Puts an identity in the place of what ``at:`` names; a gate written in a forward leaves the forward."""

    action = "remove"

    def targets(self, anatomy: Anatomy, rule: Rule) -> Iterable[Target | Skip]:
        """What ``at:`` names."""
        return named_targets(anatomy, rule)

    def edit(self, anatomy: Anatomy, rule: Rule, target: Target) -> Proposal:
        """Its removal, unless it has to stay."""
        if isinstance(target.subject, Merge):
            proposal = bypass(anatomy, target.subject)
            _check_gate(anatomy, target.subject)
            return proposal
        if rule.at.role == "attention":
            return _attention(anatomy.survey, anatomy, target.subject)
        return _layer(anatomy, rule, target)


def _attention(survey: Survey, anatomy: Anatomy, module: nn.Module) -> Proposal:
    keeps_shape(survey, module)
    check_in_place(survey, module)
    first, *others = places(survey, module)
    return swap(anatomy, first, Identity(), dict.fromkeys(others, Identity()))


def _check_gate(anatomy: Anatomy, gate: Merge) -> None:
    """A product is a value of its own; what it gates may have other readers, which must not see it overwritten."""
    assert gate.identity is not None
    way = {gate.node, *anatomy.flows[gate.host].between(gate.identity, gate.branches[0])}
    others = [user for user in gate.identity.users if user not in way]
    follower = overwriting(gate.host, gate.node)
    if (others or gate.identity.op == "placeholder") and follower is not None and follower.op != "output":
        raise Unfit("what follows the gate works in place, and would overwrite what other layers look at")


def _layer(anatomy: Anatomy, rule: Rule, target: Target) -> Proposal:
    survey, edit, module = anatomy.survey, rule.edit, target.subject
    assert isinstance(edit, Remove)
    if type(module) is nn.Identity:
        raise Unfit("it was removed already")
    keeps_shape(survey, module)
    only_place(survey, module)
    also: dict[str, Substitute] = {}
    if edit.with_norm:
        norm = norm_behind(survey, module)
        if norm is None:
            raise Unfit("no norm of its own follows it; leave with_norm out")
        only_place(survey, norm)
        also[survey.paths[norm]] = WithoutNorm()
    check_in_place(survey, module, {survey.module(other) for other in also})
    keeps_companions = rule.at.role == "norm" and companions(module)
    return swap(anatomy, target.path, WithoutNorm() if keeps_companions else Identity(), also)


def norm_behind(survey: Survey, module: nn.Module) -> nn.Module | None:
    """The norm that takes a layer's output and is alone in that, in its host or in the one around."""
    caller = survey.callers.get(module)
    while caller is not None:
        host, _, node = caller
        users = list(node.users)
        if len(users) != 1:
            return None
        user: Node = users[0]
        if user.op == "call_module":
            follower = host.get_submodule(str(user.target))
            if is_norm(follower):
                return follower
            if type(follower) is not nn.Identity:
                return None
            caller = (host, caller[1], user)
        elif user.op == "output":
            caller = survey.callers.get(host)
        else:
            return None
    return None
