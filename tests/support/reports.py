"""Plans to print, and what is printed of them on a page of some width and encoding."""

from __future__ import annotations

import io
from typing import Any

from sesurgery.plans import (
    AppendBehind,
    AttentionLayer,
    Cost,
    Diff,
    Edit,
    Plan,
)
from sesurgery.report.layout import make_console
from sesurgery.report.plan import render_report

BEFORE = "def forward(self, x):\n    shortcut = x\n    x = self.conv(x)\n    x += shortcut\n    return x\n"


AFTER = BEFORE.replace("    x +=", "    x = self.se(x)\n    x +=")


def edit(stage: int, block: int, **changes: Any) -> Edit:
    path = f"layer{stage}.{block}.se"
    given: dict[str, Any] = {
        "action": "insert",
        "path": path,
        "at": "before residual add",
        "host": path[:-3],
        "stage": stage,
        "block": path[:-3],
        "channels": 256 * stage,
        "module": "se",
        "change": AppendBehind(AttentionLayer("se", {}, (1, 256 * stage, 7, 7), 1)),
        "params": 1000 * stage,
        "macs": 2_000_000,
    }
    return Edit(**{**given, **changes})


def plan(edits: tuple[Edit, ...] = (), **changes: Any) -> Plan:
    given: dict[str, Any] = {
        "model": "resnet50",
        "recipe": {"name": "standard"},
        "edits": edits or tuple(edit(4, block) for block in range(3)),
        "diffs": (Diff(("layer4.0", "layer4.1", "layer4.2"), "Bottleneck", BEFORE, AFTER),),
        "before": Cost(25_557_032, 4_089_184_256, 8_200_000_000),
        "after": Cost(27_136_424, 4_090_763_648, 8_203_000_000),
    }
    return Plan(**{**given, **changes})


def printed(draw: Any, *, width: int = 100, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    draw(make_console(stream, width=width))
    stream.flush()
    return raw.getvalue().decode(encoding)


def report(made: Plan, **kwargs: Any) -> Any:
    return lambda console: render_report(console, made, code=True, **kwargs)
