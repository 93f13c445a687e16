"""Every shell block of the pages runs as it stands, in bash, in a home of its own, with a hub on the loopback."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from doc_blocks import PAGES, ROOT, Block, Shell, blocks, libraries_kept
from fake_hub import FakeHub
from script_module import load

from engine import cli, layout

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the pages' commands are for a POSIX shell")
SECONDS = 240.0  # a guard against hangs
LINKED = ("engine", "scripts", "tests", "docs", "examples", "models.toml", "README.md", "pyproject.toml")
STARTER = ("smollm2-135m-instruct", "multilingual-e5-small")
# What may run as it is shown. Any other program, and every script of ours, needs an entry in INSTEAD: what sets
# environments up, measures or builds must not run unseen.
PROGRAMS = {"gieok", ".venv/bin/gieok", "cd", "cp", "mkdir", "echo", "export"}
# Places that are the reader's own, and what stands for them in the folder of the test.
PLACES = {"/media/usb": "usb", "/mnt/models": "mnt"}

# Lines that take minutes or need what is not here: what runs instead, and why. A line that stands here and in no page
# fails the test, too.
INSTEAD = {
    "python3 scripts/dev.py demo": (
        "python3 scripts/dev.py --help",
        "compiles llama.cpp; tests/test_dev.py sets clones up, tests/test_demo.py runs the demo",
    ),
    "python3 scripts/dev.py test": ("python3 scripts/dev.py --help", "the suite, of which this is a part"),
    "python3 scripts/dev.py test tests/test_prompt.py": ("python3 scripts/dev.py --help", "sets up the real clone"),
    "python3 scripts/dev.py lint": ("python3 scripts/dev.py --help", "sets up the real clone"),
    ".venv/bin/python scripts/release.py check": (
        ".venv/bin/python scripts/release.py check --help",
        "tests/test_release.py runs it",
    ),
    ".venv/bin/python scripts/benchmark.py runtime --shape qwen2.5-3b --rounds 3": (
        ".venv/bin/python scripts/benchmark.py runtime --shape qwen2.5-3b --rounds 3 --help",
        "takes an hour and 4 GB; tests/test_benchmark.py runs it with --quick",
    ),
    ".venv/bin/python scripts/benchmark.py all --shape qwen2.5-0.5b": (
        ".venv/bin/python scripts/benchmark.py all --shape qwen2.5-0.5b --help",
        "takes the better part of an hour and 3 GB; tests/test_benchmark_all.py runs it with --quick",
    ),
    ".venv/bin/python scripts/benchmark.py expectations --chat qwen2.5-7b --output docs/benchmarks/expectations.json": (
        ".venv/bin/python scripts/benchmark.py expectations --help",
        "takes twenty minutes and 10 GB; tests/test_expectations.py plays it",
    ),
    ".venv/bin/python scripts/evaluate.py tasks --profile starter": (
        ".venv/bin/python scripts/evaluate.py tasks --profile starter --help",
        "takes the better part of an hour; tests/test_evaluate.py runs parts of it",
    ),
    "GIEOK_CONFIG=my.toml .venv/bin/python scripts/evaluate.py tasks --profile plain": (
        "GIEOK_CONFIG=my.toml .venv/bin/python scripts/evaluate.py tasks --profile plain --help",
        "needs the model and takes an hour",
    ),
    "GIEOK_CONFIG=my.toml .venv/bin/python scripts/evaluate.py tasks --profile tuned": (
        "GIEOK_CONFIG=my.toml .venv/bin/python scripts/evaluate.py tasks --profile tuned --help",
        "needs the model and takes an hour",
    ),
    ".venv/bin/python -m pip freeze --all --exclude-editable > stick/packages.txt": (
        ".venv/bin/python -m pip freeze --help",
        "what is installed here is not asked for",
    ),
    ".venv/bin/python -m pip wheel --no-deps --find-links .venv/share/wheels -r stick/packages.txt -w stick/wheels": (
        ".venv/bin/python -m pip wheel --no-deps --find-links . -r x -w stick/wheels --help",
        "fetches all packages; done once by hand",
    ),
    ".venv/bin/python -m pip wheel --no-deps --no-build-isolation -w stick/wheels .": (
        ".venv/bin/python -m pip wheel --no-deps --no-build-isolation -w stick/wheels --help",
        "tests/test_release.py builds the wheel",
    ),
    "python3 -m venv gieok": ("python3 -m venv --help", "takes seconds; scripts/release.py makes one"),
    "gieok/bin/python -m pip install --no-index --find-links stick/wheels gieok": (
        "python3 -m pip install --no-index --find-links stick/wheels gieok --help",
        "needs the packages of above; scripts/release.py installs the wheel",
    ),
    "gieok/bin/gieok models pull --from stick/models default": (
        "gieok models pull --from stick/models default",
        "the same command, of this environment",
    ),
    "python3 -m venv own": ("python3 -m venv --help", "tests/test_release.py installs the wheel"),
    f'own/bin/pip install "torch==2.13.0+cpu" --index-url {load("dev").TORCH_CPU_INDEX}': ("", "the same"),
    "own/bin/pip install dist/gieok-0.1.0-py3-none-any.whl": ("", "the same"),
    "own/bin/gieok models pull starter": ("gieok models pull starter", "the same command, of this environment"),
    "own/bin/gieok demo": ("gieok demo --help", "tests/test_demo.py runs it"),
    ".venv/bin/python scripts/soak.py all --hours 8 --log soak.jsonl": (
        ".venv/bin/python scripts/soak.py all --hours 8 --log soak.jsonl --help",
        "takes eight hours; tests/test_soak.py runs rounds of it",
    ),
    ".venv/bin/python scripts/soak.py all --parts fuzz,growth --hours 1 --log soak.jsonl": (
        ".venv/bin/python scripts/soak.py all --parts fuzz,growth --hours 1 --log soak.jsonl --help",
        "takes an hour",
    ),
    ".venv/bin/python scripts/soak.py memory-kills --minutes 10 --seed 3 --log kills.jsonl": (
        ".venv/bin/python scripts/soak.py memory-kills --minutes 10 --seed 3 --log kills.jsonl --help",
        "takes ten minutes",
    ),
    ".venv/bin/python scripts/soak.py summary soak.jsonl --details": (
        ".venv/bin/python scripts/soak.py summary soak.jsonl --details --help",
        "needs the log of above",
    ),
    ".venv/bin/python scripts/mutation.py prompt memory --json mutants.json": (
        ".venv/bin/python scripts/mutation.py prompt memory --json mutants.json --help",
        "takes half an hour; tests/test_mutation.py runs it on a small module",
    ),
    "pip install pyinstaller": ("python3 -m pip install pyinstaller --help", "comes from the package index"),
    "pyinstaller app.py": ("", "takes minutes and gigabytes; done once by hand"),
    "python convert_lora_to_gguf.py --base Qwen2.5-3B-Instruct --outtype f16 --outfile mine.gguf my-adapter/": (
        "",
        "llama.cpp's script, which is not ours",
    ),
}

# The models of the default profile, and others that pages name, as files of some bytes on the hub of the test.
TINY = {
    "qwen2.5-7b-instruct": "llm",
    "qwen2.5-3b-instruct": "llm",
    "solar-10.7b-instruct": "llm",
    "bge-m3": "embedding",
}
FILES = {"llm": "weights.gguf", "embedding": "model.safetensors"}


def commands(block: Block) -> list[str]:
    """Return the lines of a script: comments gone, what a backslash parts put together."""
    text = block.text.replace("\\\n", " ")
    lines = [re.sub(r"(^|\s)#\s.*$", "", line).strip() for line in text.splitlines()]
    return [re.sub(r" +", " ", line) for line in lines if line]


def shell_blocks(page: str) -> list[Block]:
    return [block for block in blocks(page) if block.language == "sh"]


SHOWING = [page for page in PAGES if shell_blocks(page) and page != "README.ko.md"]  # which has README.md's commands


def program(command: str) -> str:
    """Return what a command begins with: behind its variables, or inside of the first one's `$(`."""
    return re.sub(r"^(\w+=\$\(|\w+=\S+ +)*", "", command).split(maxsplit=1)[0]


def as_run(page: str) -> str:
    """Return the script of a page: its blocks in one shell, as a reader has them, each announced."""
    lines = []
    for block in shell_blocks(page):
        lines += [f"echo '# {block}'", *(INSTEAD[line][0] if line in INSTEAD else line for line in commands(block))]
    text = "\n".join(lines)
    for place, own in PLACES.items():
        text = text.replace(place, own)
    return text


@pytest.fixture(scope="module", autouse=True)
def _libraries() -> Iterator[None]:
    with libraries_kept():
        yield


@pytest.fixture(scope="module")
def hub() -> Iterator[FakeHub]:
    with FakeHub() as made:
        for name, kind in TINY.items():
            made.commit(f"org/{name}", {FILES[kind]: content(name)})
        yield made
    from huggingface_hub.utils import close_session

    close_session()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that looks like a clone, with what the reader is told to bring."""
    for name in LINKED:
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "catalogue.toml").write_text("".join(map(entry, TINY)), encoding="utf-8")
    (tmp_path / "models").mkdir()
    for name in STARTER:  # half a gigabyte; no page removes them
        (tmp_path / "models" / name).symlink_to(layout.models_dir() / name)
    for name, kind in TINY.items():
        place = tmp_path / "usb" / name / FILES[kind]
        place.parent.mkdir(parents=True)
        place.write_bytes(content(name))
    (tmp_path / "model.gguf").write_bytes(content("qwen2.5-3b-instruct"))
    return tmp_path


def content(name: str) -> bytes:
    return name.encode() * 100


def entry(name: str) -> str:
    """Return the lines of a models.toml that let a model of the catalogue come from the hub of the test."""
    kind = TINY[name]
    more = 'backend = "torch"\nheads = ["dense"]\n' if kind == "embedding" else ""
    return (
        f'[models."{name}"]\nkind = "{kind}"\nsource = {{ repo = "org/{name}", files = ["{FILES[kind]}"] }}\nrevision = "main"\n'
        f"size = 3000\n{more}"
    )


@pytest.fixture
def shell(folder: Path) -> Iterator[Shell]:
    made = Shell(folder, cli.main)
    yield made
    made.close()


@pytest.fixture
def environ(folder: Path, hub: FakeHub) -> dict[str, str]:
    named = ("PATH", "SYSTEMROOT", "LD_LIBRARY_PATH", "GIEOK_TEST_VOCAB")
    return {
        **{name: os.environ[name] for name in named if name in os.environ},
        "HOME": str(folder / "user"), "LC_ALL": "C.UTF-8", "NO_PROXY": "127.0.0.1", "PYTHONUTF8": "1",
        "GIEOK_MODELS": str(folder / "models"), "GIEOK_CONFIG": str(folder / "catalogue.toml"),
        "HF_ENDPOINT": hub.endpoint, "PIP_INDEX_URL": "http://127.0.0.1:9",
    }  # fmt: skip


def unknown(page: str) -> list[str]:
    lines = [line for block in shell_blocks(page) for line in commands(block)]
    return [line for line in lines if line not in INSTEAD and program(line) not in PROGRAMS]


def test_a_script_that_nobody_listed_is_unknown() -> None:
    assert program("GIEOK_HOME=x ID=$(gieok remember 어제)") == "gieok" and "gieok" in PROGRAMS
    assert program("A=1 python3 scripts/dev.py clean") not in PROGRAMS and program("sudo rm -r x") not in PROGRAMS


def test_no_exception_outlives_its_line() -> None:
    shown = {line for page in PAGES for block in shell_blocks(page) for line in commands(block)}
    assert set(INSTEAD) - shown == set()


@pytest.mark.model
@pytest.mark.parametrize("page", SHOWING)
def test_the_commands_of_a_page_run(page: str, shell: Shell, folder: Path, environ: dict[str, str]) -> None:
    assert unknown(page) == []  # else nothing of the page is run
    status, said = shell.run(as_run(page), folder, environ, SECONDS)
    assert status == 0, said


def test_a_command_that_fails_is_noticed(shell: Shell, folder: Path, environ: dict[str, str]) -> None:
    status, said = shell.run("gieok models plan nobody\necho went on", folder, environ, SECONDS)
    assert status == 1 and "no model is called 'nobody'" in said and "went on" not in said
