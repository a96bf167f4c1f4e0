"""Assemble the pages of the site in a folder, for MkDocs: ``python docs/make_site.py && mkdocs build --strict``.

MkDocs with Material and mkdocstrings: the pages are Markdown that reads on the forge as well; mkdocstrings reads
docstrings without importing the package; ``--strict`` makes an error of every warning, of a dead link above all.

Pages come from docs/, README.md and CONTRIBUTING.md, as ``python docs/make.py`` left them. The rest is made here: one
for each public name, the command line from typer, and pages of recipes, layers and phrases from real runs.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).parent
ROOT = DOCS.parent
REPOSITORY = "https://github.com/sesurgery/sesurgery"
RAW = "https://raw.githubusercontent.com/sesurgery/sesurgery"
sys.path[:0] = [str(DOCS), str(ROOT)]

import site_catalogue  # noqa: E402
from shown_runs import command_output  # noqa: E402

# Pages that are no page of docs/, by where they stand on the site.
MOVED = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
COMMANDS = ("apply", "preview", "inspect", "draw", "places", "gates", "compare", "search", "revert", "merge", "eject")
LISTS = (
    "recipes",
    "recipes list",
    "recipes show",
    "recipes check",
    "recipes schema",
    "layers",
    "layers list",
    "layers show",
)
_LINK = re.compile(r"(!?\[[^\]]*\]\()([^)#\s]+)(#[^)]*)?\)")
_PICTURE = re.compile(r"<!-- picture: (?P<command>[^\n]*?) -->")


def assemble(folder: Path) -> None:
    """Write every page."""
    if folder.exists():
        shutil.rmtree(folder)

    def write(path: str, content: str | bytes) -> None:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content if isinstance(content, bytes) else content.encode())

    for source in [*MOVED, *(str(path.relative_to(ROOT)) for path in sorted(DOCS.rglob("*.md")))]:
        text = (ROOT / source).read_text(encoding="utf-8")
        if source.startswith("docs/howto/"):
            text = _PICTURE.sub(lambda found, source=source: _drawn(found["command"], source, write), text)
        write(on_site(source), _linked(text, source))
    for extra in [*(DOCS / "pictures").iterdir(), DOCS / "recipe-schema.json", DOCS / "site.css"]:
        write(str(extra.relative_to(DOCS)), extra.read_bytes())
    write("cli.md", _command_line())
    _api(write)
    site_catalogue.write_pages(write)


def on_site(source: str) -> str:
    """Where a page of the repository stands on the site."""
    return MOVED.get(source, source.removeprefix("docs/"))


def _linked(text: str, source: str) -> str:
    """Links between pages become those of the site; what is no page is on the forge."""

    def renewed(link: re.Match[str]) -> str:
        begin, target, anchor = link[1], link[2], link[3] or ""
        target = re.sub(rf"^{re.escape(REPOSITORY)}/(?:blob|tree|raw)/main/", "/", target)
        target = target.replace(f"{RAW}/main/", "/", 1)
        if "://" in target or target.startswith("mailto:"):
            return link[0]
        path = ROOT / target[1:] if target.startswith("/") else (ROOT / source).parent / target
        inside = os.path.relpath(path, ROOT)
        if inside in MOVED or inside.startswith("docs/"):
            place = os.path.relpath(on_site(inside), Path(on_site(source)).parent)
            return f"{begin}{place}{anchor})"
        return f"{begin}{REPOSITORY}/{'tree' if path.is_dir() else 'blob'}/main/{inside}{anchor})"

    parts = re.split(r"(^```.*?^```$)", text, flags=re.DOTALL | re.MULTILINE)  # code is no link
    return "".join(part if part.startswith("```") else _LINK.sub(renewed, part) for part in parts)


def _drawn(command: str, source: str, write: site_catalogue.Write) -> str:
    """Run a command that draws, and show its picture."""
    name = f"{Path(source).stem}.svg"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / name
        command_output(command.replace("FILE.svg", str(file)))
        write(f"howto/{name}", file.read_bytes())
    return f"```bash\n{command.replace('FILE.svg', name)}\n```\n\n![{command}]({name})"


def _command_line() -> str:
    """Each command's help, as typer prints it."""
    parts = ["# Command line\n", "What `--help` prints.\n", f"```text\n{command_output('sesurgery --help')}```\n"]
    for name in (*COMMANDS, *LISTS, "completion"):
        parts.append(f"## {name}\n\n```text\n{command_output(f'sesurgery {name} --help')}```\n")
    return "\n".join(parts)


def _api(write: site_catalogue.Write) -> None:
    """A page for each public name, from its docstring."""
    import sesurgery
    from sesurgery import _HOME, extend

    names = [name for name in sesurgery.__all__ if name != "__version__"]
    homes = {name: f"sesurgery.{_HOME[name]}.{name}" for name in names}
    homes |= {f"extend.{name}": f"sesurgery.extend.{name}" for name in extend.__all__}
    homes |= {"testing.assert_forward": "sesurgery.testing.assert_forward"}
    rows = []
    for name, home in homes.items():
        options = "    options:\n      heading_level: 1\n      show_root_full_path: false\n"
        write(f"api/{name}.md", f"::: {home}\n{options}")
        rows.append(f"- [`{name}`]({name}.md)")
    functions = [row for row in rows if row[4].islower()]
    classes = [row for row in rows if row not in functions]
    text = "\n".join(["# Python", "", "Functions:", "", *functions, "", "Classes:", "", *classes, ""])
    write("api/index.md", text)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    assemble(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "pages")
