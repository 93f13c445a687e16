"""Where the files of a model lie on this machine; looking is cheap, and offline."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path, PurePosixPath

from engine.config import ModelSpec
from engine.errors import ModelNotFound

HEADS = ("sparse_linear.safetensors", "colbert_linear.safetensors")  # what BGE-M3 has beside its model


def models_dir() -> Path:
    """Return where models live, which need not exist yet: `$GIEOK_MODELS`, else the user's data folder."""
    from platformdirs import user_data_path

    named = os.environ.get("GIEOK_MODELS")
    return Path(named).expanduser().absolute() if named else user_data_path("gieok", appauthor=False) / "models"


def locate(spec: ModelSpec) -> Path:
    """Return the local path of a model: an llm's (first) GGUF file, an embedding model's folder.

    Looks, but does not read or verify. Raises `ModelNotFound`.
    """
    path = _place(spec)
    if not installed(spec):
        raise _not_found(spec, path)
    return path


def installed(spec: ModelSpec) -> bool:
    """Return whether every file that the model needs is there."""
    path = _place(spec)
    if spec.source.path:
        return path.is_dir() if spec.kind == "embedding" else path.is_file()
    if spec.kind == "embedding":
        return bool(weights(path))
    return bool(spec.source.files) and all((home(spec) / target(spec, f)).is_file() for f in spec.source.files)


def weights(folder: Path) -> list[Path]:
    """Return the safetensors files of an embedding model's folder that hold the model, not one of its heads.

    sentence-transformers puts a model that only looks tokens up into a folder of its own, beginning with `0_`.
    """
    found = [path for path in folder.glob("*.safetensors") if path.name not in HEADS]
    return found or list(folder.glob("0_*/*.safetensors"))


def home(spec: ModelSpec) -> Path:
    """Return the folder of a model that was downloaded."""
    return models_dir() / spec.name


def target(spec: ModelSpec, file: str) -> str:
    """Return a file's name in the model's folder: a repository keeps its layout, a wheel's packages go."""
    return PurePosixPath(file).name if spec.source.package else file


def own(path: str) -> Path:
    """Return where a path that models.toml names leads; a relative one begins in the models folder."""
    named = Path(path)
    with contextlib.suppress(RuntimeError):  # the home of nobody: there is no such file
        named = named.expanduser()
    return models_dir() / named


def _place(spec: ModelSpec) -> Path:
    if spec.source.path:
        return own(spec.source.path)
    if spec.kind == "embedding" or not spec.source.files:
        return home(spec)
    return home(spec) / target(spec, spec.source.files[0])


def _not_found(spec: ModelSpec, path: Path) -> ModelNotFound:
    if spec.source.path:
        message = f"{spec.name}: there is no {path}. Correct source.path in models.toml."
    else:
        message = (
            f"{spec.name} is not on this machine. Where there is a network, `gieok models pull {spec.name}` gets it; "
            "elsewhere bring its files and add `--from FOLDER`."
        )
    if not spec.source.package:
        message += ' To try the small models of Engine(profile="starter"): `gieok models pull starter`.'
    return ModelNotFound(message, model=spec.name)
