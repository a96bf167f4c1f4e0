"""The text of the files that ``eject`` writes."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from sesurgery.export.constructors import value_text
from sesurgery.export.differences import Differences, grouped
from sesurgery.export.hub import HUB_WEIGHTS, Hub
from sesurgery.export.names import WIDTH, Names

WEIGHTS = "weights.safetensors"
CHECK = "check.safetensors"

RUFF = """# The methods in model.py are their authors' text and keep their style; names, syntax and imports are checked.
line-length = 120

[lint]
select = ["E9", "F", "I"]
ignore = ["F841"]
"""

_HEAD = '''"""{about}

``build()`` makes it with the weights in {weights}. Written by sesurgery, which it does not need.
"""

from __future__ import annotations
'''

_GRAPHS = '''def call_in_graphs(host: GraphModule, name: str, value: str, users: tuple[str, ...]) -> None:
    """Call the child ``name`` on the value of one node; ``users`` take what it gives."""
    for graph in {id(each): each for each in vars(host).values() if isinstance(each, Graph)}.values():
        nodes = {node.name: node for node in graph.nodes}
        after = nodes[value]
        if after.op == "placeholder":
            after = [node for node in graph.nodes if node.op == "placeholder"][-1]
        with graph.inserting_after(after):
            call = graph.call_module(name, (nodes[value],))
        for user in users:
            nodes[user].replace_input_with(nodes[value], call)
'''

_CHECK = '''"""Proves that model.py gives what the operated model gave: its keys, and equal output on a stored input.

    python check.py{usage}

Ends with 0 where that holds. The figures are compared bit for bit; another processor may round otherwise.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors import safe_open

from model import build

HERE = Path(__file__).parent


def leaves(value):
    """Every tensor in an output, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    parts = value.values() if hasattr(value, "values") else value if isinstance(value, (list, tuple)) else ()
    return [leaf for part in parts for leaf in leaves(part)]


def main():
    """Build the model, run it and compare."""
    torch.set_num_threads(1)
    with safe_open(HERE / "{check}", "pt") as file:
        keys = json.loads(file.metadata()["keys"])
        given = {{name: file.get_tensor(name) for name in file.keys()}}
    model = build({base}pretrained=True)
    if list(model.state_dict()) != keys:
        return "the keys differ"
    torch.manual_seed(0)
    with torch.no_grad():
        outputs = leaves(model(*{inputs}))
    wanted = [given[f"output.{{index}}"] for index in range(len(outputs)) if f"output.{{index}}" in given]
    if len(wanted) != len(outputs) or f"output.{{len(outputs)}}" in given:
        return "the number of outputs differs"
    if all(torch.equal(one, other) for one, other in zip(outputs, wanted)):
        print(f"equal: {{len(keys)}} keys, {{len(outputs)}} outputs, every bit")
        return None
    for one, other in zip(outputs, wanted):
        torch.testing.assert_close(one, other, equal_nan=True)
    print(f"equal: {{len(keys)}} keys, {{len(outputs)}} outputs, but for rounding")
    return None


{factory}if __name__ == "__main__":
    sys.exit(main())
'''

_FACTORY = '''def base():
    """The model as it was before, made by the factory that the command names: ``package.module:factory``."""
    if len(sys.argv) != 2 or ":" not in sys.argv[1]:
        sys.exit("usage: python check.py package.module:factory, where factory() makes the model as it was before")
    module, _, name = sys.argv[1].partition(":")
    return getattr(importlib.import_module(module), name)()


'''


def model_text(
    about: str, differences: Differences, create: str | None, dtype: str | None, casts: bool, hub: Hub | None
) -> str:
    """model.py.

    Args:
        about: what it is, in one line.
        create: an expression for the base; None where the caller has to give it.
        dtype: expression for the dtype that the whole model has; None for float32.
        hub: the classes of transformers that load it, where they are to go along.
        casts: whether tensors have dtypes of their own, which the weights then decide.
    """
    names = differences.names
    body = [*names.sources, *differences.classes]
    if differences.graphs:
        body.append(_GRAPHS.rstrip())
    body += [_operate(differences), _build(create, dtype, casts, hub)]
    body += [hub.text.rstrip()] if hub else []
    text = "\n\n\n".join(body) + "\n"
    head = _HEAD.format(about=about, weights=HUB_WEIGHTS if hub else WEIGHTS) + "\n" + "\n".join(names.lines(text))
    return f"{head}\n\n\n{text}"


def bind_all(differences: Differences) -> None:
    """Import what the fixed texts need."""
    import copy
    from pathlib import Path

    from safetensors.torch import load_file
    from torch import nn
    from torch.fx import Graph, GraphModule

    names = differences.names
    names.fix("nn", nn, "torch")
    names.fix("load_file", load_file, "safetensors.torch")
    names.fix("Path", Path, "pathlib")
    if differences.needs_base:
        names.fix("deepcopy", copy.deepcopy, "copy")
    if differences.graphs:
        names.fix("Graph", Graph, "torch.fx")
        names.fix("GraphModule", GraphModule, "torch.fx")


def _operate(differences: Differences) -> str:
    lines = ["base = deepcopy(model)"] if differences.needs_base else []
    for paths, each in grouped(differences.lines):
        if len(paths) == 1:
            lines += [f'host = model.get_submodule("{paths[0]}")' if paths[0] else "host = model", *each]
        else:
            lines += [*_loop(paths), *("    " + line for line in each)]
    text = "\n".join(lines)
    doc = '"""Make of the model as its library has it what it became, in place."""'
    return "def operate(model: nn.Module) -> None:\n" + textwrap.indent(f"{doc}\n{text}", "    ")


def _loop(paths: Sequence[str]) -> list[str]:
    quoted = [f'"{path}"' for path in paths]
    one = f"for path in ({', '.join(quoted)}):"
    head = [one] if len(one) <= WIDTH - 4 else ["for path in (", *(f"    {each}," for each in quoted), "):"]
    return [*head, "    host = model.get_submodule(path)"]


def _build(create: str | None, dtype: str | None, casts: bool, hub: Hub | None) -> str:
    weights = HUB_WEIGHTS if hub else WEIGHTS
    create = hub.create if hub and hub.create else create
    parameter = "" if create else "base: nn.Module, "
    lines = [f"model = {create or 'base'}"]
    if not (hub and hub.create):
        lines.append("operate(model)")
    if dtype:
        lines.append(f"model.to({dtype})")
    loading = [f'file = Path(__file__).with_name("{weights}")']
    read = "load_file(file)"
    if hub and hub.prefix:
        read = f'{{key.removeprefix("{hub.prefix}"): tensor for key, tensor in load_file(file).items()}}'
    # The module's own dict keeps its version marks, by which some modules would else convert "old" weights.
    loading += (
        ["state = model.state_dict(keep_vars=True)", f"stored = {read}"] if casts else ["state = model.state_dict()"]
    )
    if casts:
        loading += ["for key, tensor in stored.items():", "    state[key].data = state[key].data.to(tensor.dtype)"]
        read = "stored"
    loading += [f"state.update({read})", "model.load_state_dict(state)"]
    of_base = "" if create else "\n\n``base`` is a new instance of the network as it was; it is changed in place.\n"
    doc = f'"""The model in eval mode, with its weights or with new ones.{of_base}"""'
    body = "\n".join([doc, *lines, "if pretrained:", *("    " + line for line in loading), "return model.eval()"])
    return f"def build({parameter}pretrained: bool = True) -> nn.Module:\n{textwrap.indent(body, '    ')}"


def check_text(inputs: Sequence[Any], leaves: dict[int, str], given: bool) -> str:
    """check.py.

    Args:
        inputs: positional arguments, whose tensors are stored under the names ``leaves`` has by id.
        given: whether the caller gives the base.
    """
    factory = _FACTORY if given else ""
    text = _CHECK.format(
        usage=" package.module:factory" if given else "",
        check=CHECK,
        base="base(), " if given else "",
        inputs=_input_text(tuple(inputs), leaves),
        factory=factory,
    )
    return text.replace("import json\n", "import importlib\nimport json\n", 1) if given else text


def _input_text(value: Any, leaves: dict[int, str]) -> str:
    if id(value) in leaves:
        return f'given["{leaves[id(value)]}"]'
    return value_text(value, Names(), lambda part: _input_text(part, leaves))
