"""What a file, a model or a package may be called, so that the name means one place on every system."""

from __future__ import annotations

import re
from pathlib import PureWindowsPath

# Windows cannot have these in a name, or reads `:` as a drive or stream and the devices as no file at all.
_UNSAFE = re.compile(r'[\x00-\x1f\x7f-\x9f<>:"|?*]')
_DEVICES = re.compile(r"(?i)\s*(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[\d¹²³])\s*(\..*)?")


def safe_name(name: str) -> str:
    """Return `name` where no system takes it for a place outside the model's folder. Raises `ValueError`."""
    path = PureWindowsPath(name)
    if (
        not path.parts
        or path.anchor
        or _UNSAFE.search(name)
        or any(_DEVICES.fullmatch(part) or part.endswith((".", " ")) for part in path.parts)  # ".." too
    ):
        raise ValueError("must be a relative path inside the model's folder")
    return name


def can_be_folder(name: str) -> bool:
    """Return whether a model may be called so; what has a slash, or ends in .gguf, is taken for a path."""
    try:
        return len(PureWindowsPath(safe_name(name)).parts) == 1 and not name.lower().endswith(".gguf")
    except ValueError:
        return False


def pinned(package: str) -> str:
    """Return `package` where it names one version. Raises `ValueError`."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9.+!_-]+", package):
        raise ValueError("must be NAME==VERSION")
    return package
