"""What PyInstaller asks an installed Gieok for: where the hook lies that freezes programs with it."""

from __future__ import annotations

from pathlib import Path


def get_hook_dirs() -> list[str]:
    """Return this folder, as the entry point `pyinstaller40` has to."""
    return [str(Path(__file__).parent)]
