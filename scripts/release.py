#!/usr/bin/env python3
"""Build the wheel and the sdist, and prove them where there is no repository.

usage: python scripts/release.py check [--full] [--skip NAME] [--keep DIR]

  check         build both, look into them, install them, and use what was installed
  --full        in an environment with nothing in it: PyTorch's CPU build, then the wheel with all that it asks for
                (llama.cpp is compiled), and the starter models; needs a network. Otherwise in one that borrows the
                libraries of the Python that runs this, but not its Gieok; the starter models must be here
  --skip NAME   leave out one of: types, status, demo (may be said several times)
  --keep DIR    work there, and leave what was made: DIR/dist has the wheel and the sdist

Every child runs in an empty folder with a home of its own, and no setting that leads back to the repository.
0: all is well; 1: something is not, and the end of its log is shown.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
import tomllib
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from email import message_from_bytes
from pathlib import Path

import dev

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 7200.0  # for one child, against hangs; the longest compiles llama.cpp and fetches a GB
SDIST_HAS = ("CHANGELOG.md", "LICENSE", "README.md", "pyproject.toml")
GENERATED = ("PKG-INFO", ".gitignore")
LEADS_BACK = ("PYTHON", "GIEOK_", "VIRTUAL_ENV", "XDG_", "MYPY", "COVERAGE")
# What a user's own checker must see of the installed package: one error, and the type of an answer.
TYPED = """\
from engine import Engine, Hit


def first(engine: Engine) -> Hit:
    return engine.search("x")[0]


def wrong(engine: Engine) -> int:
    return engine.search("x")


def text(engine: Engine) -> None:
    reveal_type(engine.chat("x").text)
"""
SEEN = ("app.py:9: error: Incompatible return value type", 'app.py:13: note: Revealed type is "str"')
# Following them into torch takes mypy minutes; the guide tells users the same lines.
MYPY = """\
[mypy]
[mypy-torch.*,transformers.*,sentence_transformers.*,nncf.*]
follow_imports = skip
"""


class CheckFailed(Exception):
    """What was built is not fit to be released; the message says why."""


@dataclass(frozen=True)
class Bench:
    """The folder that a check works in, with an environment, an empty place to stand and a home."""

    folder: Path
    full: bool

    @property
    def dist(self) -> Path:
        return self.folder / "dist"

    @property
    def venv(self) -> Path:
        return self.folder / "venv"

    @property
    def bin(self) -> Path:
        return self.venv / ("Scripts" if os.name == "nt" else "bin")

    @property
    def python(self) -> str:
        return str(self.bin / ("python.exe" if os.name == "nt" else "python"))

    @property
    def gieok(self) -> str:
        return str(self.bin / ("gieok.exe" if os.name == "nt" else "gieok"))

    @property
    def site(self) -> Path:
        return Path(sysconfig.get_path("purelib", "venv", {"base": str(self.venv)}))

    @property
    def stand(self) -> Path:
        return self.folder / "nowhere"

    @property
    def wheel(self) -> Path:
        return next(self.dist.glob("*.whl"))

    @property
    def sdist(self) -> Path:
        return next(self.dist.glob("*.tar.gz"))

    def variables(self) -> dict[str, str]:
        """Return the environment of every child: nothing of Gieok's or Python's, and a home of its own."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(LEADS_BACK)}
        home = str(self.folder / "home")
        kept |= dict.fromkeys(("HOME", "USERPROFILE", "APPDATA", "LOCALAPPDATA"), home)
        kept |= {"PIP_CACHE_DIR": str(self.folder / "cache"), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        kept |= {"CMAKE_BUILD_PARALLEL_LEVEL": str(os.cpu_count() or 1)}
        if not self.full:
            kept["GIEOK_MODELS"] = models_here()
        return kept


def models_here() -> str:
    """Return where the Python that runs this has its models."""
    from engine.layout import models_dir

    return str(models_dir())


def run(bench: Bench, title: str, *command: str, cwd: Path | None = None, status: int = 0) -> str:
    """Run a child, and return what it said; raises `CheckFailed` where its exit status is another, or none comes."""
    log = bench.folder / "log" / f"{title}.log"
    with log.open("wb") as output:
        child = subprocess.Popen(
            command, cwd=cwd or bench.stand, env=bench.variables(), stdin=subprocess.DEVNULL,
            stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            ended: int | str = child.wait(SECONDS)
        except subprocess.TimeoutExpired:
            ended = f"nothing after {SECONDS:.0f} s"
        finally:
            child.kill()
            child.wait()
    said = log.read_bytes().decode("utf-8", "replace")
    if ended != status:
        tail = "\n".join(said.splitlines()[-25:])
        raise CheckFailed(f"{tail}\n{title}: ended with {ended}, expected {status}")
    return said


# What is built, and what is in it


def build(bench: Bench) -> None:
    """Make the wheel and the sdist of this checkout."""
    run(bench, "build", sys.executable, "-m", "hatchling", "build", "-d", str(bench.dist), cwd=ROOT)


def moved() -> dict[str, str]:
    """Return where the wheel has what is no file of engine/ in the checkout, such as the catalogue beside the code."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    found: dict[str, str] = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    return found


def code() -> dict[str, bytes]:
    """Return every file of engine/, by its name in the checkout."""
    files = (path for path in (ROOT / "engine").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in files}


def look_inside(bench: Bench) -> None:
    """Compare both with the checkout. Raises `CheckFailed`."""
    held = package(bench)
    compare("the wheel", held, code() | {there: (ROOT / here).read_bytes() for here, there in moved().items()})
    with zipfile.ZipFile(bench.wheel) as wheel:
        info = {name.partition(".dist-info/")[2]: wheel.read(name) for name in wheel.namelist() if name not in held}
    if info.keys() != {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}:
        raise CheckFailed(f"the wheel's dist-info holds {sorted(info)}")
    check_metadata(info["METADATA"])
    unpacked = {name: data for name, data in archived(bench.sdist) if name not in GENERATED}
    compare("the sdist", unpacked, code() | {name: (ROOT / name).read_bytes() for name in (*SDIST_HAS, *moved())})


def package(bench: Bench) -> dict[str, bytes]:
    """Return what the wheel holds for site-packages, but what says so."""
    with zipfile.ZipFile(bench.wheel) as wheel:
        return {name: wheel.read(name) for name in wheel.namelist() if ".dist-info/" not in name}


def archived(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the files of an sdist, by their names below its folder."""
    with tarfile.open(path) as tar:
        for member in tar:
            file = tar.extractfile(member)
            if file is not None:
                yield member.name.partition("/")[2], file.read()


def compare(what: str, held: dict[str, bytes], wanted: dict[str, bytes]) -> None:
    """Raise `CheckFailed` unless the names and the bytes are the same."""
    lacks, more = sorted(wanted.keys() - held.keys()), sorted(held.keys() - wanted.keys())
    other = sorted(name for name in wanted.keys() & held.keys() if wanted[name] != held[name])
    if lacks or more or other:
        raise CheckFailed(f"{what} lacks {lacks}, has besides {more}, and differs in {other}")


def check_metadata(data: bytes) -> None:
    """Raise `CheckFailed` unless an index would take the metadata (as packaging reads them), with README's text."""
    from packaging.metadata import InvalidMetadata, Metadata

    try:
        metadata = Metadata.from_email(data, validate=True)
    except* InvalidMetadata as wrong:
        raise CheckFailed("; ".join(str(one) for one in wrong.exceptions)) from None
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    described = str(message_from_bytes(data).get("Description-Content-Type"))
    if metadata.description != readme or described != "text/markdown":
        raise CheckFailed("the metadata hold another description than README.md")


# Where it is installed


def prepare(bench: Bench) -> None:
    """Make the environment: an empty one, or one that borrows the libraries of the Python that runs this."""
    pip = [] if bench.full else ["--without-pip"]
    run(bench, "venv", getattr(sys, "_base_executable", sys.executable), "-m", "venv", *pip, str(bench.venv))
    if bench.full:
        install_torch(bench)
    else:  # a line of a .pth adds a folder, but not what .pth files in there add, such as this checkout
        lent = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
        (bench.site / "borrowed.pth").write_text("\n".join(sorted(lent)) + "\n", encoding="utf-8")


def install_torch(bench: Bench) -> None:
    *first, last = dev.torch_attempts(platform.system())
    for attempt in first:
        with contextlib.suppress(CheckFailed):
            run(bench, "torch", bench.python, "-m", "pip", "install", *attempt)
            return
    run(bench, "torch", bench.python, "-m", "pip", "install", *last)


def install(bench: Bench, artefact: Path) -> None:
    """Install the wheel or the sdist; in a full check with all that it asks for, in the versions tested."""
    again = ["--force-reinstall"] if (bench.site / "engine").exists() else []
    if bench.full:
        pip = [bench.python, "-m", "pip", "install", *(again and [*again, "--no-deps"])]
        run(bench, f"install {artefact.name}", *pip, "-c", str(ROOT / "requirements.lock"), str(artefact))
        return
    pip = [sys.executable, "-m", "pip", "--python", bench.python, "install", "--ignore-installed", *again]
    offline = ["--no-deps", "--no-index", "--no-build-isolation"]
    run(bench, f"install {artefact.name}", *pip, *offline, str(artefact))


# What is done with what was installed


def install_wheel(bench: Bench) -> None:
    """Install the wheel, and see that what lies there is what it holds."""
    install(bench, bench.wheel)
    compare("what the wheel installs", installed(bench), package(bench))


def install_sdist(bench: Bench) -> None:
    """Install the sdist in the wheel's place: the package that pip builds of it is the same."""
    install(bench, bench.sdist)
    compare("what the sdist installs", installed(bench), package(bench))


def installed(bench: Bench) -> dict[str, bytes]:
    """Return the files of the package in the environment, and what lies beside it."""
    files = {path for path in (bench.site / "engine").rglob("*") if path.is_file() and path.suffix != ".pyc"}
    files |= {path for there in moved().values() if (path := bench.site / there).is_file()}
    return {path.relative_to(bench.site).as_posix(): path.read_bytes() for path in files}


def located(bench: Bench) -> None:
    """Raise `CheckFailed` unless the package comes from the environment, and the checkout is out of reach."""
    code = "import engine, sys; print(engine.__file__, *sys.path, sep='\\n')"
    file, *paths = run(bench, "import", bench.python, "-c", code).splitlines()
    if not Path(file).resolve().is_relative_to(bench.venv.resolve()):
        raise CheckFailed(f"engine is imported from {file}")
    back = [path for path in paths if path and (Path(path).resolve() / "engine/__init__.py").exists()]
    if {Path(path).resolve() for path in back} != {bench.site.resolve()}:
        raise CheckFailed(f"engine lies in {back}")


def helps(bench: Bench) -> None:
    """Ask both spellings of the command for their help."""
    asked = [run(bench, "help", *command, "--help") for command in ([bench.python, "-m", "engine"], [bench.gieok])]
    if asked[0] != asked[1] or "usage: gieok" not in asked[0]:
        raise CheckFailed("`gieok --help` and `python -m engine --help` differ")


def types(bench: Bench) -> None:
    """Let mypy check a small program against the installed package: py.typed works, and says what is wrong."""
    project = bench.folder / "typed"
    project.mkdir(exist_ok=True)
    (project / "app.py").write_text(TYPED, encoding="utf-8")
    (project / "mypy.ini").write_text(MYPY, encoding="utf-8")
    mypy = [sys.executable, "-m", "mypy", "--strict", "--python-executable", bench.python, "app.py"]
    said = run(bench, "types", *mypy, cwd=project, status=1)
    if not all(line in said for line in SEEN) or "Found 1 error in 1 file" not in said:
        raise CheckFailed(f"mypy says of the installed package:\n{said}")


def status(bench: Bench) -> None:
    """See that the catalogue is found, and the starter models are."""
    if bench.full:
        run(bench, "pull", bench.gieok, "--quiet", "models", "pull", "starter")
    said = run(bench, "status", bench.gieok, "--profile", "starter", "status")
    if "smollm2-135m-instruct" not in said or "NOT INSTALLED" in said:
        raise CheckFailed(f"the starter models are not found:\n{said}")


def demo(bench: Bench) -> None:
    """Run the product's main job."""
    run(bench, "demo", bench.python, "-m", "engine", "demo")


Steps = dict[str, Callable[[Bench], None]]
MAY_SKIP: Steps = {"types": types, "status": status, "demo": demo}


def check(bench: Bench, skip: Sequence[str]) -> None:
    """Do all of it, a line each; raises `CheckFailed` at the first that is not as it should be."""
    for name in ("dist", "nowhere", "home", "log"):
        (bench.folder / name).mkdir(parents=True, exist_ok=True)
    looks: Steps = {"build": build, "contents": look_inside, "environment": prepare}
    wheel: Steps = {"install": install_wheel, "import": located, "help": helps}
    wheel |= {name: use for name, use in MAY_SKIP.items() if name not in skip}
    # of the sdist the same files are installed, which is all that is left to see
    sdist: Steps = {"install": install_sdist, "import": located}
    for kind, steps in (("", looks), ("wheel: ", wheel), ("sdist: ", sdist)):
        for name, step in steps.items():
            begun = time.monotonic()
            step(bench)
            print(f"{kind}{name:<{24 - len(kind)}}ok  {time.monotonic() - begun:6.1f} s", flush=True)


def parsed(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("release.py", description=(__doc__ or "").partition("\n")[0])
    verb = parser.add_subparsers(required=True).add_parser("check", help="build both, install them, and use them")
    verb.add_argument("--full", action="store_true", help="in an environment with nothing in it")
    verb.add_argument("--skip", action="append", default=[], choices=MAY_SKIP, help="leave one out")
    verb.add_argument("--keep", type=Path, metavar="DIR", help="work there, and leave what was made")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    given = parsed(arguments)
    with tempfile.TemporaryDirectory(prefix="gieok-release-", ignore_cleanup_errors=True) as temporary:
        folder = (given.keep or Path(temporary)).resolve()
        if folder.is_relative_to(ROOT) or (folder / "venv").exists():
            print(f"{folder} lies in the repository, or was used before; name another one", file=sys.stderr)
            return 1
        try:
            check(Bench(folder, given.full), given.skip)
        except CheckFailed as failure:
            print(failure, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
