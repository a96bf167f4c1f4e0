"""``python -m sesurgery``."""

from __future__ import annotations

from sesurgery.cli.app import main

if __name__ == "__main__":
    main()
