"""The command as a process: light imports, closed pipes, ASCII."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from stand_in import run

import sesurgery


def python(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, timeout=60, env={**os.environ, **environment}
    )


LIGHT = (
    "",
    "--help",
    "apply --help",
    "recipes",
    "recipes show standard",
    "recipes --json",
    "layers",
    "layers show se --json",
    "places",
    "completion zsh",
)


@pytest.mark.parametrize("words", [words.split() for words in LIGHT])
def test_light_commands_do_not_import_torch(words: list[str]) -> None:
    code = (
        "import sys, sesurgery\nfrom sesurgery.cli.app import app\n"
        f"try:\n    app({words!r})\nexcept SystemExit as end:\n    assert end.code == 0, end.code\n"
        "heavy = {'torch', 'timm', 'torchvision', 'numpy'} & set(sys.modules)\nassert not heavy, heavy"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_a_reader_that_leaves_early_sees_no_traceback() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    words = [sys.executable, "-m", "sesurgery", "recipes"]
    done = subprocess.run(words, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writing)
    assert done.stderr == ""
    assert done.returncode == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no such device")
@pytest.mark.parametrize("words", [["recipes"], ["--help"], ["recipes", "--json"]])
def test_a_full_disk_is_one_line(words: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "sesurgery", *words], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert done.stderr == "error: the output cannot be written: No space left on device\n"
    assert done.returncode == 1


@pytest.mark.skipif(os.name != "posix", reason="a shell closes it")
def test_a_closed_stdout_is_one_line() -> None:
    command = f'"{sys.executable}" -m sesurgery recipes >&-'
    done = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, text=True, timeout=60)
    assert (done.stderr, done.returncode) == ("error: stdout is closed\n", 1)


LEAVING = """
import atexit, sys, threading, time
from sesurgery import __main__ as entry

def ends():
    sys.modules["torch"] = entry  # as if it had been imported
    atexit.register(lambda: print("at exit"))
    threading.Thread(target=lambda: (time.sleep(0.2), print("thread"))).start()
    print("done")
    raise SystemExit(3)

entry.main = ends
entry.run()
"""


def test_the_process_leaves_with_its_code_and_all_that_was_said() -> None:
    done = python("-c", LEAVING)
    assert (done.stdout.split("\n"), done.stderr, done.returncode) == (["done", "thread", "at exit", ""], "", 3)


def test_output_in_ascii_does_not_fail() -> None:
    done = python("-m", "sesurgery", "recipes", "show", "standard", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_listed() -> None:
    assert {"apply", "plan", "revert", "inspect", "save", "load", "SurgeryError", "FrozenValueError", "Recipe"} <= set(
        sesurgery.__all__
    )
    assert set(sesurgery.__all__) <= set(dir(sesurgery))
    with pytest.raises(AttributeError, match="aply"):
        _ = sesurgery.aply  # pyright: ignore[reportAttributeAccessIssue]
    assert run("--version").stdout.strip() == sesurgery.__version__
