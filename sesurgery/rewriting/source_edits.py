"""Edits of a method's text: where a call is added, the author's comments and layout stay.

An edit is data: a span of the author's file and what happens there. Each becomes a few insertions into the text and
deletions from it, so that several edits of one method, nested ones too, go together in any order.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from sesurgery.errors import Unfit
from sesurgery.operating.compiled_method import EditedMethod, code_like, definitions, lines_of, parsed
from sesurgery.rewriting.author_source import Method, Span, encloses, returned, span_of
from sesurgery.rewriting.text_changes import TextChanges


@dataclass(frozen=True)
class Wrap:
    """``self.name(`` before and ``)`` behind the expression at ``span``; behind an augmented assignment, a line.

    ``span`` is the place of an instruction: of the one that gives the value.
    """

    span: Span
    name: str


@dataclass(frozen=True)
class Behind:
    """A line ``target = self.name(target)`` behind the simple statement at ``span``, which sets ``target``.

    ``target`` may be left out where the statement has one target.
    """

    span: Span
    name: str
    target: str | None = None


@dataclass(frozen=True)
class Share:
    """The variable that is read at each of ``spans`` is gated for these readers only, by one call of ``self.name``.

    One reader is a ``Wrap``. Several that stand on one straight way share a new variable, set before the first.
    """

    spans: tuple[Span, ...]
    name: str


@dataclass(frozen=True)
class Turns:
    """What the expression at ``span`` gives in each turn of a loop goes through a layer of that turn's own.

    ``names`` has the number of a turn, from 0, and the name of its layer; in other turns there is none.
    """

    span: Span
    names: tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class Ahead:
    """The variable that is read at ``span``, again and again, is gated once for this reader, before what repeats it."""

    span: Span
    name: str


@dataclass(frozen=True)
class Entry:
    """A parameter of the method is gated before anybody reads it: ``x = self.name(x)`` is the first statement.

    ``part`` is given where one part of a list, tuple or dict is meant; the caller's own container stays as it is.
    """

    parameter: str
    name: str
    part: Part | None = None


@dataclass(frozen=True)
class Exit:
    """One part of the list, tuple or dict that the method returns is gated, at every ``return``."""

    part: Part
    name: str


@dataclass(frozen=True)
class Part:
    """The item at ``key`` of a container: ``list``, ``tuple`` or ``dict``."""

    container: str
    key: int | str

    def gated(self, variable: str, call: str) -> str:
        """An expression for the container with this item gone through ``call``."""
        new = f"{call}({variable}[{self.key!r}])"
        if self.container == "dict":
            return f"{variable} | {{{self.key!r}: {new}}}"
        index = int(self.key)
        before, behind = (f"*{variable}[:{index}], " if index else ""), f", *{variable}[{index + 1}:]"
        return f"[{before}{new}{behind}]" if self.container == "list" else f"({before}{new}{behind})"


@dataclass(frozen=True)
class Replace:
    """The expression at ``span`` gives way to ``text``, an expression."""

    span: Span
    text: str


@dataclass(frozen=True)
class Keep:
    """Of the expression at ``span`` only the part at ``part`` stays: ``x * self.gate(x)`` becomes ``x``."""

    span: Span
    part: Span


@dataclass(frozen=True)
class InPlaceOf:
    """``target = self.name(target)`` in the place of the simple statement at ``span``, which sets ``target``."""

    span: Span
    name: str


@dataclass(frozen=True)
class Delete:
    """The simple statement at ``span`` goes."""

    span: Span


Edit = Wrap | Behind | Share | Turns | Ahead | Entry | Exit | Replace | Keep | Delete | InPlaceOf


def edited(method: Method, edits: Sequence[Edit]) -> EditedMethod:
    """``method`` with all ``edits``; of two at one place the first is the inner one.

    Raises:
        Unfit: an edit has no place in the text, or contradicts another.
    """
    editor = _Editor(method)
    for edit in edits:
        _HANDLERS[type(edit)](editor, edit)
    editor.delete_statements()
    editor.return_gated()
    code = method.function.__code__
    text = editor.text.result()
    try:
        node = definitions(parsed(text, method.line))[method.ordinal]
        code_like(node, code, method.filename)
    except (SyntaxError, IndexError) as error:
        raise Unfit(f"{method.name} cannot be edited like this: {error}") from error
    return EditedMethod(method.owner, method.attribute, code.co_qualname, text, method.line, method.ordinal)


def difference(method: Method, changed: EditedMethod, filename: str | None = None) -> str:
    """A unified diff of the author's file, with its line numbers; ``filename`` is how the file is called in it."""
    name = filename or method.filename
    before, after = (lines_of(text) for text in (method.text, changed.text))
    lines = [f"--- a/{name.lstrip('/')}\n", f"+++ b/{name.lstrip('/')}\n"]
    for group in difflib.SequenceMatcher(None, before, after, autojunk=False).get_grouped_opcodes(3):
        (_, start, _, new_start, _), (_, _, end, _, new_end) = group[0], group[-1]
        old, new = f"-{method.line + start},{end - start}", f"+{method.line + new_start},{new_end - new_start}"
        lines.append(f"@@ {old} {new} @@ {method.name}\n")
        for kind, first, last, new_first, new_last in group:
            if kind == "equal":
                lines += [" " + line for line in before[first:last]]
            else:
                lines += ["-" + line for line in before[first:last]]
                lines += ["+" + line for line in after[new_first:new_last]]
    return "".join(lines)


class _Editor:
    """A method, and what its edits ask of its syntax."""

    def __init__(self, method: Method) -> None:
        self.method = method
        self.syntax = method.syntax
        self.text = TextChanges(method.text, method.line)
        self.deleted: list[ast.stmt] = []
        self.exits: list[Exit] = []
        self.turns: dict[ast.AST, str] = {}

    def where(self, node: ast.AST) -> str:
        return f"line {span_of(node).line} of {self.method.name}"

    def source(self, node: ast.AST) -> str:
        return self.method.source(span_of(node))

    def call(self, name: str) -> str:
        """``self.name``, where the method itself may call the module something else."""
        arguments = self.method.node.args
        first = next(iter([*arguments.posonlyargs, *arguments.args]), None)
        if first is None:
            raise Unfit(f"{self.method.name} has no parameter for the module itself")
        again = next((node for node in self.syntax.around if first.arg in _bound_by(node)), None)
        if again is not None:
            raise Unfit(f"{first.arg} is another thing from {self.where(again)} on")
        return f"{first.arg}.{name}"

    def expression(self, span: Span) -> ast.expr:
        """The expression at a place, where it is one that can be wrapped."""
        node = None if None in span else self.syntax.expression_at(Span(*span))
        if node is None:
            raise Unfit(f"no expression in line {span[0]} of {self.method.name} gives the value")
        if isinstance(node, ast.JoinedStr):
            raise Unfit(f"the value lies in an f-string in {self.where(node)}")
        loaded = isinstance(getattr(node, "ctx", ast.Load()), ast.Load)
        sliced = isinstance(node, ast.Tuple) and any(isinstance(each, ast.Slice) for each in node.elts)
        pattern = isinstance(self.syntax.around[node], ast.pattern)
        if not loaded or sliced or pattern or isinstance(node, ast.Starred | ast.Slice | ast.GeneratorExp):
            raise Unfit(f"{self.source(node)} in {self.where(node)} is no single value")
        return node

    def statement(self, span: Span) -> ast.stmt:
        """The simple statement at a place."""
        node = self.syntax.statement_at(Span(*span))
        if node is None or hasattr(node, "body") or isinstance(node, ast.Match):
            raise Unfit(f"no simple statement stands in line {span[0]} of {self.method.name}")
        return node

    def wrap(self, node: ast.expr, call: str) -> None:
        bare = isinstance(node, ast.Yield | ast.YieldFrom | ast.Tuple)
        self.text.around(span_of(node), f"{call}({'(' * bare}", f"{')' * bare})")

    def line_before(self, node: ast.stmt, line: str) -> None:
        span = _with_decorators(node)
        simple = not hasattr(node, "body")
        if self.source(node).startswith("elif") or (not simple and self.text.indent(self.text.range(span)[0]) is None):
            raise Unfit(f"no statement can stand before {self.where(node)}")
        self.text.line_before(span, line)

    def return_gated(self) -> None:
        """Each ``return`` becomes the assignment of a variable, whose parts are gated before it is returned."""
        if not self.exits:
            return
        if isinstance(self.method.node, ast.Lambda):
            raise Unfit("a lambda has no place for a second statement")
        variable = _new_name(self.method, "outputs", self.exits[0].name)
        for value in returned(self.method):
            statement = self.syntax.statement_of(value)
            assert statement is not None
            span = span_of(statement)
            keyword = Span(span.line, span.column, span.line, span.column + len("return"))
            self.text.replace(keyword, f"{variable} =")
            for each in self.exits:
                line = each.part.gated(variable, self.call(each.name))
                self.text.line_behind(span, f"{variable} = {line}")
            self.text.line_behind(span, f"return {variable}")

    def delete_statements(self) -> None:
        for node in self.deleted:
            block = _block_of(node, self.syntax.around[node])
            needed = node is block[-1] and all(each in self.deleted for each in block)
            self.text.delete_statement(span_of(node), needed)


def _wrap(editor: _Editor, edit: Wrap) -> None:
    if isinstance(editor.syntax.statement_at(edit.span), ast.AugAssign):
        _behind(editor, Behind(edit.span, edit.name))
    else:
        editor.wrap(editor.expression(edit.span), editor.call(edit.name))


def _behind(editor: _Editor, edit: Behind) -> None:
    statement = editor.statement(edit.span)
    if isinstance(statement, ast.Return | ast.Raise | ast.Break | ast.Continue):
        raise Unfit(f"nothing runs behind {editor.where(statement)}")
    _set_again(editor, statement, edit.target or _only_target(editor, statement), editor.call(edit.name))


def _set_again(editor: _Editor, statement: ast.stmt, target: str, call: str) -> None:
    """``target = call(target)`` behind the statement that sets ``target``."""
    syntax = ast.parse(target, mode="eval").body
    runs_code = any(isinstance(each, ast.Call | ast.NamedExpr | ast.Await | ast.Yield) for each in ast.walk(syntax))
    if not isinstance(syntax, ast.Name | ast.Attribute | ast.Subscript) or runs_code:
        raise Unfit(f"{target} in {editor.where(statement)} cannot be set a second time")
    if isinstance(syntax, ast.Name) and syntax.id not in _local_names(editor.method):
        raise Unfit(f"{target} in {editor.where(statement)} is no variable of {editor.method.name}")
    editor.text.line_behind(span_of(statement), f"{target} = {call}({target})")


def _only_target(editor: _Editor, statement: ast.stmt) -> str:
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    if len(targets) != 1 or not isinstance(targets[0], ast.Name | ast.Attribute | ast.Subscript):
        raise Unfit(f"{editor.where(statement)} does not set one variable")
    return editor.source(targets[0])


def _share(editor: _Editor, edit: Share) -> None:
    uses = sorted({editor.expression(span) for span in edit.spans}, key=span_of)
    if len(uses) == 1:
        editor.wrap(uses[0], editor.call(edit.name))
        return
    names = {use.id if isinstance(use, ast.Name) else "" for use in uses}
    if len(names) != 1 or "" in names:
        raise Unfit(f"{' and '.join(map(editor.source, uses))} are not one variable of {editor.method.name}")
    (name,) = names
    if isinstance(editor.method.node, ast.Lambda):
        _share_in_lambda(editor, uses, _new_name(editor.method, name, edit.name), edit.name)
    else:
        _share_among(editor, uses, name, edit.name)


def _share_among(editor: _Editor, uses: Sequence[ast.expr], name: str, layer: str) -> None:
    """One assignment before the first statement that reads, in the innermost block around all readers."""
    if len(uses) == 1:
        editor.wrap(uses[0], editor.call(layer))
        return
    block, statements = _common_block(editor, uses)
    reading = dict(zip(uses, statements, strict=True))
    if not any(_always_runs(editor, use, reading[use]) for use in uses):
        only = statements[0] if len(set(statements)) == 1 else None
        if not isinstance(only, ast.If):
            raise Unfit(f"{name} is not read on one straight way from {editor.where(uses[0])} on")
        for branch in (only.body, only.orelse):
            span = (span_of(branch[0])[:2], span_of(branch[-1])[2:]) if branch else ((0, 0), (0, 0))
            inside = [use for use in uses if encloses(Span(*span[0], *span[1]), span_of(use))]
            if inside:
                _share_among(editor, inside, name, layer)
        return
    first = min(statements, key=block.index)
    _refuse_rebinding(editor, name, first, reading)
    variable = _new_name(editor.method, name, layer)
    editor.line_before(first, f"{variable} = {editor.call(layer)}({name})")
    for use in uses:
        editor.text.replace(span_of(use), variable)


def _ahead(editor: _Editor, edit: Ahead) -> None:
    """One assignment before the outermost loop, or the statement of a comprehension, in which the variable is read."""
    use = editor.expression(edit.span)
    around = [outer for _, outer in editor.syntax.ways_up(use)]
    repeating = [each for each in around if isinstance(each, _REPEATING)]
    statement = editor.syntax.statement_of(repeating[-1]) if repeating else None
    if not isinstance(use, ast.Name) or statement is None:
        raise Unfit(f"{editor.source(use)} in {editor.where(use)} is no variable that a loop reads")
    inside = [node for node in editor.syntax.around if encloses(span_of(statement), _place_of(node))]
    again = next((node for node in inside if use.id in _bound_by(node)), None)
    own = isinstance(statement, ast.Assign) and again in statement.targets
    if again is not None and not own:
        raise Unfit(f"{use.id} is set again in {editor.where(again)}, where it is read")
    variable = _new_name(editor.method, use.id, edit.name)
    editor.line_before(statement, f"{variable} = {editor.call(edit.name)}({use.id})")
    editor.text.replace(span_of(use), variable)


def _turns(editor: _Editor, edit: Turns) -> None:
    statement = editor.syntax.statement_at(edit.span)
    node = statement if isinstance(statement, ast.AugAssign) else editor.expression(edit.span)
    turn = _number_of_the_turn(editor, node, edit.names[0][1])
    layers = ", ".join(f"{number}: {editor.call(name)}" for number, name in edit.names)
    call = f"{{{layers}}}.get({turn}, lambda value: value)"
    if isinstance(node, ast.AugAssign):
        _set_again(editor, node, _only_target(editor, node), call)
    else:
        editor.wrap(node, call)


def _number_of_the_turn(editor: _Editor, node: ast.expr | ast.stmt, layer: str) -> str:
    """The variable that counts the turns of the loop around a node: the author's own, or one that the loop is given."""
    way = ((part, outer) for part, outer in editor.syntax.ways_up(node) if isinstance(outer, _REPEATING))
    part, loop = next(way, (node, None))
    header: ast.For | ast.While | ast.comprehension | None = None
    if isinstance(loop, ast.For | ast.While) and part in loop.body:
        header = loop
    elif isinstance(loop, _COMPREHENSIONS) and part not in loop.generators:
        header = loop.generators[-1]
    if loop is None or header is None:
        raise Unfit(f"{editor.where(node)} runs again and again, and no loop around it counts the turns")
    if header not in editor.turns:
        own = None if isinstance(header, ast.While) else _own_counter(editor, loop, header)
        editor.turns[header] = own or _new_counter(editor, header, layer)
    return editor.turns[header]


def _is_bare(node: ast.expr) -> bool:
    """Whether a node is a tuple without parentheses around it."""
    return isinstance(node, ast.Tuple) and bool(node.elts) and span_of(node)[:2] == span_of(node.elts[0])[:2]


def _own_counter(editor: _Editor, loop: ast.AST, header: ast.For | ast.comprehension) -> str | None:
    """The variable in which the author counts from 0 on (``enumerate``, ``range``), where nothing else sets it."""
    call = header.iter
    if not isinstance(call, ast.Call) or len(call.args) != 1 or call.keywords or not isinstance(call.func, ast.Name):
        return None
    counter: ast.AST | None = header.target if call.func.id == "range" else None
    if call.func.id == "enumerate" and isinstance(header.target, ast.Tuple):
        counter = header.target.elts[0]
    if not isinstance(counter, ast.Name) or isinstance(call.args[0], ast.Starred):
        return None
    inside = (each for each in editor.syntax.around if encloses(span_of(loop), _place_of(each)))
    again = any(counter.id in _bound_by(each) for each in inside if each is not counter)
    return None if again else counter.id


def _new_counter(editor: _Editor, header: ast.For | ast.While | ast.comprehension, layer: str) -> str:
    variable = _new_name(editor.method, "turn", layer)
    if isinstance(header, ast.While):
        editor.line_before(header, f"{variable} = -1")
        editor.line_before(header.body[0], f"{variable} += 1")
        return variable
    target, items = header.target, header.iter
    bare = _is_bare(target)
    editor.text.around(span_of(target), f"{variable}, " + "(" * bare, ")" * bare)
    bare = _is_bare(items)
    editor.text.around(span_of(items), "enumerate(" + "(" * bare, ")" + ")" * bare)
    return variable


_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_REPEATING = (ast.For, ast.While, *_COMPREHENSIONS)


def _place_of(node: ast.AST) -> Span:
    """Where a node stands; nowhere, where the syntax does not say."""
    return span_of(node) if hasattr(node, "end_lineno") and hasattr(node, "lineno") else Span(0, 0, 0, 0)


def _share_in_lambda(editor: _Editor, uses: Sequence[ast.expr], variable: str, layer: str) -> None:
    """In a lambda the first reader, in the order of the text, sets the variable."""
    if not _always_runs(editor, uses[0], editor.method.node):
        raise Unfit(f"{editor.source(uses[0])} is not read on one straight way in {editor.where(uses[0])}")
    editor.text.replace(span_of(uses[0]), f"({variable} := {editor.call(layer)}({editor.source(uses[0])}))")
    for use in uses[1:]:
        editor.text.replace(span_of(use), variable)


def _refuse_rebinding(editor: _Editor, name: str, first: ast.stmt, reading: dict[ast.expr, ast.stmt]) -> None:
    """Between the assignment and the last reader the variable must stay what it is, also on ways not taken so far."""
    last = max(reading, key=span_of)
    until = span_of(last)[2:]
    for use, statement in reading.items():
        around = [each for each, _ in editor.syntax.ways_up(use) if encloses(span_of(statement), span_of(each))]
        loops = [span_of(each)[2:] for each in around if isinstance(each, ast.For | ast.While)]
        until = max([until, *loops])
    region = Span(*span_of(first)[:2], *until)
    for node, around in editor.syntax.around.items():
        # The last reader's own statement sets its targets when all is read.
        own = around is editor.syntax.statement_of(last) and not hasattr(around, "body")
        if name in _bound_by(node) and encloses(region, span_of(node)) and not own:
            raise Unfit(f"{name} is set again in {editor.where(node)}, before it is read for the last time")


def _entry(editor: _Editor, edit: Entry) -> None:
    node, name = editor.method.node, edit.parameter
    call = editor.call(edit.name)
    parameters = [each.arg for each in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]]
    if name not in parameters or call.startswith(f"{name}."):
        raise Unfit(f"{name} is no parameter of {editor.method.name} that holds one value")
    if isinstance(node, ast.Lambda):
        if edit.part is not None:
            raise Unfit("a lambda has no place for a second statement")
        uses = [each for each in editor.syntax.nodes if isinstance(each, ast.Name) and each.id == name]
        if uses:
            _share_in_lambda(editor, sorted(uses, key=span_of), name, edit.name)
        return
    first = node.body[ast.get_docstring(node, clean=False) is not None :]
    if not first:
        raise Unfit(f"{editor.method.name} has no statement")
    gated = f"{call}({name})" if edit.part is None else edit.part.gated(name, call)
    editor.line_before(first[0], f"{name} = {gated}")


def _exit(editor: _Editor, edit: Exit) -> None:
    editor.exits.append(edit)


def _replace(editor: _Editor, edit: Replace) -> None:
    node = editor.expression(edit.span)
    loose = _is_loose(ast.parse(edit.text.strip(), mode="eval").body, edit.text) and not _stands_free(editor, node)
    editor.text.replace(span_of(node), f"({edit.text})" if loose else edit.text)


def _keep(editor: _Editor, edit: Keep) -> None:
    node, part = editor.expression(edit.span), editor.expression(edit.part)
    if not encloses(span_of(node), span_of(part)):
        raise Unfit(f"{editor.source(part)} is no part of {editor.source(node)} in {editor.where(node)}")
    source = editor.source(part)
    parentheses = _is_loose(part, source) and ("\n" in source or not _stands_free(editor, node))
    editor.text.keep(span_of(node), span_of(part), parentheses)


def _in_place_of(editor: _Editor, edit: InPlaceOf) -> None:
    statement = editor.statement(edit.span)
    target = _only_target(editor, statement)
    editor.text.replace(span_of(statement), f"{target} = {editor.call(edit.name)}({target})")


def _delete(editor: _Editor, edit: Delete) -> None:
    editor.deleted.append(editor.statement(edit.span))


_HANDLERS: dict[type, Callable[..., None]] = {
    Wrap: _wrap,
    Behind: _behind,
    Share: _share,
    Turns: _turns,
    Ahead: _ahead,
    Entry: _entry,
    Exit: _exit,
    Replace: _replace,
    Keep: _keep,
    Delete: _delete,
    InPlaceOf: _in_place_of,
}


def _is_loose(node: ast.expr, source: str) -> bool:
    """Whether an expression may fall apart in another one, or at the end of a line."""
    atoms = ast.Name | ast.Constant | ast.Attribute | ast.Subscript | ast.Call | ast.List | ast.Dict | ast.Set
    return "\n" in source or not isinstance(node, atoms)


def _stands_free(editor: _Editor, node: ast.expr) -> bool:
    """Whether anything may stand in the place of an expression without parentheses."""
    return isinstance(editor.syntax.around[node], ast.Assign | ast.Return | ast.Expr)


def _bound_by(node: ast.AST) -> set[str]:
    """The names that a node sets by itself."""
    if isinstance(node, ast.Name):
        return set() if isinstance(node.ctx, ast.Load) else {node.id}
    if isinstance(node, ast.alias):
        return {(node.asname or node.name).partition(".")[0]}
    if isinstance(node, ast.arg):
        return {node.arg}
    named = ast.ExceptHandler | ast.FunctionDef | ast.ClassDef | ast.MatchAs | ast.MatchStar | ast.MatchMapping
    name = getattr(node, "name", None) or getattr(node, "rest", None)
    return {name} if isinstance(node, named) and name else set()


def _local_names(method: Method) -> set[str]:
    code = method.function.__code__
    bound = [_bound_by(node) for node in method.syntax.around]
    return {*code.co_varnames, *code.co_cellvars}.union(*bound)


def _new_name(method: Method, name: str, layer: str) -> str:
    code = method.function.__code__
    used = {node.id for node in method.syntax.nodes if isinstance(node, ast.Name)} | _local_names(method)
    variable = f"{name}_{layer}"
    while variable in used or variable in code.co_freevars or variable in code.co_names:
        variable += "_"
    return variable


def _with_decorators(node: ast.stmt) -> Span:
    decorators = getattr(node, "decorator_list", [])
    if not decorators:
        return span_of(node)
    first = span_of(decorators[0])
    return Span(first.line, first.column - 1, *span_of(node)[2:])


def _block_of(node: ast.stmt, around: ast.AST) -> list[ast.stmt]:
    """The list of statements in which ``node`` stands."""
    lists = [value for _, value in ast.iter_fields(around) if isinstance(value, list)]
    return next(block for block in lists if node in block)


def _blocks_around(editor: _Editor, node: ast.expr) -> Iterator[tuple[list[ast.stmt], ast.stmt]]:
    """The blocks around an expression with its statement in each, the innermost first."""
    for each, around in editor.syntax.ways_up(node):
        if isinstance(each, ast.stmt):
            yield _block_of(each, around), each


def _common_block(editor: _Editor, uses: Sequence[ast.expr]) -> tuple[list[ast.stmt], list[ast.stmt]]:
    """The innermost block that holds all uses, and the statement of it in which each use lies."""
    ways = [list(_blocks_around(editor, use)) for use in uses]
    for block, _ in ways[0]:
        statements = [next((statement for other, statement in way if other is block), None) for way in ways]
        if None not in statements:
            return block, [each for each in statements if each is not None]
    raise AssertionError("a method's body holds all of its statements")


def _always_runs(editor: _Editor, use: ast.expr, until: ast.AST) -> bool:
    """Whether running ``until`` evaluates ``use`` in any case."""
    for node, around in editor.syntax.ways_up(use):
        if node is until or around is editor.syntax.root:
            return True
        if not _always_runs_part(node, around):
            return False
    return True


def _always_runs_part(node: ast.AST, around: ast.AST) -> bool:
    match around:
        case ast.IfExp() | ast.If() | ast.While() | ast.Assert():
            return node is around.test
        case ast.BoolOp():
            return node is around.values[0]
        case ast.Compare():
            return node in (around.left, around.comparators[0])
        case ast.For() | ast.comprehension():
            return node is around.iter
        case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
            return node is around.generators[0]
        case ast.Match():
            return node is around.subject
        case ast.Lambda() | ast.FunctionDef() | ast.ClassDef() | ast.Try() | ast.TryStar() | ast.match_case():
            return False
    return True
