"""What figures were taken on, for the pages that give them."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import version
from pathlib import Path

_PACKAGES = ("torch", "torchvision", "timm", "safetensors")


def machine() -> str:
    """Processor, cores, system and versions in one line."""
    info = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*: (.+)", info.read_text()) if info.exists() else None
    cpu = named[1] if named else platform.processor() or platform.machine()
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    return f"{cpu}, {os.cpu_count()} cores, {system}, {', '.join(f'{name} {version(name)}' for name in _PACKAGES)}"
