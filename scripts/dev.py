#!/usr/bin/env python3
"""Set Gieok up from a fresh clone, and run it.

usage: python3 scripts/dev.py demo|test|lint|bench|clean [ARGUMENTS]

  demo    set up, then the product's main job on the starter models
  test    set up, then every test that needs no extra machine (pytest's arguments)
  lint    set up, then ruff and mypy (ruff check's arguments)
  bench   set up, then scripts/benchmark.py (its arguments)
  clean   remove what the set-up and the tools made in this folder

Needs Python 3.11 or newer, a C++ compiler and CMake; imports the standard library only, and needs no
activated environment. Everything it installs goes into .venv, the starter models into the models folder.
A finished step is remembered in .venv, so the next run starts at once and touches no network.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

MIN_PYTHON = (3, 11)
TORCH = "torch==2.13.0"
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
LLAMA = "llama-cpp-python"
LLAMA_ARCHIVE_SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
VOCABULARIES = "*/vendor/llama.cpp/models/ggml-vocab-*.gguf"
# Measured on Linux: .venv 2.0 GB; the models, pip's cache and the compiler's files come on top.
SETUP_BYTES = 4_000_000_000
BUILD_BYTES = 1_000_000_000
UNFINISHED = "unfinished"
CACHES = (".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis", "build", "dist")

# What each package manager calls them, in the order of TOOLS.
TOOLS = {"compiler": "a C++ compiler", "cmake": "CMake", "venv": "Python's venv module", "python": "Python"}
PACKAGES = {
    "apt-get": ("sudo apt-get install -y", ("g++", "cmake", "python3-venv", "python3.11-venv")),
    "dnf": ("sudo dnf install -y", ("gcc-c++", "cmake", "python3-pip", "python3.11")),
    "pacman": ("sudo pacman -S --needed", ("gcc", "cmake", "python", "python")),
    "zypper": ("sudo zypper install -y", ("gcc-c++", "cmake", "python3-pip", "python311")),
}
WINGET_COMPILER = (
    "winget install Microsoft.VisualStudio.2022.BuildTools --override "
    '"--passive --wait --add Microsoft.VisualStudio.Workload.VCTools --includeRecommended"'
)
WINGET_PYTHON = "winget install Python.Python.3.13"
BREW_PYTHON = "brew install python@3.13"
DESKTOP = {
    "Darwin": ("xcode-select --install", "brew install cmake", BREW_PYTHON, BREW_PYTHON),
    "Windows": (WINGET_COMPILER, "winget install Kitware.CMake", WINGET_PYTHON, WINGET_PYTHON),
}


class SetupFailed(Exception):
    """The set-up cannot go on; the message says why and what to do next."""


@dataclass(frozen=True)
class Checkout:
    """The folders of one clone."""

    root: Path

    @property
    def venv(self) -> Path:
        return self.root / ".venv"

    @property
    def python(self) -> Path:
        return self.venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    @property
    def state(self) -> Path:
        return self.venv / "gieok-setup.json"

    @property
    def wheels(self) -> Path:
        return self.venv / "share" / "wheels"

    @property
    def vocabulary(self) -> Path:
        return self.venv / "share" / "vocab"

    def text(self, name: str) -> str:
        return (self.root / name).read_text(encoding="utf-8")

    def log(self, title: str) -> Path:
        return self.venv / "log" / f"{title}.log"


@dataclass(frozen=True)
class Step:
    """One part of the set-up, done when the state holds its key.

    `copies`: it writes into site-packages, so that an interruption may leave half a package that pip
    would trust; the environment is then made anew.
    """

    name: str
    key: str
    run: Callable[[Checkout], None]
    copies: bool = True


def tell(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


# What is done, and what is left to do


def digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def pinned(lock: str, name: str) -> str:
    """The exact requirement of `name` in the lock's text."""
    found = re.search(rf"^{re.escape(name)}==[^\s;]+", lock, re.MULTILINE)
    if found is None:
        raise SetupFailed(f"requirements.lock has no {name}. Restore it: git checkout requirements.lock")
    return found[0]


def plan(checkout: Checkout, command: str) -> list[Step]:
    """Every step of the set-up for `command`, in order; a key changes with all that the step depends on."""
    lock = checkout.text("requirements.lock")
    # A moved clone breaks the paths inside an environment, so the folder belongs to the key.
    python = digest(platform.python_version(), sysconfig.get_platform(), str(checkout.root))
    packages = digest(python, TORCH, lock)
    steps = [
        Step("environment", python, make_environment),
        Step("torch", digest(python, TORCH), install_torch),
        Step("llama", digest(python, pinned(lock, LLAMA)), build_llama, copies=False),
        Step("packages", packages, install_packages),
        Step("project", digest(packages, checkout.text("pyproject.toml")), install_project),
    ]
    if command == "test":
        steps.append(Step("vocabulary", digest(python, LLAMA_ARCHIVE_SHA256), fetch_vocabulary, copies=False))
    return steps


def read_state(checkout: Checkout) -> dict[str, str]:
    """Step name to key of what is done; empty where the environment is absent, damaged or half made."""
    try:
        state = json.loads(checkout.state.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    usable = isinstance(state, dict) and UNFINISHED not in state and checkout.python.exists()
    return state if usable else {}


def write_state(checkout: Checkout, state: Mapping[str, str]) -> None:
    aside = checkout.state.with_suffix(".tmp")
    aside.write_text(json.dumps(state, indent=1), encoding="utf-8")
    aside.replace(checkout.state)


def due(steps: list[Step], state: Mapping[str, str]) -> list[Step]:
    return [step for step in steps if state.get(step.name) != step.key]


def set_up(checkout: Checkout, command: str) -> None:
    """Do the steps that are not done yet; each is recorded only after it has ended well."""
    todo = due(plan(checkout, command), read_state(checkout))
    if not todo:
        return
    check_machine(checkout, {step.name for step in todo})
    begun = time.monotonic()
    for step in todo:
        run_step(checkout, step)
    tell(f"set up in {clock(time.monotonic() - begun)}")


def run_step(checkout: Checkout, step: Step) -> None:
    if step.name == "environment":
        empty_environment(checkout)
    state = read_state(checkout)
    if step.copies:
        write_state(checkout, {**state, UNFINISHED: step.name})
    step.run(checkout)
    write_state(checkout, {**state, step.name: step.key})


def empty_environment(checkout: Checkout) -> None:
    """Put an empty folder in the place of .venv; one that this script did not make is kept beside it."""
    if checkout.venv.exists() and not checkout.state.exists():
        aside = checkout.root / f".venv.before-{time.strftime('%Y%m%d-%H%M%S')}"
        checkout.venv.rename(aside)
        tell(f"the .venv that was here is kept as {aside.name}")
    discard(checkout)
    checkout.log("").parent.mkdir(parents=True)


def discard(checkout: Checkout) -> None:
    """Remove .venv; renamed first, so that an interruption leaves nothing that looks like an environment."""
    trash = checkout.root / ".venv.trash"
    for folder in (trash, checkout.venv):
        if folder.exists():
            folder.rename(trash)
            shutil.rmtree(trash)


# What the machine must have


def check_machine(checkout: Checkout, todo: set[str]) -> None:
    """Raise SetupFailed naming all that the steps in `todo` need and the machine lacks."""
    problems: list[str] = []
    needed = {"venv": "environment", "compiler": "llama", "cmake": "llama"}
    lacking = [tool for tool, step in needed.items() if step in todo and not has(tool)]
    if lacking:
        problems += [f"missing: {', '.join(TOOLS[tool] for tool in lacking)}. Install with:"]
        problems += [f"    {line}" for line in install_lines(platform.system(), shutil.which, lacking)]
    if "torch" in todo:
        problems += lack_of_disk(checkout.root, SETUP_BYTES)
    if "llama" in todo:
        problems += lack_of_disk(Path(tempfile.gettempdir()), BUILD_BYTES)
    if problems:
        raise SetupFailed("\n".join([*problems, "Then run the same command again."]))


def has(tool: str) -> bool:
    if tool == "venv":
        return all(importlib.util.find_spec(name) is not None for name in ("venv", "ensurepip"))
    if tool == "cmake":
        return shutil.which("cmake") is not None
    return has_compiler(platform.system(), os.environ)


def has_compiler(system: str, environ: Mapping[str, str]) -> bool:
    found = any(shutil.which(name) for name in (environ.get("CXX", ""), "c++", "g++", "clang++", "cl"))
    if system == "Windows":
        # Visual Studio is not on PATH; CMake finds it through its installer.
        installer = Path(environ.get("ProgramFiles(x86)", "C:/Program Files (x86)"))
        return found or (installer / "Microsoft Visual Studio/Installer/vswhere.exe").exists()
    if system == "Darwin":
        # /usr/bin/c++ is there without the tools too, as a stub that opens a dialogue.
        tools = subprocess.run(["xcode-select", "-p"], capture_output=True, check=False)
        return found and tools.returncode == 0
    return found


def install_lines(system: str, which: Callable[[str], str | None], lacking: list[str]) -> list[str]:
    """The commands that install what is lacking on this system."""
    chosen = [list(TOOLS).index(tool) for tool in lacking]
    if system in DESKTOP:
        return [DESKTOP[system][number] for number in chosen]
    for manager, (command, packages) in PACKAGES.items():
        if which(manager):
            return [" ".join([command, *(packages[number] for number in chosen)])]
    return [f"your system's package manager: {', '.join(TOOLS[tool] for tool in lacking)}"]


def lack_of_disk(folder: Path, needed: int) -> list[str]:
    free = shutil.disk_usage(folder).free
    if free >= needed:
        return []
    return [f"disk: {folder} has {free / 1e9:.1f} GB free and needs {needed / 1e9:.0f} GB; free some."]


# The steps


def make_environment(checkout: Checkout) -> None:
    # Inside an environment sys.executable would be removed with it; its base stays.
    base = getattr(sys, "_base_executable", sys.executable)
    watch(checkout, "environment", [base, "-m", "venv", str(checkout.venv)])


def torch_attempts(system: str) -> list[list[str]]:
    """pip's arguments, to be tried in turn.

    On Linux the plain version may be several GB of CUDA. A version ending in +cpu never is, so it is
    first asked of whatever pip is configured with, then of PyTorch's own index of CPU builds.
    """
    if system != "Linux":
        return [[TORCH]]
    return [[f"{TORCH}+cpu"], ["--index-url", TORCH_CPU_INDEX, f"{TORCH}+cpu"]]


def install_torch(checkout: Checkout) -> None:
    *first, last = torch_attempts(platform.system())
    for attempt in first:
        with contextlib.suppress(SetupFailed):
            return pip(checkout, "torch", "install", "--no-deps", *attempt)
    return pip(checkout, "torch", "install", "--no-deps", *last)


def build_llama(checkout: Checkout) -> None:
    """Compile the wheel, or take it from pip's cache; installed later, so that stopping it harms nothing."""
    target = pinned(checkout.text("requirements.lock"), LLAMA)
    tell(f"{LLAMA}: compiled once for this machine, five to seven minutes on two cores")
    pip(checkout, LLAMA, "wheel", "-v", "--no-deps", "-w", str(checkout.wheels), target)


def install_packages(checkout: Checkout) -> None:
    lock = str(checkout.root / "requirements.lock")
    pip(checkout, "packages", "install", "--no-deps", "--find-links", str(checkout.wheels), "-r", lock)


def install_project(checkout: Checkout) -> None:
    # The build tools come from the lock: nothing is fetched.
    pip(checkout, "gieok", "install", "--no-deps", "--no-build-isolation", "-e", str(checkout.root))


def fetch_vocabulary(checkout: Checkout) -> None:
    """Take the vocabulary files out of llama-cpp-python's source archive, for the tests."""
    target = pinned(checkout.text("requirements.lock"), LLAMA)
    with tempfile.TemporaryDirectory(dir=checkout.venv) as work:
        pip(checkout, "vocabulary", "download", "--no-deps", "--no-binary", LLAMA, "-d", work, target)
        archive = next(Path(work).glob("*.tar.gz"))
        check_archive(archive, LLAMA_ARCHIVE_SHA256)
        unpack(archive, VOCABULARIES, Path(work, "vocab"))
        shutil.rmtree(checkout.vocabulary, ignore_errors=True)
        checkout.vocabulary.parent.mkdir(exist_ok=True)
        Path(work, "vocab").replace(checkout.vocabulary)


def check_archive(archive: Path, sha256: str) -> None:
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise SetupFailed(
            f"{archive.name} is not the archive that was tested (sha256 {found}, expected {sha256}).\n"
            "Run `pip cache purge`, then the same command again; if it stays so, do not use that archive."
        )


def unpack(archive: Path, pattern: str, folder: Path) -> None:
    """Copy the files whose path in the archive matches, by their bare names, into `folder`."""
    folder.mkdir()
    with tarfile.open(archive) as tar:
        for member in tar:
            source = tar.extractfile(member) if fnmatch.fnmatchcase(member.name, pattern) else None
            if source is not None:
                with source, (folder / PurePosixPath(member.name).name).open("wb") as target:
                    shutil.copyfileobj(source, target)


# Child processes


def environment(checkout: Checkout) -> dict[str, str]:
    """The variables of every child: UTF-8, all cores to compile, and no setting that leads out of .venv."""
    outside = {"PYTHONHOME", "PYTHONPATH", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "VIRTUAL_ENV"}
    variables = {name: value for name, value in os.environ.items() if name not in outside}
    cores = str(os.cpu_count() or 1)
    wished = {"CMAKE_BUILD_PARALLEL_LEVEL": cores, "GIEOK_TEST_VOCAB": str(checkout.vocabulary)}
    ours = {"PYTHONUTF8": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PIP_USER": "0"}
    return {**wished, **variables, **ours}


def pip(checkout: Checkout, title: str, *arguments: str) -> None:
    watch(checkout, title, [str(checkout.python), "-m", "pip", *arguments])


def watch(checkout: Checkout, title: str, command: list[str]) -> None:
    """Run a command into a log, showing the time it takes; SetupFailed shows the log's end."""
    log = checkout.log(title)
    begun = time.monotonic()
    with log.open("wb") as output, group(command, environment(checkout), output.fileno()) as child:
        show_until_done(title, log, child, begun)
    if child.returncode != 0:
        tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-25:]
        raise SetupFailed("\n".join([*tail, "", failure_advice(title, log)]))
    tell(f"{title}: done in {clock(time.monotonic() - begun)}")


def failure_advice(title: str, log: Path) -> str:
    return (
        f"{title}: failed. The whole log: {log}\n"
        "If a download failed, look at the network; if a compiler did, at its first error in the log.\n"
        "Then run the same command again: what was fetched and built is kept."
    )


@contextlib.contextmanager
def group(command: list[str], variables: dict[str, str], output: int) -> Iterator[subprocess.Popen[bytes]]:
    """A child in a process group of its own, which is gone when the block is left, however it is left."""
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=variables,
        # It holds the lock too (see `alone`): should this script be killed, nobody sets up beside it.
        close_fds=False,
        start_new_session=os.name != "nt",
    )
    try:
        yield child
    finally:
        if child.poll() is None:
            stop(child)


def stop(child: subprocess.Popen[bytes]) -> None:
    """End a child and all that it started; pip removes its temporary folders when asked politely."""
    # An impatient second Ctrl-C must not leave compilers behind.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        if sys.platform == "win32":
            subprocess.run(["taskkill", "/F", "/T", "/PID", str(child.pid)], capture_output=True, check=False)
            child.wait()
            return
        for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, sign)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(timeout=5)
                return
    finally:
        signal.signal(signal.SIGINT, before)


def show_until_done(title: str, log: Path, child: subprocess.Popen[bytes], begun: float) -> None:
    terminal = sys.stderr.isatty()
    while child.poll() is None:
        try:
            child.wait(timeout=1 if terminal else 30)
        except subprocess.TimeoutExpired:
            line = f"{title}: {clock(time.monotonic() - begun)} {progress(log)}"
            print(f"\r{line:<60}" if terminal else line, end="" if terminal else "\n", file=sys.stderr)
            sys.stderr.flush()
    if terminal:
        print("\r" + " " * 60, end="\r", file=sys.stderr, flush=True)


def progress(log: Path) -> str:
    """The last "[12/345]" that a build has written at the end of its log, or nothing."""
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 65536))
        counts = re.findall(rb"^\s*(\[\d+/\d+\])", file.read(), re.MULTILINE)
    return counts[-1].decode() if counts else ""


def hand_over(checkout: Checkout, arguments: list[str], stdout: int | None = None) -> int:
    """Run the environment's Python in the foreground, with this terminal; returns its exit status."""
    command = [str(checkout.python), *arguments]
    child = subprocess.Popen(command, cwd=checkout.root, env=environment(checkout), stdout=stdout)
    try:
        status = child.wait()
    except KeyboardInterrupt:
        # The terminal has sent it to the child too, which may have something to close.
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout=10)
        raise
    finally:
        if child.poll() is None:
            child.terminate()
            child.wait()
    return status if status >= 0 else 128 - status


@contextlib.contextmanager
def alone(checkout: Checkout) -> Iterator[None]:
    """Hold the clone's lock; the system frees it when the process ends, however it ends."""
    with (checkout.root / ".dev.lock").open("a", encoding="utf-8") as handle:
        if not try_lock(handle):
            tell("another scripts/dev.py is setting up in this folder; waiting for it")
            while not try_lock(handle):
                time.sleep(0.2)
        os.set_inheritable(handle.fileno(), True)
        yield


def try_lock(handle: TextIO) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


# The commands


def prepare(checkout: Checkout, command: str) -> None:
    with alone(checkout):
        set_up(checkout, command)
        if command == "lint":
            return
        # where they are is of no use here, and standard output belongs to the command itself
        status = hand_over(checkout, ["-m", "engine", "models", "pull", "starter"], stdout=subprocess.DEVNULL)
    if status != 0:
        raise SetupFailed("the starter models are not all there (see above). Run the same command again.")


def demo(checkout: Checkout, arguments: list[str]) -> int:
    prepare(checkout, "demo")
    return hand_over(checkout, ["-m", "engine", "demo", *arguments])


def test(checkout: Checkout, arguments: list[str]) -> int:
    prepare(checkout, "test")
    # The option makes Python report every file that is opened without naming its encoding.
    # Two workers, also on a machine of many cores: each of them holds models. A file's tests share what they load. A
    # worker that crashes ends the run: one in its place waits for ever for tests.
    workers = ["-n", "2", "--dist", "loadfile", "--no-loadscope-reorder", "--max-worker-restart", "0"]
    return hand_over(checkout, ["-X", "warn_default_encoding", "-m", "pytest", *workers, *arguments])


def lint(checkout: Checkout, arguments: list[str]) -> int:
    prepare(checkout, "lint")
    mypy = ["mypy", "--strict", "engine", "scripts", "examples", "pytest_gieok.py"]
    runs = [["ruff", "check", *arguments], ["ruff", "format", "--check"], mypy]
    return max(hand_over(checkout, ["-m", *run]) for run in runs)


def bench(checkout: Checkout, arguments: list[str]) -> int:
    prepare(checkout, "bench")
    return hand_over(checkout, ["scripts/benchmark.py", *arguments])


def clean(checkout: Checkout, arguments: list[str]) -> int:
    if arguments:
        raise SetupFailed("clean takes no arguments: it removes .venv and the tools' caches in this folder.")
    with alone(checkout):
        models = models_folder(checkout)
        for path in leftovers(checkout):
            discard(checkout) if path == checkout.venv else shutil.rmtree(path)
            tell(f"removed {path.relative_to(checkout.root)}")
    tell(f"kept: the models, in {models}")
    return 0


def models_folder(checkout: Checkout) -> str:
    """Where the package keeps its models, in words where it is not there to be asked."""
    if "project" in read_state(checkout):
        code = "from engine import layout; print(layout.models_dir())"
        command = [str(checkout.python), "-c", code]
        asked = subprocess.run(command, capture_output=True, env=environment(checkout), check=False)
        if asked.returncode == 0:
            return asked.stdout.decode().strip()
    return os.environ.get("GIEOK_MODELS") or "gieok/models of your user data folder"


def leftovers(checkout: Checkout) -> list[Path]:
    """The folders that the set-up and the tools made in the clone."""
    made = [checkout.root / name for name in (".venv.trash", ".venv", *CACHES)]
    for folder in ("engine", "examples", "scripts", "tests"):
        made += (checkout.root / folder).rglob("__pycache__")
    return [path for path in made if path.is_dir() and not path.is_symlink()]


COMMANDS = {"demo": demo, "test": test, "lint": lint, "bench": bench, "clean": clean}


def main(arguments: list[str]) -> int:
    if sys.version_info < MIN_PYTHON:
        tell(f"Gieok needs Python 3.11 or newer; this is {platform.python_version()}. Install it with:")
        tell(f"    {install_lines(platform.system(), shutil.which, ['python'])[0]}")
        return 1
    if not arguments or arguments[0] not in COMMANDS:
        asked = arguments[:1] in (["-h"], ["--help"])
        print((__doc__ or "").strip(), file=sys.stdout if asked else sys.stderr)
        return 0 if asked else 2
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        # Under nohup it is ignored, and stays so.
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, end_by_signal)
    return run(COMMANDS[arguments[0]], arguments[1:])


def run(command: Callable[[Checkout, list[str]], int], arguments: list[str]) -> int:
    try:
        return command(Checkout(Path(__file__).resolve().parent.parent), arguments)
    except (SetupFailed, OSError) as failure:
        tell(str(failure))
        return 1
    except KeyboardInterrupt:
        tell("\ninterrupted; the same command goes on from what is done")
        return 130


def end_by_signal(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
