"""Pages of the site on what there is: each recipe, layer and phrase, with code before and after and a picture."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import recipe_page

# For a phrase the first of these on which it means something is shown.
SHOWN_ON = (
    "resnet18",
    "mobilenetv2_100",
    "torchvision:vgg11_bn",
    "torchvision:googlenet",
    "seresnet18",
    "cs3darknet_l",
    "vit_tiny_patch16_224",
    "densenet121",
)
REMOVED_BY = {
    "attention": {"remove": {}},
    "stage": {"rewire": {"to": "csp"}},
    "activation": {"replace": {"activation": "silu"}},
}
Write = Callable[[str, str | bytes], None]


def write_pages(write: Write) -> None:
    """Write ``recipes/*.md``, ``layers/*.md`` and ``phrases/*.md``, each with an index, and their pictures."""
    for folder, make in (("recipes", _recipes), ("layers", _layers), ("phrases", _phrases)):
        rows = []
        for name, summary, text, picture in make():
            file = name.replace(" ", "-").replace(",", "")
            print(f"{folder}/{file}", file=sys.stderr)
            if picture is not None:
                write(f"{folder}/{file}.svg", picture)
                text += f"\n![{name}]({file}.svg)\n"
            write(f"{folder}/{file}.md", f"# {name}\n\n{text}")
            rows.append(f"| [{name}]({file}.md) | {summary} |")
        title = folder.capitalize()
        write(f"{folder}/index.md", "\n".join([f"# {title}", "", "| name | what it is |", "|---|---|", *rows]) + "\n")


def _recipes() -> Iterable[tuple[str, str, str, bytes | None]]:
    import sesurgery
    from sesurgery.recipe.recipe import recipe_text

    examples = {example.recipe: example for example in recipe_page.EXAMPLES}
    for recipe in sesurgery.list_recipes():
        example = examples[recipe.name]
        plan = sesurgery.plan(example.model, recipe.name, model_args=example.args)
        command = f"sesurgery preview {example.model}{recipe_page.flags(example)} --recipe {recipe.name}"
        text = f"{_sentence(recipe.summary)} {_sentence(recipe.when)}\n\nSource: {_sentence(recipe.source)}\n\n"
        text += f"```yaml\n{_without_comments(recipe_text(recipe.name))}```\n\n{_shown(command, plan)}"
        yield recipe.name, recipe.summary, text, _picture(example.model, recipe.name, model_args=example.args)


def _layers() -> Iterable[tuple[str, str, str, bytes | None]]:
    import sesurgery
    from sesurgery.attention import registry
    from sesurgery.errors import SurgeryError

    for entry in registry.REGISTRY.values():
        text = f"{_sentence(entry.summary)}\n\nSource: {entry.source or 'ours'}.\n\n"
        if entry.bound:
            text += f"Note: {entry.bound.format(size='the size at its place')}.\n\n"
        defaults = {"init": "paper", "reduce_from": "site", **entry.defaults}
        rows = [
            f"| `{key}` | {_as_written(defaults.get(key))} | {registry.choices(entry, key)} |"
            for key in sorted(entry.accepted)
        ]
        text += "\n".join(["| option | default | may be |", "|---|---|---|", *rows]) + "\n\n"
        for model, recipe in (("resnet18", "standard"), ("torchvision:shufflenet_v2_x1_0", "shufflenet-sk")):
            try:
                plan = sesurgery.plan(model, recipe, stages="4" if model == "resnet18" else None, module=entry.name)
            except SurgeryError:
                continue
            stages = " --stages 4" if model == "resnet18" else ""
            text += _shown(f"sesurgery preview {model} --recipe {recipe}{stages} --module {entry.name}", plan)
            break
        yield entry.name, entry.summary, text, _inside(entry)


def _as_written(value: object) -> str:
    return "-" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _phrases() -> Iterable[tuple[str, str, str, bytes | None]]:
    import sesurgery
    from sesurgery.errors import SurgeryError
    from sesurgery.recipe.phrases import PHRASES

    counts: dict[str, Mapping[str, int]] = {}
    for phrase in PHRASES.values():
        text = _sentence(phrase.summary) + "\n\n"
        if phrase.example[0]:
            text += f"```diff\n- {phrase.example[0]}\n+ {phrase.example[1]}\n```\n\n"
        picture = None
        for model in SHOWN_ON:
            counts.setdefault(model, sesurgery.places(model))
            rule = _rule_at(phrase)
            if not counts[model].get(phrase.name):
                continue
            try:
                plan = sesurgery.plan(model, {"name": "mine", "rules": [rule]})
            except SurgeryError:
                continue
            text += f"{counts[model][phrase.name]} in {model}:\n\n```yaml\nrules:\n{_as_yaml(rule)}```\n\n"
            text += _shown("", plan)
            picture = _picture(model, {"name": "mine", "rules": [rule]})
            break
        yield phrase.name, phrase.summary, text, picture


def _rule_at(phrase: Any) -> dict[str, Any]:
    where = {"where": {"type": "*Block*"}} if "module" in phrase.name else {}
    change = {"insert": {"module": "se"}} if phrase.role == "place" else REMOVED_BY.get(phrase.role, {"remove": {}})
    if phrase.role == "conv":
        change, where = {"replace": {"kernel": 5}}, {"where": {"kernel": 3}}
    if phrase.role == "norm":
        change = {"replace": {"norm": "group"}}
    return {**change, "at": phrase.name, **where}


def _as_yaml(rule: Mapping[str, Any]) -> str:
    import yaml

    text = yaml.safe_dump([dict(rule)], sort_keys=False, default_flow_style=None)
    return "".join(f"  {line}\n" for line in text.splitlines())


def _shown(command: str, plan: Any) -> str:
    """The first change of a plan as a diff, and its cost."""
    from sesurgery.report.layout import make_console, percent, plural, si
    from sesurgery.report.plan import print_diff

    out = io.StringIO()
    if plan.diffs:
        print_diff(make_console(out, width=100), plan.diffs[0])
    changes = [
        f"{si(getattr(plan.after, key) - getattr(plan.before, key), sign=True)} {name} "
        f"({percent(getattr(plan.before, key), getattr(plan.after, key)) or '0 %'})"
        for key, name in (("params", "parameters"), ("macs", "MACs"))
    ]
    cost = f"{plural(len(plan.edits), 'edit')}, {', '.join(changes)}."
    run = f"```bash\n{command}\n```\n\n" if command else ""
    body = "\n".join(line.rstrip() for line in out.getvalue().rstrip().splitlines())
    return f"{run}```diff\n{body}\n```\n\n{plan.model}: {cost}\n"


def _picture(model: str, recipe: Any, **given: Any) -> bytes | None:
    import sesurgery

    return sesurgery.draw(model, recipe, **given)


def _inside(entry: Any) -> bytes | None:
    """What a layer does, as a graph: its own forward on a map of 64 channels."""
    import torch

    from sesurgery.attention import Port, build
    from sesurgery.drawing.block import draw_forward
    from sesurgery.errors import SurgeryError, Unfit

    for shape in ((1, 64, 16, 16), (1, 64, 8, 8), (1, 49, 64), (1, 64)):
        try:
            layer = build(entry.name, Port(shape, len(shape) - 1 if len(shape) < 4 else 1))
            return draw_forward(layer, torch.zeros(shape), title=entry.name)
        except (SurgeryError, Unfit, ValueError):
            continue
    return None


def _without_comments(text: str) -> str:
    return "".join(f"{line}\n" for line in text.splitlines() if not line.startswith("#")).lstrip("\n")


def _sentence(text: str) -> str:
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else f"{text}."


if __name__ == "__main__":
    folder = Path(sys.argv[1])

    def to_disk(path: str, content: str | bytes) -> None:
        """Write one file."""
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content if isinstance(content, bytes) else content.encode())

    write_pages(to_disk)
