"""Run the notebooks and store their outputs: ``python notebooks/build.py [NAME...]``.

``--check`` stores nothing and says where a fresh run prints something else than what is stored. Pictures are not
compared. What a run leaves beside its outputs (times, versions, ids) is taken away, so that a run changes nothing else.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
# What a notebook needs that is no dependency of the project's: without it, it is left as it is.
NEEDS = {"05_yolo": ("ultralytics", "onnx")}

# Numbers of a training, and what is said of them: they differ from one processor to another.
MEASURED = re.compile(r"\d[\d.,]*|no difference beyond noise|better|worse")


def normal(notebook: Any) -> Any:
    """The notebook without what differs from run to run."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for index, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{index:02d}", {}
        if cell.cell_type == "code":
            cell.outputs = [output for output in map(_normal_output, _joined(cell.outputs)) if output]
    return notebook


def words(notebook: Any) -> list[tuple[int, str]]:
    """Everything that the code cells print, with the cell's number; pictures and measured numbers left out."""
    found = []
    for index, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            text = output.get("text") or data.get("text/markdown") or data.get("text/plain") or output.get("evalue", "")
            if cell.source.startswith("# measured"):
                text = MEASURED.sub("?", text)
            found.append((index, "picture" if "image/png" in data else text))
    return found


def run(path: Path) -> Any:
    """The notebook, executed by a kernel of its own. Raises ``CellExecutionError``."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    quiet = ["--log-level=ERROR"]
    client = NotebookClient(
        notebook, timeout=300, kernel_name="python3", record_timing=False, extra_arguments=quiet
    )
    client.execute(cwd=str(HERE))
    return normal(notebook)


def main(arguments: list[str]) -> int:
    """Run the notebooks named, or all."""
    import nbformat

    check = "--check" in arguments
    names = [name for name in arguments if not name.startswith("-")]
    bad = 0
    for path in sorted(HERE.glob("*.ipynb")):
        if names and path.stem not in names and path.name not in names:
            continue
        missing = [package for package in NEEDS.get(path.stem, ()) if find_spec(package) is None]
        if missing:
            print(f"{path.name} is left as it is: it needs {', '.join(missing)}")
            continue
        stored = words(nbformat.read(path, as_version=4))
        notebook = run(path)
        if not check:
            nbformat.write(notebook, path)
            continue
        for old, new in _differences(stored, words(notebook)):
            bad += 1
            print(f"{path.name}: stored {old}, now {new}")
    return 1 if bad else 0


def _differences(stored: list[tuple[int, str]], now: list[tuple[int, str]]) -> list[tuple[Any, Any]]:
    if len(stored) != len(now):
        return [(f"{len(stored)} outputs", f"{len(now)}")]
    return [(old, new) for old, new in zip(stored, now, strict=True) if old != new]


def _joined(outputs: list[Any]) -> list[Any]:
    """Prints of one cell arrive in pieces of chance."""
    joined: list[Any] = []
    for output in outputs:
        if joined and output.output_type == "stream" and joined[-1].get("name") == output.name:
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


def _normal_output(output: Any) -> Any:
    output.pop("execution_count", None) if output.output_type != "execute_result" else None
    if "metadata" in output:
        output.metadata = {}
    return output


def _quietly() -> None:
    """Kernels write their history and their sockets to a folder that goes away."""
    folder = tempfile.mkdtemp(prefix="sesurgery-notebooks-")
    os.environ.update(IPYTHONDIR=folder, JUPYTER_RUNTIME_DIR=folder, JUPYTER_PLATFORM_DIRS="1")
    os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"  # a progress bar that nothing here shows
    os.environ.setdefault("OMP_NUM_THREADS", "1")


if __name__ == "__main__":
    _quietly()
    sys.exit(main(sys.argv[1:]))
