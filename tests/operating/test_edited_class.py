"""The class of an edited host: made without a trace, pickled as its base, gone with its last instance."""

from __future__ import annotations

import abc
import ast
import copy
import gc
import importlib
import inspect
import io
import linecache
import pickle
import subprocess
import sys
import textwrap
import traceback
import types
import weakref
from pathlib import Path
from typing import Any, Generic, TypeVar

import pytest
import torch
from torch import nn
from written import Author, Gate, same_runs, written

from sesurgery.errors import Unfit
from sesurgery.operating.compiled_method import EditedMethod
from sesurgery.operating.edited_class import edited_class, edited_methods, original_class
from sesurgery.rewriting.author_source import read_method, span_of
from sesurgery.rewriting.source_edits import Wrap, edited

CALLS: list[Any] = []
T = TypeVar("T")


class Told(nn.Module):
    def __init_subclass__(cls, **arguments: Any) -> None:
        CALLS.append(cls)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


class Registering(type):
    def __new__(mcs, *arguments: Any) -> Any:
        CALLS.append("new")
        return super().__new__(mcs, *arguments)

    def __init__(cls, *arguments: Any) -> None:
        CALLS.append("init")
        super().__init__(*arguments)

    def __setattr__(cls, name: str, value: Any) -> None:
        CALLS.append(name)
        super().__setattr__(name, value)


class Registered(nn.Module, metaclass=Registering):
    """With a doc."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


class Abstract(nn.Module, abc.ABC):
    @abc.abstractmethod
    def forward(self, x: torch.Tensor) -> torch.Tensor: ...


class Concrete(Abstract):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


class Typed(nn.Module, Generic[T]):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


class Slotted(Told):
    __slots__ = ("cache",)

    def __init__(self) -> None:
        super().__init__()
        self.cache = 3

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


class Reducing(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.restored = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2

    def __reduce__(self) -> Any:
        return type(self), (self.width,), self.__getstate__()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "restored": "packed"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        assert state["restored"] == "packed"
        self.__dict__.update(state, restored=True)


def operated(host: nn.Module, text: str = "x * 2", **gates: Gate) -> nn.Module:
    author = Author(host, torch.randn(2, 3))
    edit = Wrap(author.at(text), "se")
    host.__class__ = edited_class(type(host), [edited(author.method, [edit])])
    host.add_module("se", Gate(3.0))
    return host


@pytest.mark.parametrize("cls", [Told, Registered, Concrete, Typed, Slotted])
def test_nobody_is_told_of_the_class(cls: type[nn.Module]) -> None:
    CALLS.clear()
    x = torch.randn(2, 3)
    host = operated(cls())
    kind = type(host)
    assert not CALLS
    assert torch.equal(host(x), x * 6)
    assert isinstance(host, cls)
    assert not isinstance(cls(), kind)
    assert kind.__mro__ == (kind, *cls.__mro__)
    described = ("__name__", "__qualname__", "__module__", "__doc__")
    assert [getattr(kind, name) for name in described] == [getattr(cls, name) for name in described]
    assert original_class(kind) is cls
    assert [method.attribute for method in edited_methods(kind)] == ["forward"]
    assert repr(host).startswith(f"{cls.__name__}(")
    assert inspect.getsource(kind) == inspect.getsource(cls)
    host.__class__ = cls
    assert torch.equal(host(x), x * 2)


def test_equal_edits_share_a_class_and_it_goes_with_the_last_host() -> None:
    one, other = operated(Told()), operated(Told())
    kind = weakref.ref(type(one))
    assert type(other) is kind()
    filename = type(one).forward.__code__.co_filename
    linecache.checkcache()
    assert "self.se(x * 2)" in linecache.getlines(filename)[type(one).forward.__code__.co_firstlineno]
    del one, other
    gc.collect()
    assert kind() is None
    assert filename not in linecache.cache
    assert Told.__subclasses__() == [Slotted]


@pytest.mark.parametrize("host", [Told(), Typed(), Slotted(), Reducing(5)], ids=lambda host: type(host).__name__)
def test_copies_keep_the_class(host: nn.Module) -> None:
    host = operated(copy.deepcopy(host))
    x = torch.randn(2, 3)
    buffer = io.BytesIO()
    torch.save(host, buffer)
    buffer.seek(0)
    pickled = [pickle.loads(pickle.dumps(host, protocol)) for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)]
    for twin in (copy.deepcopy(host), copy.copy(host), torch.load(buffer, weights_only=False), *pickled):
        assert type(twin) is type(host)
        assert torch.equal(twin(x), x * 6)
        assert getattr(twin, "width", 5) == 5
        assert getattr(twin, "cache", 3) == 3
        assert getattr(twin, "restored", True) is True


NET = """
import torch
from torch import nn


class Block(nn.Module):
    def forward(self, x):
        return x * 2
"""
SAVE = """
import sys; sys.path[:0] = {paths!r}
from test_edited_class import operated
import net
torch.save([operated(net.Block()), operated(Block())], "hosts.pt")
"""
LOAD = """
import sys; sys.path[:0] = {paths!r}
import net
x = torch.randn(2, 3)
for host, cls in zip(torch.load("hosts.pt", weights_only=False), (net.Block, Block)):
    assert type(host) is not cls and isinstance(host, cls)
    assert torch.equal(host(x), x * 6)
"""
GONE = """
import sys; sys.path[:0] = {paths!r}
from sesurgery.errors import ModelError
try:
    torch.load("hosts.pt", weights_only=False)
except ModelError as error:
    assert "other arguments" in str(error)
else:
    raise AssertionError
"""


def test_a_fresh_process_rebuilds_the_class(tmp_path: Path) -> None:
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "support")]

    def run(net: str, script: str) -> None:
        (tmp_path / "net.py").write_text(net)
        (tmp_path / "script.py").write_text(net + script.format(paths=paths))
        command = [sys.executable, "script.py"]
        ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr

    run(NET, SAVE)
    # Where the source has changed since, the edited text is the one that was saved.
    run(NET.replace("x * 2", "x * 20").replace("class", "\n\nclass"), LOAD)
    run(NET.replace("self, x", "self, x, y=1"), GONE)


def test_super_runs_the_edited_method_of_a_base_class() -> None:
    module = written(
        "class Base(nn.Module):\n    def forward(self, x):\n        return x * 2\n"
        "class Middle(Base):\n    pass\n"
        "class Block(Middle):\n    def forward(self, x):\n        return super().forward(x) + 1\n"
    )
    host = module.Block()
    author = Author(host, torch.randn(2, 3))
    edit = Wrap(author.at("x * 2"), "se")
    assert author.method.owner is module.Base
    same_runs(host, author.edited([edit], {"se": Gate()}), torch.randn(2, 3))
    x = torch.randn(2, 3)
    twin = author.edited([edit], {"se": Gate(3.0)})
    assert torch.equal(twin(x), x * 6 + 1)
    assert torch.equal(copy.deepcopy(twin)(x), x * 6 + 1)
    assert isinstance(twin, module.Block)
    both = edited_class(
        module.Block,
        [
            edited(author.method, [edit]),
            edited(author.methods["Block.forward"], [Wrap(author.at("super().forward(x) + 1"), "last")]),
        ],
    )
    twin = module.Block()
    twin.__class__ = both
    twin.se, twin.last = Gate(3.0), Gate(2.0)
    assert torch.equal(twin(x), (x * 6 + 1) * 2)


def test_an_edited_host_is_edited_again() -> None:
    module = written(
        "class Base(nn.Module):\n    def forward(self, x):\n        return x * 2\n"
        "class Block(Base):\n    def forward(self, x):\n        return super().forward(x) + 1\n"
    )
    host = module.Block()
    x = torch.randn(2, 3)
    kinds = []
    for name, text in (("a", "x * 2"), ("b", "super().forward(x) + 1"), ("c", "x * 2"), ("d", "x * 2")):
        author = Author(host, x)
        author.at("x * 2")
        if name == "b":
            author.method = author.methods["Block.forward"]
        host = author.edited([Wrap(author.text_at(text), name)], {name: Gate(3.0)})
        kinds.append(type(host))
    torch.testing.assert_close(host(x), (x * 54 + 1) * 3)
    assert torch.equal(copy.deepcopy(host)(x), host(x))
    assert type(pickle.loads(pickle.dumps(host))) is kinds[-1]
    assert kinds[-1].__bases__[0] is original_class(kinds[-1]) is module.Block
    assert {method.owner for method in edited_methods(kinds[-1])} == {module.Base, module.Block}


def test_a_method_of_a_base_class_and_its_other_names_are_overridden() -> None:
    module = written(
        "class Base(nn.Module):\n    def helper(self, x):\n        return x * 2\n    again = helper\n"
        "class Block(Base):\n    def forward(self, x):\n        return self.helper(x) + self.again(x)\n"
    )
    host = module.Block()
    author = Author(host, torch.randn(2, 3))
    x = torch.randn(2, 3)
    twin = author.edited([Wrap(author.at("x * 2"), "se")], {"se": Gate(3.0)})
    assert torch.equal(twin(x), x * 12)


SCOPES = """
def make(factor):
    count = 0
    class Block(nn.Module):
        scale: float = 2.0
        def __init__(self):
            super().__init__()
            self.__weight = 3.0
        def __times(self, x, *, by=factor):
            return x * self.__weight * by
        def forward(self, x, power=[1]):
            nonlocal count
            global runs
            count += 1
            runs = count
            assert super().extra_repr() == '' and __class__ is Block
            y = self.__times(x)
            y = sum([z * factor for z in y.split(1)])
            return y ** power[0]
        def runs(self):
            return count
    return Block
Block = make(5.0)
"""


def cells(function: types.FunctionType) -> dict[str, types.CellType]:
    return dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))


def test_scopes_are_the_authors() -> None:
    module = written(SCOPES)
    host = module.Block()
    x = torch.randn(2, 3)
    for text in ("x * self.__weight * by", "z * factor", "y ** power[0]", "self.__times(x)"):
        author = Author(host, x)
        author.at("y ** power[0]" if text == "self.__times(x)" else text)
        edit = Wrap(author.text_at(text), "se")
        twin = author.edited([edit], {"se": Gate()})
        same_runs(host, twin, x)
        name = author.method.attribute
        new, old = vars(type(twin))[name], author.method.function
        assert new.__globals__ is old.__globals__
        assert cells(new) == cells(old)
        for each in ("defaults", "kwdefaults", "annotations", "qualname", "name", "module", "doc"):
            assert getattr(new, f"__{each}__") == getattr(old, f"__{each}__")
        assert new.__code__.co_qualname == old.__code__.co_qualname
        assert new.__code__.co_firstlineno == old.__code__.co_firstlineno
        assert inspect.signature(new) == inspect.signature(old)
        before = host.runs()
        twin(x)
        assert host.runs() == module.runs == before + 1


DECORATORS = """
runs = []
def plain(function):
    runs.append(function.__name__)
    @functools.wraps(function)
    def wrapper(self, *args, **kwargs):
        runs.append('called')
        return function(self, *args, **kwargs)
    return wrapper
def configured(scale):
    def decorate(function):
        calls = 0
        def wrapper(self, x):
            nonlocal calls
            calls += 1
            return function(self, x) * scale
        return wrapper
    return decorate
class Object:
    def __init__(self, function):
        functools.update_wrapper(self, function)
        self.function = function
    def __get__(self, module, owner=None):
        return functools.partial(self, module)
    def __call__(self, module, x):
        return self.function(module, x)
class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)
        self.drop = nn.Dropout(0.5)
    {decorators}
    def {name}(self, x):
        y = self.conv(x)
        return self.drop(y) * 2{rest}
"""


@pytest.mark.parametrize(
    "decorators",
    [
        "@torch.no_grad()",
        "@torch.inference_mode()",
        "@torch.enable_grad()",
        "@torch.autocast('cpu', torch.bfloat16)",
        "@torch.jit.ignore",
        "@torch.jit.unused",
        "@torch.jit.export",
        "@plain",
        "@configured(3.0)",
        "@Object",
        "@torch._dynamo.disable",
        "@torch.compile(backend='eager')",
        "@plain\n    @torch.no_grad()\n    @configured(2.0)\n    @torch.autocast('cpu', torch.bfloat16)\n    @Object",
    ],
)
def test_decorators_stay_and_do_not_run_again(decorators: str) -> None:
    module = written(DECORATORS.format(decorators=decorators, name="forward", rest=""))
    host = module.Block()
    x = torch.randn(2, 4, 5, 5)
    torch.compiler.set_stance("force_eager")  # while its places are noted
    author = Author(host, x)
    torch.compiler.set_stance("default")
    edit = Wrap(author.at("self.conv(x)"), "se")
    decorating = [each for each in module.runs if each != "called"]
    twin = author.edited([edit], {"se": Gate()})
    assert [each for each in module.runs if each != "called"] == decorating
    same_runs(host, twin, x)
    assert twin.se.calls == 2
    assert inspect.unwrap(vars(type(twin))["forward"]) is not inspect.unwrap(vars(type(host))["forward"])
    assert vars(module.Block)["forward"] is not vars(type(twin))["forward"]


def test_a_property_that_computes_is_edited() -> None:
    rest = "\n    def forward(self, x):\n        self.x = x\n        return self.late"
    text = DECORATORS.format(decorators="@property", name="late", rest=rest).replace("late(self, x)", "late(self)")
    module = written(text.replace("y = self.conv(x)", "y = self.conv(self.x)"))
    host = module.Block()
    author = Author(host, torch.randn(2, 4, 5, 5))
    twin = author.edited([Wrap(author.at("self.conv(self.x)"), "se")], {"se": Gate()})
    same_runs(host, twin, torch.randn(2, 4, 5, 5))


def test_a_wrapper_that_cannot_be_copied_is_refused() -> None:
    module = written(
        "class Block(nn.Module):\n    @functools.lru_cache\n"
        "    def table(self, n):\n        return torch.arange(n) * 2\n"
        "    def forward(self, x):\n        return x + self.table(3)\n"
    )
    before = vars(module.Block)["table"]
    code = before.__wrapped__.__code__
    with pytest.raises(Unfit):
        edited_class(module.Block, [edited(read_method(module.Block, code), [])])
    assert before.__wrapped__.__code__ is code


def test_future_annotations_stay_strings() -> None:
    text = (
        "from __future__ import annotations\nfrom torch import nn\nclass Block(nn.Module):\n"
        "    def forward(self, x: Tensor) -> Tensor:\n"
        "        def inner(y: Nowhere): return y * 2\n        return inner(x)\n"
    )
    host = written(text, header="").Block()
    author = Author(host, torch.randn(2, 3))
    same_runs(host, author.edited([Wrap(author.at("y * 2"), "se")], {"se": Gate()}), torch.randn(2, 3))


def test_a_traceback_shows_the_edited_line_by_its_old_number() -> None:
    module = written("class Block(nn.Module):\n    def forward(self, x):\n        y = x * 2\n        return y.no\n")
    host = module.Block()
    line = module.Block.forward.__code__.co_firstlineno
    method = read_method(module.Block, module.Block.forward.__code__)
    product = next(each for each in method.syntax.nodes if isinstance(each, ast.BinOp))
    host.__class__ = edited_class(module.Block, [edited(method, [Wrap(span_of(product), "se")])])
    host.se = Gate()
    linecache.checkcache()
    with pytest.raises(AttributeError) as raised:
        host(torch.randn(2, 3))
    frame = traceback.extract_tb(raised.value.__traceback__)[-1]
    assert (frame.lineno, frame.line) == (line + 2, "return y.no")
    assert "Block.forward" in frame.filename
    source = inspect.getsource(type(host).forward)
    assert source == inspect.getsource(module.Block.forward).replace("x * 2", "self.se(x * 2)")


def test_stale_source_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "net_that_changes.py"
    file.write_text(NET)
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("net_that_changes")
    code = module.Block.forward.__code__
    assert read_method(module.Block, code).text.endswith("return x * 2\n")
    linecache.clearcache()
    file.write_text(NET.replace("x * 2", "x * 3"))
    with pytest.raises(Unfit, match="changed on disk since it was imported"):
        read_method(module.Block, code)
    file.write_text(NET + "\n\nprint('more')\n")
    assert read_method(module.Block, code).text.endswith("return x * 2\n")
    file.write_text("\n" + NET)
    linecache.clearcache()
    with pytest.raises(Unfit, match="changed on disk"):
        read_method(module.Block, code)
    file.unlink()
    with pytest.raises(Unfit, match=r"no source|changed on disk"):
        read_method(module.Block, code)
    namespace: dict[str, Any] = {}
    exec(NET, namespace)
    with pytest.raises(Unfit, match="there is no source"):
        read_method(namespace["Block"], namespace["Block"].forward.__code__)


def test_an_edit_that_fits_no_more_says_so() -> None:
    method = EditedMethod(Told, "gone", "Told.gone", "    def gone(self): pass\n", 3)
    with pytest.raises(Unfit, match="has no method gone"):
        edited_class(Told, [method])
    method = EditedMethod(Told, "forward", "Told.forward", "    def forward(self, x, y): pass\n", 3)
    with pytest.raises(Unfit, match="other arguments"):
        edited_class(Told, [method])
    method = EditedMethod(Told, "forward", "Told.forward", "    def forward(self, x: pass\n", 3)
    with pytest.raises(Unfit, match="no Python"):
        edited_class(Told, [method])


@pytest.fixture(scope="module")
def bottleneck() -> nn.Module:
    from torchvision.models.resnet import BasicBlock
    from torchvision.ops import SqueezeExcitation

    host = BasicBlock(8, 8).eval()
    author = Author(host, torch.randn(2, 8, 5, 5))
    edit = Wrap(author.at("self.bn2(out)"), "se")
    host.__class__ = edited_class(BasicBlock, [edited(author.method, [edit])])
    host.se = SqueezeExcitation(8, 4)
    return host


@pytest.mark.filterwarnings("ignore:`torch.jit.script")
def test_an_edited_block_compiles_exports_and_scripts(bottleneck: nn.Module) -> None:
    x = torch.randn(2, 8, 5, 5)
    expected = bottleneck(x)
    assert torch.equal(torch.compile(bottleneck, fullgraph=True, backend="eager")(x), expected)
    assert torch.equal(torch.export.export(bottleneck, (x,)).module()(x), expected)
    assert torch.equal(torch.jit.script(bottleneck)(x), expected)
    assert torch.equal(torch.fx.symbolic_trace(bottleneck)(x), expected)
    assert "out = self.se(self.bn2(out))" in inspect.getsource(type(bottleneck).forward)
    assert textwrap.dedent(inspect.getsource(bottleneck.forward)).startswith("def forward(self, x: Tensor)")
