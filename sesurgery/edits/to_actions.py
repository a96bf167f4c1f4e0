"""From structural edits back to actions, and to the lines that change in their hosts."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from torch import nn

from sesurgery.anatomy.anatomy import Anatomy
from sesurgery.edits.child_swap import digest
from sesurgery.edits.kinds import verify
from sesurgery.edits.written_gates import realise_host
from sesurgery.errors import StalePlanError
from sesurgery.operating.actions import Action, Realised, SetChild
from sesurgery.plans import Diff, Edit
from sesurgery.recording.costs import parameters
from sesurgery.substitutes.registry import Make
from sesurgery.tracing.survey import Survey


def realise(anatomy: Anatomy, edits: Sequence[Edit]) -> Realised:
    """Child edits, and edits of gates written in a forward, host by host."""
    made = _children(anatomy, [edit for edit in edits if edit.means == "child"])
    actions: list[Action] = list(made.actions)
    diffs: list[Diff] = list(made.diffs)
    hosts: dict[str, list[Edit]] = defaultdict(list)
    for edit in edits:
        if edit.means == "graph":
            verify(anatomy.survey, edit)
            hosts[edit.host].append(edit)
    for path, group in hosts.items():
        more, diff = realise_host(anatomy, path, group)
        actions += more
        diffs.append(diff)
    return Realised(tuple(actions), tuple(diffs))


def _children(anatomy: Anatomy, edits: Sequence[Edit]) -> Realised:
    """The actions of child edits, with the lines that change in their hosts. Raises ``StalePlanError``."""
    survey = anatomy.survey
    actions: list[Action] = []
    lines: dict[str, list[tuple[str, nn.Module, nn.Module]]] = defaultdict(list)
    for edit in edits:
        verify(survey, edit)
        _check_olds(survey, edit)
        for path in edit.site["was"]:
            make = _make_of(edit, path)
            host, _, name = path.rpartition(".")
            sources = tuple(edit.options.get("sources", ())) if path == edit.path else ()
            node = bool(edit.options.get("node")) and path == edit.path
            actions.append(SetChild(host, name, make, node=node, sources=sources))
            old = survey.module(path)
            new = make.on_meta(old, *(survey.module(source) for source in sources))
            lines[host].append((name, old, new))
    return Realised(tuple(actions), tuple(_diff(survey, host, changed) for host, changed in lines.items()))


def _make_of(edit: Edit, path: str) -> Make:
    if path == edit.path:
        return Make(str(edit.options["change"]), edit.options, path)
    return Make(str(edit.site["also"][path]), {}, path)


def _check_olds(survey: Survey, edit: Edit) -> None:
    for path, was in edit.site["was"].items():
        try:
            same = digest(survey.module(path)) == was
        except AttributeError:
            same = False
        if not same:
            raise StalePlanError(
                f"{path} is not the module that the plan was made for",
                where=edit.path,
                remedy="plan again on this model",
            )


def _diff(survey: Survey, host: str, changed: Sequence[tuple[str, nn.Module, nn.Module]]) -> Diff:
    before = "\n".join(f"{_attribute(name)} = {outline(old)}" for name, old, _ in changed)
    after = "\n".join(f"{_attribute(name)} = {outline(new)}" for name, _, new in changed)
    return Diff((host,), type(survey.module(host)).__name__, before, after)


def _attribute(name: str) -> str:
    return f"self[{name}]" if name.isdigit() else f"self.{name}"


_LINES = 8


def outline(module: nn.Module) -> str:
    """``repr`` where it is short; else the children, a line each, with what they hold."""
    whole = repr(module)
    if whole.count("\n") < _LINES:
        return whole
    extra = module.extra_repr()
    lines = [f"{type(module).__name__}(", *([f"  {extra}"] if extra else [])]
    lines += [f"  ({name}): {_brief(child)}" for name, child in module.named_children()]
    return "\n".join([*lines, f")  # {_size(module)}"])


def _brief(module: nn.Module) -> str:
    text = repr(module)
    if "\n" not in text:
        return text
    kinds = Counter(type(child).__name__ for child in module.children())
    inside = ", ".join(f"{count} x {kind}" if count > 1 else kind for kind, count in kinds.items())
    return f"{type(module).__name__}({inside})  # {_size(module)}"


def _size(module: nn.Module) -> str:
    return f"{parameters(module):,} parameters"
