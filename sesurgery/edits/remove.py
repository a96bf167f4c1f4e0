"""The edit ``remove``: a layer, or attention however it is written, leaves the graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn
from torch.fx import Node

from sesurgery.anatomy.anatomy import Anatomy
from sesurgery.anatomy.existing_attention import attention_modules, written_gates
from sesurgery.anatomy.in_place import check_in_place, overwriting
from sesurgery.anatomy.layer_kinds import is_norm
from sesurgery.anatomy.merges import Merge
from sesurgery.edits.child_swap import child_edit, frames_of, guarded, keeps_shape, only_place, places, wanted_facts
from sesurgery.edits.kinds import edit_kind
from sesurgery.edits.to_actions import realise
from sesurgery.edits.written_gates import gate_edit_site, strip_host
from sesurgery.errors import Unfit
from sesurgery.operating.actions import Realised
from sesurgery.placement.named_layers import layers_of, too_few
from sesurgery.plans import Edit, Skip
from sesurgery.recipe.rules import Remove, Rule
from sesurgery.recording.costs import parameters
from sesurgery.substitutes.norm_activation import companions
from sesurgery.substitutes.registry import Make
from sesurgery.tracing.fingerprint import fingerprint
from sesurgery.tracing.survey import Survey

_IDENTITY = Make("identity", {})


@edit_kind
class RemoveKind:
    """Puts an identity in the place of what ``at:`` names; a gate written in a forward leaves the forward."""

    action = "remove"

    def propose(self, anatomy: Anatomy, rule: Rule) -> Iterator[Edit | Skip]:
        """What would leave, or the reason why it has to stay."""
        paths = anatomy.survey.paths
        if rule.at.role == "attention":
            for module in attention_modules(anatomy):
                yield from guarded(paths[module], rule, lambda found=module: _attention(anatomy, rule, found))
            for gate in written_gates(anatomy):
                where = f"{paths[gate.host]}.{gate.node.name}".strip(".")
                yield from guarded(where, rule, lambda found=gate: [_gate(anatomy, rule, found)])
            return
        yield from too_few(anatomy, rule)
        for module in layers_of(anatomy, rule.at):
            yield from guarded(paths[module], rule, lambda found=module: [_layer(anatomy, rule, found)])

    def realise(self, anatomy: Anatomy, edits: Sequence[Edit]) -> Realised:
        """Identities to set and forwards to generate."""
        return realise(anatomy, edits)


def _attention(anatomy: Anatomy, rule: Rule, module: nn.Module) -> Iterator[Edit]:
    survey = anatomy.survey
    found = wanted_facts(anatomy, rule, survey.paths[module], _output(survey, module), None)
    keeps_shape(survey, module)
    check_in_place(survey, module)
    first, *others = (".".join(filter(None, place)) for place in places(survey, module))
    yield child_edit(anatomy, rule, found, first, _IDENTITY, also=dict.fromkeys(others, _IDENTITY))


def _gate(anatomy: Anatomy, rule: Rule, gate: Merge) -> Edit:
    survey = anatomy.survey
    host = gate.host
    path = survey.paths[host]
    found = wanted_facts(anatomy, rule, path, gate.node.meta["val"], None)
    stripped = strip_host(anatomy, host, [(gate.node.name, None)])
    _check_gate(anatomy, gate)
    gone = [host.get_submodule(name) for name in stripped.spare]
    block = anatomy.block_of(path)
    return Edit(
        action="remove",
        path=f"{path}.{gate.node.name}" if path else gate.node.name,
        at=str(rule.at),
        host=path,
        stage=found.stage,
        block=survey.paths[block] if block is not None else None,
        channels=found.channels,
        module="Identity",
        options={"change": "gate"},
        means="graph",
        site=gate_edit_site(gate, None),
        fingerprint=fingerprint(survey, host),
        params=-sum(parameters(module) for module in gone),
        macs=-stripped.macs * max(1, survey.probe.calls.get(host, 1)),
        notes=("a gate written in the forward: the forward is rewritten without it",),
    )


def _check_gate(anatomy: Anatomy, gate: Merge) -> None:
    """A product is a value of its own; what it gates may have other readers, which must not see it overwritten."""
    assert gate.identity is not None
    way = {gate.node, *anatomy.flows[gate.host].between(gate.identity, gate.branches[0])}
    others = [user for user in gate.identity.users if user not in way]
    follower = overwriting(gate.host, gate.node)
    if (others or gate.identity.op == "placeholder") and follower is not None and follower.op != "output":
        raise Unfit("what follows the gate works in place, and would overwrite what other layers look at")


def _layer(anatomy: Anatomy, rule: Rule, module: nn.Module) -> Edit:
    survey = anatomy.survey
    edit = rule.edit
    assert isinstance(edit, Remove)
    path = survey.paths[module]
    conv = module if rule.at.role == "conv" else None
    found = wanted_facts(
        anatomy, rule, path.rpartition(".")[0] if conv is not None else path, _output(survey, module), conv
    )
    if type(module) is nn.Identity:
        raise Unfit("it was removed already")
    keeps_shape(survey, module)
    only_place(survey, module)
    make = Make("without norm", {}) if rule.at.role == "norm" and companions(module) else _IDENTITY
    also: dict[str, Make] = {}
    if edit.with_norm:
        norm = norm_behind(survey, module)
        if norm is None:
            raise Unfit("no norm of its own follows it; leave with_norm out")
        only_place(survey, norm)
        also[survey.paths[norm]] = Make("without norm", {})
    check_in_place(survey, module, {survey.module(other) for other in also})
    return child_edit(anatomy, rule, found, path, make, also=also)


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


def _output(survey: Survey, module: nn.Module):  # type: ignore[no-untyped-def]
    frames = frames_of(survey, module)
    return frames[0].output if frames and hasattr(frames[0].output, "shape") else None
