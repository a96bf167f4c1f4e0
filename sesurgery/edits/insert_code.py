"""From planned insertions to the edited methods of their hosts, and to the lines that change."""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from torch import nn
from torch.fx import GraphModule

from sesurgery.errors import StalePlanError
from sesurgery.operating.actions import Action, EditGraph, SetChild, SetMethods
from sesurgery.operating.compiled_method import EditedMethod
from sesurgery.operating.edited_class import edited_methods, merged, original_class
from sesurgery.operating.graph_modules import LayerCall
from sesurgery.plans import AppendBehind, Diff, Edit, FillSocket, InsertIntoGraph, Insertion, RewriteForward
from sesurgery.rewriting.author_source import shown_file, text_of
from sesurgery.rewriting.trial import Written, behind, in_graph, with_layers
from sesurgery.substitutes.registry import Build, on_meta
from sesurgery.tracing.survey import Survey


def insert_actions(survey: Survey, host: nn.Module, edits: Sequence[Edit]) -> tuple[list[Action], list[Diff]]:
    """What puts the layers of one host in. Raises ``Unfit``."""
    actions: list[Action] = [
        SetChild(edit.host, name_of(edit), Build(edit.change.layer, edit.path), attention=True)
        for edit in edits
        if isinstance(edit.change, Insertion)
    ]
    into_graph = [edit for edit in edits if isinstance(edit.change, InsertIntoGraph)]
    if into_graph:
        assert isinstance(host, GraphModule)
        calls = in_graph(survey, host, tuple(_call(edit) for edit in into_graph))
        lines = "\n".join(f"{call.name} = self.{call.name}({call.value})" for call in calls)
        diff = Diff((survey.paths[host],), type(host).__name__, "", lines)
        return [*actions, EditGraph(survey.paths[host], calls)], [diff]
    methods = _methods(survey, host, edits)
    diffs = [*_filled_sockets(survey, host, edits), *method_diffs(survey.paths[host], type(host), methods)]
    return [*actions, *([SetMethods(survey.paths[host], methods)] if methods else [])], diffs


def _methods(survey: Survey, host: nn.Module, edits: Sequence[Edit]) -> tuple[EditedMethod, ...]:
    """The edited methods of a host, where its edits need some."""
    written = _written(survey, host, edits)
    methods = () if written is None else merged(type(host), written.methods)
    names = tuple(name_of(edit) for edit in edits if isinstance(edit.change, AppendBehind))
    inside = (*_sockets(host, edits), *(name_of(edit) for edit in edits if isinstance(edit.change, RewriteForward)))
    return behind(survey, host, names, methods, inside) if names else methods


def _sockets(host: nn.Module, edits: Sequence[Edit]) -> tuple[str, ...]:
    """The places that are empty and are filled."""
    filling = [name_of(edit) for edit in edits if isinstance(edit.change, FillSocket)]
    return tuple(name for name in filling if host._modules.get(name) is None)


def _written(survey: Survey, host: nn.Module, edits: Sequence[Edit]) -> Written | None:
    insertions = tuple(_call(edit) for edit in edits if isinstance(edit.change, RewriteForward))
    return with_layers(survey, host, insertions, _sockets(host, edits)) if insertions else None


def with_notes(survey: Survey, edits: Sequence[Edit]) -> list[Edit]:
    """The edits, which can be made, with a note where other methods of a host cannot be edited like its forward."""
    hosts: dict[str, list[Edit]] = defaultdict(list)
    for edit in edits:
        hosts[edit.host].append(edit)
    notes = {path: _note(survey, survey.module(path), group) for path, group in hosts.items()}
    return [
        replace(edit, notes=(*edit.notes, *notes[edit.host])) if isinstance(edit.change, RewriteForward) else edit
        for edit in edits
    ]


def _note(survey: Survey, host: nn.Module, edits: Sequence[Edit]) -> tuple[str, ...]:
    written = _written(survey, host, edits)
    if written is None or not written.without:
        return ()
    kind = original_class(type(host)).__name__
    return (f"where {kind}.{', '.join(written.without)} is called in place of forward, this layer is skipped",)


def _call(edit: Edit) -> LayerCall:
    assert isinstance(edit.change, RewriteForward | InsertIntoGraph)
    return LayerCall(name_of(edit), edit.change.value, edit.change.users)


def name_of(edit: Edit) -> str:
    """The attribute of an edit's layer. It becomes part of a generated forward, so it must be a plain name."""
    name = edit.path.rpartition(".")[2]
    if not (name.isidentifier() or name.isdigit()):
        raise StalePlanError(f"{name!r} is no name of an attribute", where=edit.host, remedy="plan again")
    return name


def _filled_sockets(survey: Survey, host: nn.Module, edits: Sequence[Edit]) -> list[Diff]:
    sockets = [edit for edit in edits if isinstance(edit.change, FillSocket)]
    if not sockets:
        return []
    before = "\n".join(f"self.{name_of(edit)}: {_type_of(host, name_of(edit))}" for edit in sockets)
    after = "\n".join(f"self.{name_of(edit)}: {_class_of(survey, edit)}(...)" for edit in sockets)
    return [Diff((sockets[0].host,), original_class(type(host)).__name__, before, after)]


def _class_of(survey: Survey, edit: Edit) -> str:
    """The name of the class that a layer will have."""
    assert isinstance(edit.change, Insertion)
    key = ("class", edit.change.layer.module, repr(edit.change.layer.options))
    if key not in survey.memo:
        survey.memo[key] = type(on_meta(edit.change.layer, None)).__name__
    return survey.memo[key]


def method_diffs(path: str, kind: type[nn.Module], methods: Sequence[EditedMethod]) -> list[Diff]:
    """The methods of a class before and after, in their author's words."""
    earlier = {(each.attribute, each.qualname): each.text for each in edited_methods(kind)}
    diffs = []
    for method in methods:
        original = text_of(method)
        before = earlier.get((method.attribute, method.qualname), original.text)
        if before != method.text:
            old, new = (textwrap.dedent(text).rstrip() for text in (before, method.text))
            file = shown_file(original.filename)
            diffs.append(Diff((path,), original_class(kind).__name__, old, new, file, method.line))
    return diffs


def _type_of(host: nn.Module, name: str) -> str:
    value = host._modules.get(name)
    return "None" if value is None else type(value).__name__
