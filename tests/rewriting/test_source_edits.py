"""One fixture a form of Python: the author's lines before and after, and both run."""

from __future__ import annotations

import ast
import copy
import textwrap
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from written import WIDTH, Author, Gate, places, same_runs, written

from sesurgery.errors import Unfit
from sesurgery.operating.edited_class import edited_class
from sesurgery.rewriting.author_source import read_method, span_of
from sesurgery.rewriting.source_edits import Behind, Delete, Entry, Keep, Replace, Share, Wrap, difference, edited

BLOCK = """
class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.act = nn.ReLU()
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1), nn.Sigmoid())
        self.layers = nn.ModuleList([nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)])
        self.ready = True
"""


def block(body: str, before: str = "", base: str = "") -> torch.nn.Module:
    """A ``Block`` whose class ends with ``body``."""
    text = BLOCK if not base else ""
    module = written(before + text + textwrap.indent(textwrap.dedent(body), "    ") + base)
    return module.Block()


def sample() -> torch.Tensor:
    return torch.randn(2, WIDTH, 5, 5)


def changed_lines(author: Author, *edits: Any) -> list[str]:
    """The lines of the diff that are not context, as they are."""
    lines = difference(author.method, edited(author.method, edits)).splitlines()[3:]
    return [line for line in lines if line[0] in "+-" and line[1:].strip()]


def check(author: Author, edits: list[Any], calls: int = 1, **gates: Gate) -> torch.nn.Module:
    """The edited host does what the author's does where its gates are identity, and calls each as often as planned."""
    gates = gates or {"se": Gate()}
    twin = author.edited(edits, gates)
    same_runs(copy.deepcopy(author.pristine), twin, *author.arguments, **author.keywords)
    assert [gate.calls for gate in gates.values()] == [2 * calls] * len(gates)
    louder = author.edited(edits, {name: Gate(3.0) for name in gates})
    arguments = [each.clone() if isinstance(each, torch.Tensor) else each for each in author.arguments]
    assert not torch.equal(_first(louder(*arguments)), _first(copy.deepcopy(author.pristine)(*arguments)))
    return twin


def _first(result: Any) -> torch.Tensor:
    return result if isinstance(result, torch.Tensor) else _first(next(iter(result)))


WRAPS = {
    "plain": (
        "def forward(self, x):\n    return self.act(self.bn(self.conv(x)) + x)",
        "self.bn(self.conv(x))",
        ["    return self.act(self.se(self.bn(self.conv(x))) + x)"],
    ),
    "assignment with a comment": (
        "def forward(self, x):\n    y = self.conv(x)  # a comment\n    return y + x",
        "self.conv(x)",
        ["    y = self.se(self.conv(x))  # a comment"],
    ),
    "operator": (
        "def forward(self, x):\n    return self.conv(x) + x * 2",
        "self.conv(x) + x * 2",
        ["    return self.se(self.conv(x) + x * 2)"],
    ),
    "operand": (
        "def forward(self, x):\n    return self.conv(x) + x*2",
        "x*2",
        ["    return self.conv(x) + self.se(x*2)"],
    ),
    "glued to a keyword": (
        "def forward(self, x):\n    return-x if x.ndim else(x)",
        "-x",
        ["    return self.se(-x) if x.ndim else(x)"],
    ),
    "over several lines": (
        "def forward(self, x):\n    y = self.conv(\n        x  # the input\n    ) + x\n    return y",
        "self.conv(\n            x  # the input\n        )",
        ["    y = self.se(self.conv(", "    )) + x"],
    ),
    "a method on its own line": (
        "def forward(self, x):\n    return (\n        self.conv(x)\n        .relu()\n        .mul(2)\n    )",
        "self.conv(x)\n            .relu()",
        ["        self.se(self.conv(x)", "        .relu())"],
    ),
    "an attribute on its own line": (
        "def forward(self, x):\n    return (\n        self.conv(x)\n        .mT\n    ).mT",
        "self.conv(x)\n            .mT",
        ["        self.se(self.conv(x)", "        .mT)"],
    ),
    "non-ASCII": (
        "def forward(self, x):\n    größe = 'ü'; y = self.conv(x); return y + x  # «»",
        "self.conv(x)",
        ["    größe = 'ü'; y = self.se(self.conv(x)); return y + x  # «»"],
    ),
    "non-ASCII names": (
        "def forward(self, señal):\n    return (self.conv(señal)\n            .relu() + señal)",
        "self.conv(señal)\n                .relu()",
        ["    return (self.se(self.conv(señal)", "            .relu()) + señal)"],
    ),
    "conditional expression": (
        "def forward(self, x):\n    return self.bn(x) if self.ready else x",
        "self.bn(x)",
        ["    return self.se(self.bn(x)) if self.ready else x"],
    ),
    "keyword argument": (
        "def forward(self, x):\n    return torch.add(x, other=self.bn(x))",
        "self.bn(x)",
        ["    return torch.add(x, other=self.se(self.bn(x)))"],
    ),
    "subscript": (
        "def forward(self, x):\n    return torch.cat([x[:, :2], x[:, 2:]], 1)",
        "x[:, 2:]",
        ["    return torch.cat([x[:, :2], self.se(x[:, 2:])], 1)"],
    ),
    "walrus": (
        "def forward(self, x):\n    return (y := self.conv(x)) + y",
        "self.conv(x)",
        ["    return (y := self.se(self.conv(x))) + y"],
    ),
    "call of a lambda": (
        "def forward(self, x):\n    return (lambda y: self.conv(y) + y)(x)",
        "self.conv(y)",
        ["    return (lambda y: self.se(self.conv(y)) + y)(x)"],
    ),
    "nested function that knew no self": (
        "def forward(self, x):\n    def twice(y):\n        return y * 2\n    return twice(x)",
        "y * 2",
        ["        return self.se(y * 2)"],
    ),
    "another name for self": (
        "def forward(this, x):\n    return this.conv(x)",
        "this.conv(x)",
        ["    return this.se(this.conv(x))"],
    ),
    "body on the line of def": (
        "def forward(self, x): return self.conv(x)",
        "self.conv(x)",
        ["def forward(self, x): return self.se(self.conv(x))"],
    ),
    "lambda": (
        "forward = lambda self, x: self.act(self.conv(x)) + x",
        "self.conv(x)",
        ["forward = lambda self, x: self.act(self.se(self.conv(x))) + x"],
    ),
    "second lambda of a line": (
        "other = lambda self, x: x; forward = lambda me, x: me.conv(x) + x",
        "me.conv(x)",
        ["other = lambda self, x: x; forward = lambda me, x: me.se(me.conv(x)) + x"],
    ),
    "mangled name": (
        "def forward(self, x):\n    self.__hidden = x\n    return self.conv(self.__hidden)",
        "self.conv(self.__hidden)",
        ["    return self.se(self.conv(self.__hidden))"],
    ),
    "autocast block": (
        "def forward(self, x):\n    with torch.autocast('cpu', torch.bfloat16):\n        return self.conv(x)",
        "self.conv(x)",
        ["        return self.se(self.conv(x))"],
    ),
    "augmented assignment": (
        "def forward(self, x):\n    y = self.conv(x)\n    y += x  # shortcut\n    return y",
        "y += x",
        ["    y = self.se(y)"],
    ),
    "augmented assignment to an attribute": (
        "def forward(self, x):\n    self.y = self.conv(x)\n    self.y += x; return self.y",
        "self.y += x",
        ["    self.y += x; self.y = self.se(self.y); return self.y"],
    ),
    "augmented assignment to an item": (
        "def forward(self, x):\n    outs = [self.conv(x)]\n    outs[-1] += x\n    return outs[-1]",
        "outs[-1] += x",
        ["    outs[-1] = self.se(outs[-1])"],
    ),
    "augmented assignment on the line of if": (
        "def forward(self, x):\n    y = self.conv(x)\n    if self.ready: y += x\n    return y",
        "y += x",
        ["    if self.ready: y += x; y = self.se(y)"],
    ),
    "augmented assignment over several lines": (
        "def forward(self, x):\n    y = self.conv(x)\n    y += (\n        x)\n    return y",
        "y += (\n            x)",
        ["    y = self.se(y)"],
    ),
    "positional-only and keyword-only": (
        "def forward(self, x, /, *more, scale: float = 2.0, **rest) -> torch.Tensor:\n    return self.conv(x) * scale",
        "self.conv(x)",
        ["    return self.se(self.conv(x)) * scale"],
    ),
    "docstring over several lines": (
        'def forward(self, x):\n    """Text\n  that is indented less.\n    """\n    return self.conv(x)',
        "self.conv(x)",
        ["    return self.se(self.conv(x))"],
    ),
    "randomness of Python": (
        "def forward(self, x):\n    return self.conv(x) + torch.rand(()) if self.training else self.conv(x)",
        "self.conv(x)",
        ["    return self.conv(x) + torch.rand(()) if self.training else self.se(self.conv(x))"],
    ),
}


@pytest.mark.parametrize("form", WRAPS)
def test_a_value_is_wrapped(form: str) -> None:
    body, expression, after = WRAPS[form]
    host = block(body).eval()
    author = Author(host, sample())
    edit = Wrap(author.at(expression), "se")
    assert [line[1:] for line in changed_lines(author, edit) if line[0] == "+"] == ["    " + line for line in after]
    if form != "randomness of Python":
        check(author, [edit])
    else:
        same_runs(host, author.edited([edit], {"se": Gate()}), *author.arguments)


def test_tabs_stay_tabs() -> None:
    module = written(
        "class Block(nn.Module):\n\tdef forward(self, x):\n"
        "\t\tif x.ndim:\n\t\t\ty = x * 2\n\t\t\ty += x\n\t\treturn y\n"
    )
    author = Author(module.Block(), sample())
    edit = Wrap(author.at("y += x"), "se")
    assert changed_lines(author, edit) == ["+\t\t\ty = self.se(y)"]
    check(author, [edit])


def test_each_element_of_a_comprehension_is_wrapped() -> None:
    host = block("def forward(self, x):\n    return sum([layer(x) for layer in self.layers])").eval()
    author = Author(host, sample())
    edit = Wrap(author.at("layer(x)"), "se")
    assert changed_lines(author, edit)[1] == "+        return sum([self.se(layer(x)) for layer in self.layers])"
    check(author, [edit], calls=2)


def test_edits_of_one_method_go_together() -> None:
    host = block("def forward(self, x):\n    y = self.bn(self.conv(x))\n    y += x\n    return self.act(y)").eval()
    author = Author(host, sample())
    edits = [
        Wrap(author.at("self.act(y)"), "d"),
        Wrap(author.at("self.conv(x)"), "a"),
        Wrap(author.at("y += x"), "c"),
        Wrap(author.at("self.bn(self.conv(x))"), "b"),
        Entry("x", "e"),
        Wrap(author.at("self.conv(x)"), "f"),
    ]
    assert [line for line in changed_lines(author, *edits) if line[0] == "+"] == [
        "+        x = self.e(x)",
        "+        y = self.b(self.bn(self.f(self.a(self.conv(x)))))",
        "+        y = self.c(y)",
        "+        return self.d(self.act(y))",
    ]
    check(author, edits, **{name: Gate() for name in "abcdef"})


def test_a_value_of_several_is_gated_behind_its_statement() -> None:
    host = block("def forward(self, x):\n    a, b = self.conv(x).chunk(2, 1)\n    return a * b").eval()
    author = Author(host, sample())
    author.at("a * b")
    edit = Behind(author.text_at("a, b = self.conv(x).chunk(2, 1)"), "se", "a")
    assert changed_lines(author, edit) == ["+        a = self.se(a)"]
    check(author, [edit])
    with pytest.raises(Unfit, match="does not set one variable"):
        edited(author.method, [Behind(edit.span, "se")])
    with pytest.raises(Unfit, match="no variable"):
        edited(author.method, [Behind(edit.span, "se", "torch")])


SHARES = {
    "one reader": ("return self.conv(x) + x", [0], ["return self.conv(self.se(x)) + x"]),
    "one statement": (
        "return self.conv(x) + self.bn(x) + x",
        [0, 1],
        ["x_se = self.se(x)", "return self.conv(x_se) + self.bn(x_se) + x"],
    ),
    "two statements": (
        "y = self.conv(x)\nreturn y + self.bn(x) + x",
        [0, 1],
        ["x_se = self.se(x)", "y = self.conv(x_se)", "return y + self.bn(x_se) + x"],
    ),
    "the variable is set by the last reader": (
        "y = self.conv(x)\nx = y + self.bn(x)\nreturn x * 2",
        [0, 1],
        ["x_se = self.se(x)", "y = self.conv(x_se)", "x = y + self.bn(x_se)"],
    ),
    "a reader in a branch before": (
        "y = 0\nif self.ready:\n    y = self.conv(x)\nreturn y + self.bn(x) + x",
        [0, 1],
        ["x_se = self.se(x)", "    y = self.conv(x_se)", "return y + self.bn(x_se) + x"],
    ),
    "both branches": (
        "if self.ready:\n    y = self.conv(x) + self.bn(x)\nelse:\n    y = self.act(x)\nreturn y + x",
        [0, 1, 2],
        ["    x_se = self.se(x)", "    y = self.conv(x_se) + self.bn(x_se)", "    y = self.act(self.se(x))"],
    ),
    "on the line of if": (
        "if self.ready: return self.conv(x) + self.bn(x)\nreturn x",
        [0, 1],
        ["if self.ready: x_se = self.se(x); return self.conv(x_se) + self.bn(x_se)"],
    ),
    "in a loop": (
        "y = 0\nfor layer in self.layers:\n    y = y + layer(x)\nreturn y + self.conv(x)",
        [0, 1],
        ["x_se = self.se(x)", "    y = y + layer(x_se)", "return y + self.conv(x_se)"],
    ),
    "the new name is in use": (
        "x_se = 1\nreturn self.conv(x) + self.bn(x) * x_se",
        [0, 1],
        ["x_se_ = self.se(x)", "return self.conv(x_se_) + self.bn(x_se_) * x_se"],
    ),
}


@pytest.mark.parametrize("form", SHARES)
def test_readers_share_one_call(form: str) -> None:
    body, readers, after = SHARES[form]
    host = block("def forward(self, x):\n" + textwrap.indent(body, "    ")).eval()
    author = Author(host, sample())
    names = [node for node in author.method.syntax.nodes if isinstance(node, ast.Name) and node.id == "x"]
    loads = sorted(span_of(node) for node in names if isinstance(node.ctx, ast.Load))
    edit = Share(tuple(loads[index] for index in readers), "se")
    added = [line[1:] for line in changed_lines(author, edit) if line[0] == "+"]
    assert added == ["        " + line for line in after]
    check(author, [edit])


REFUSED_SHARES = {
    "set on another way": (
        "y = self.conv(x)\nif y.ndim == 5:\n    x = y\nreturn y + self.bn(x)",
        (0, 2),
        "x is set again in line",
    ),
    "no reader runs always": (
        "if self.ready:\n    y = self.conv(x)\nif y.ndim == 4:\n    y += x\nreturn y",
        (0, 1),
        "straight way",
    ),
    "set by the loop": (
        "z = self.conv(x)\nfor layer in self.layers:\n    z = layer(x) + z\n    x = z\nreturn z",
        (0, 1),
        "x is set again in line",
    ),
    "before an elif": (
        "if not self.ready:\n    return x\nelif self.conv(x).ndim + self.bn(x).ndim:\n    return x * 2",
        (1, 2),
        "no statement can stand before",
    ),
}


@pytest.mark.parametrize("form", REFUSED_SHARES)
def test_readers_on_no_straight_way_are_refused(form: str) -> None:
    body, readers, reason = REFUSED_SHARES[form]
    author = Author(block("def forward(self, x):\n" + textwrap.indent(body, "    ")), sample())
    spans = tuple(author.text_at("x", index) for index in readers)
    with pytest.raises(Unfit, match=reason):
        edited(author.method, [Share(spans, "se")])


def test_readers_in_a_loop_share_a_call_each_time() -> None:
    body = "def forward(self, x):\n    for layer in self.layers:\n        y = layer(x) + x\n        x = y\n    return y"
    host = block(body).eval()
    author = Author(host, sample())
    check(author, [Share((author.text_at("x", 0), author.text_at("x", 1)), "se")], calls=2)


def test_a_lambda_shares_by_a_walrus() -> None:
    host = block("forward = lambda self, x: self.conv(x) + self.bn(x) + x").eval()
    author = Author(host, sample())
    edit = Share((author.text_at("x", 0), author.text_at("x", 1)), "se")
    assert changed_lines(author, edit)[1].strip("+ ") == (
        "forward = lambda self, x: self.conv((x_se := self.se(x))) + self.bn(x_se) + x"
    )
    check(author, [edit])
    check(author, [Entry("x", "se")])


@pytest.mark.parametrize(
    ("body", "after"),
    [
        ("def forward(self, x):\n    '''Doc.'''\n    return self.conv(x) + x", "        x = self.se(x)"),
        (
            "def forward(self, x): return self.conv(x) + x",
            "    def forward(self, x): x = self.se(x); return self.conv(x) + x",
        ),
        ("def forward(self, *, x):\n    # why\n    return self.conv(x) + x", "        x = self.se(x)"),
    ],
)
def test_a_parameter_is_gated_at_entry(body: str, after: str) -> None:
    host = block(body).eval()
    author = Author(host, **{"x": sample()})
    edit = Entry("x", "se")
    assert [line for line in changed_lines(author, edit) if line[0] == "+"] == ["+" + after]
    same_runs(host, author.edited([edit], {"se": Gate()}), x=author.keywords["x"])
    with pytest.raises(Unfit, match="no parameter"):
        edited(author.method, [Entry("self", "se")])


KEEPS = {
    "plain": ("return x * self.gate(x)", "x * self.gate(x)", "x", "return x"),
    "product of two": ("return x * self.gate(x) * self.bn(x)", "x * self.gate(x)", "x", "return x * self.bn(x)"),
    "a sum stays a sum": (
        "return 2 * ((x + 1) * self.gate(x))",
        "(x + 1) * self.gate(x)",
        "x + 1",
        "return 2 * ((x + 1))",
    ),
    "a sum alone": ("y = (x + 1) * self.gate(x)\nreturn y", "(x + 1) * self.gate(x)", "x + 1", "y = x + 1"),
    "right side": ("y = self.gate(x)*self.bn(x)\nreturn y", "self.gate(x)*self.bn(x)", "self.bn(x)", "y = self.bn(x)"),
    "glued": ("return(x + 1) * self.gate(x)", "(x + 1) * self.gate(x)", "x + 1", "return(x + 1)"),
    "method": (
        "return self.conv(x).mul(self.gate(x)) + x",
        "self.conv(x).mul(self.gate(x))",
        "self.conv(x)",
        "return self.conv(x) + x",
    ),
}


@pytest.mark.parametrize("form", KEEPS)
def test_a_gate_goes_and_its_operand_stays(form: str) -> None:
    body, product, part, after = KEEPS[form]
    host = block("def forward(self, x):\n" + textwrap.indent(body, "    "))
    author = Author(host, sample())
    edit = Keep(author.at(product), author.text_at(part))
    assert [line.strip("+ ") for line in changed_lines(author, edit) if line[0] == "+"] == [after]
    author.edited([edit], {})(sample())


def test_an_operand_that_stays_can_be_wrapped_and_one_that_goes_cannot() -> None:
    host = block("def forward(self, x):\n    return self.conv(x) * self.gate(x) * self.bn(x)")
    author = Author(host, sample())
    product = author.at("self.conv(x) * self.gate(x)")
    whole = author.at("self.conv(x) * self.gate(x) * self.bn(x)")
    part, gate = author.at("self.conv(x)"), author.at("self.gate(x)")
    edits = [Keep(product, part), Wrap(part, "a"), Wrap(product, "b"), Keep(whole, product)]
    assert changed_lines(author, *edits)[1].strip("+ ") == "return self.b(self.a(self.conv(x)))"
    with pytest.raises(Unfit, match="removes what another"):
        edited(author.method, [Keep(product, part), Wrap(gate, "se")])
    with pytest.raises(Unfit, match="no part"):
        edited(author.method, [Keep(part, product)])


def test_statements_go() -> None:
    host = block(
        "def forward(self, x):\n    w = self.gate(x)  # weights\n    if self.ready:\n        w = w * 2\n"
        "    y = self.conv(x); w = w + 1; z = 1\n    x = x * w\n    return x"
    )
    author = Author(host, sample())
    author.at("self.gate(x)")
    statements = ["w = self.gate(x)", "w = w * 2", "w = w + 1"]
    edits = [*(Delete(author.text_at(each)) for each in statements), Replace(author.at("x * w"), "y + x")]
    assert changed_lines(author, *edits) == [
        "-        w = self.gate(x)  # weights",
        "-            w = w * 2",
        "-        y = self.conv(x); w = w + 1; z = 1",
        "-        x = x * w",
        "+            pass",
        "+        y = self.conv(x); pass; z = 1",
        "+        x = y + x",
    ]
    author.edited(edits, {})(sample())
    with pytest.raises(Unfit, match="removes what another"):
        edited(author.method, [*edits, Wrap(author.at("w * 2"), "se")])


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("def forward(*args):\n    return args[0].conv(args[1])", "no parameter for the module"),
        ("def forward(self, x):\n    me, self = self, 1\n    return me.conv(x)", "self is another thing"),
        ("def forward(self, x):\n    return (lambda self: self * 2)(x)", "self is another thing"),
        (
            "@staticmethod\ndef double(x):\n    return x * 2\ndef forward(self, x):\n    return self.double(x)",
            "no method of the module",
        ),
        (
            "@classmethod\ndef double(cls, x):\n    return x * 2\ndef forward(self, x):\n    return self.double(x)",
            "no method of the module",
        ),
    ],
)
def test_without_self_there_is_no_edit(body: str, reason: str) -> None:
    host = block(body)
    code, span = places(host, sample())[-1]
    with pytest.raises(Unfit, match=reason):
        edited(read_method(type(host), code), [Wrap(span, "se")])


def test_a_function_of_the_module_is_no_method() -> None:
    module = written(
        "def helper(x):\n    return x * 2\n"
        "class Block(nn.Module):\n    def forward(self, x):\n        return helper(x)\n"
    )
    with pytest.raises(Unfit, match="which is no method of Block"):
        Author(module.Block(), sample())


def test_a_helper_that_a_method_closes_over_is_no_method() -> None:
    module = written(
        "def make():\n    def helper(x):\n        return x * 2\n    class Block(nn.Module):\n"
        "        def forward(self, x):\n            return helper(x)\n    return Block\nBlock = make()\n"
    )
    helper = module.Block.forward.__closure__[0].cell_contents
    with pytest.raises(Unfit, match="which is no method of"):
        read_method(module.Block, helper.__code__)


def test_a_value_in_an_f_string_is_refused() -> None:
    host = block("def forward(self, x):\n    self.note = f'{self.conv(x).mean():.2f}'\n    return x")
    author = Author(host, sample())
    conv = next(span for _, span in author.places)
    with pytest.raises(Unfit, match="f-string"):
        edited(author.method, [Wrap(conv, "se")])


LEAVES = st.sampled_from(["x", "y", "2", "-x", "self.a(x)", "(x)", "é", "[x, y][0]", "(lambda z: z + y)(x)"])
FORMS = [
    "{0} + {1}",
    "({0}) * ({1})",
    "({0}\n  - {1})",
    "self.a(  # why\n  {0})",
    "({0} if {1} else x)",
    "max({0}, {1})",
    "sum([z * ({0}) for z in (1, {1})])",
    "sum(z for z in [{0}, {1}])",
    "{{'k': {0}}}['k']",
    "({0} or {1})",
    "[*[{0}, {1}]][-1]",
]
TREES = st.recursive(LEAVES, lambda tree: st.builds(str.format, st.sampled_from(FORMS), tree, tree), max_leaves=6)


@settings(max_examples=40, deadline=None)
@given(tree=TREES, data=st.data())
def test_any_expressions_are_wrapped(tree: str, data: st.DataObject) -> None:
    text = (
        f"class Block(nn.Module):\n    def forward(self, x, y, é=3):\n        v = ({tree})\n        v += x; return v\n"
    )
    cls = written(text).Block
    method = read_method(cls, cls.forward.__code__)
    loaded = [each for each in method.syntax.nodes if isinstance(getattr(each, "ctx", ast.Load()), ast.Load)]
    values = [each for each in loaded if isinstance(each, ast.Name | ast.BinOp | ast.Call | ast.IfExp | ast.BoolOp)]
    values = [each for each in values if not (isinstance(each, ast.Name) and each.id in ("self", "max", "sum"))]
    values += [each for each in method.syntax.nodes if isinstance(each, ast.AugAssign)]
    chosen = data.draw(st.lists(st.sampled_from(values), min_size=1, max_size=4))
    changed = edited(method, [Wrap(span_of(each), "se") for each in chosen])
    assert changed.text.count("self.se(") == len(chosen)
    host, twin = cls(), edited_class(cls, [changed])()
    seen: list[int] = []
    host.a = twin.a = lambda value: value + 7
    twin.se = lambda value: seen.append(value) or value
    assert twin.forward(5, 11) == host.forward(5, 11)


def test_the_diff_names_the_lines_of_the_file() -> None:
    host = block("def forward(self, x):\n    return self.conv(x)")
    author = Author(host, sample())
    text = difference(author.method, edited(author.method, [Wrap(author.at("self.conv(x)"), "se")]), "net.py")
    assert text == (
        "--- a/net.py\n+++ b/net.py\n@@ -16,2 +16,2 @@ Block.forward\n     def forward(self, x):\n"
        "-        return self.conv(x)\n+        return self.se(self.conv(x))\n"
    )
