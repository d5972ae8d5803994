"""The pages stay true: the worked example runs, and scripts, options, links and tables of defaults are those of the program."""
from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import Bench

from command_line.options import REPLACED, Options, parse

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted({ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / name / "README.md" for name in ("code", "data", "results"))})
MADE_LATER = ("results/phantom.md", "results/small_schedule.md", "results/acdc_small.md", "docs/demo.png")
"""Made by long runs; a link to them may stand in a page before they do."""
FOREIGN = {"array", "block", "cpus", "depth", "gpus", "gres", "head", "help", "job", "kill", "logdir", "master_addr", "master_port",
           "max_restarts", "mem", "nnodes", "node_rank", "nodes", "nproc_per_node", "ntasks", "open", "output", "partition", "port",
           "rdzv_backend", "rdzv_endpoint", "rdzv_id", "requeue", "signal", "standalone", "time", "wait"}
"""What every script has, and options of tensorboard, git, SLURM, torchrun and Ray."""
KINDS = {"advise": "Advise", "test_2D": "Test", "test_3D": "Test", "compare": "Compare", "cross_validate": "CrossValidate",
         "report": "Report", "predict": "Predict", "reproduce": "Reproduce", "export": "Export",
         "demo": "Demo"}
SMALL = ("--patch_size", "32", "32", "--batch_size", "4", "--labeled_bs", "2", "--labeled_num", "2", "--device", "cpu")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def methods() -> list[str]:
    return sorted(script.stem for script in (ROOT / "code").glob("train_*.py"))


def page_of(script: str) -> str:
    """The page that the docstring of a script names; empty where it names none, as a script that is somebody's own need not."""
    found = re.search(r"^Page: (docs/methods/\w+\.md)", text_of(ROOT / "code" / f"{script}.py"), re.MULTILINE)
    return found[1] if found else ""


def documented() -> list[str]:
    return [script for script in methods() if page_of(script)]


def kind_of(script: str) -> type[Options]:
    found = [thing for thing in vars(import_module(script)).values() if isinstance(thing, type) and issubclass(thing, Options)]
    return next(thing for thing in found if thing is not Options)


@cache
def options_of(script: str) -> frozenset[str]:
    """Names of the options of a script in code/."""
    if script.startswith("train_"):
        return frozenset(field.name for field in fields(kind_of(script)))
    if script in KINDS:
        own = frozenset(field.name for field in fields(getattr(import_module(script), KINDS[script])))
        return own | frozenset(field.name for field in fields(Options)) if script == "cross_validate" else own
    return frozenset(re.findall(r'add_argument\("--(\w+)"', text_of(ROOT / "code" / f"{script}.py")))


def example() -> tuple[str, str]:
    """(name of the script, its text): the one Python block of the README, and the name in the sentence before it."""
    page = text_of(ROOT / "README.md")
    blocks = [match for match in BLOCK.finditer(page) if match[1] == "python"]
    assert len(blocks) == 1, "the README has one worked example"
    return re.findall(r"`code/(train_\w+)\.py`", page[: blocks[0].start()])[-1], blocks[0][2]


def commands(page: Path) -> list[list[str]]:
    """The words of every command `python code/<script>.py ...` of a page, in blocks and in the text."""
    text = re.sub(r"\s*\n\s*--", " --", text_of(page))  # a command in the text may run across lines
    found = re.findall(r"python3? code/(\w+\.py[^`\n#]*)", text)
    return [words.split() for words in found]


def words_of(line: list[str]) -> list[str]:
    return [word.split("=")[0].removeprefix("--") for word in line if word.startswith("--")]


def test_example_trains_and_is_tested(tmp_path: Path, tiny_acdc: Path) -> None:
    """By its command, interrupted with Ctrl-C, and by the same command again."""
    name, text = example()
    assert name not in documented(), "the example must not be a method of the suite"
    (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "code"), "SEMISEG_MODEL": str(tmp_path / "model"),
                   "SEMISEG_RESULTS": str(tmp_path / "results"), "SEMISEG_CACHE": str(tmp_path / "cache")}

    words = [sys.executable, f"{name}.py", "--root_path", str(tiny_acdc), *SMALL, "--max_iterations", "60", "--val_every", "30",
             "--log_every", "10", "--threshold", "0.5"]
    first = subprocess.Popen(words, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    limit = time.monotonic() + 120
    while not any(file.stat().st_size for file in tmp_path.glob("model/**/metrics.jsonl")):
        assert first.poll() is None and time.monotonic() < limit, first.communicate()[0]
        time.sleep(0.02)
    first.send_signal(signal.SIGINT)
    said = first.communicate(timeout=60)[0]
    assert first.returncode == 75 and "same command again" in said, said
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0 and "resumed at step" in done.stdout, done.stdout + done.stderr
    bench = Bench(tmp_path, tiny_acdc)
    folder = bench.run_folder()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [line for line in lines if line["kind"] == "train"]
    assert losses[-1]["supervised"] < losses[0]["supervised"]
    assert any(line["unsupervised"] > 0 and 0 < line["mask_share"] <= 1 for line in losses)
    (result,) = bench.test("test_2D").values()
    assert result["schema"] == 1 and result["run"]["method"] == name.removeprefix("train_") and result["cases"]


def test_example_is_short() -> None:
    assert 30 <= len(example()[1].splitlines()) <= 65


def test_table_of_methods_is_complete() -> None:
    rows = re.findall(r"^\| `code/(train_\w+)\.py` \|.*\[page\]\((docs/methods/\w+\.md)\)", text_of(ROOT / "README.md"), re.MULTILINE)
    assert sorted(script for script, _ in rows) == documented()
    for script, page in rows:
        assert f"code/{script}.py" in text_of(ROOT / page)
        assert page == page_of(script), "the script names its page"


def test_every_script_of_the_repository_has_a_page() -> None:
    """What git does not know is somebody's own work."""
    listed = subprocess.run(["git", "ls-files", "code/train_*.py"], cwd=ROOT, capture_output=True, text=True)
    known = [Path(line).stem for line in listed.stdout.splitlines() if (ROOT / line).exists()] or methods()
    assert set(known) <= set(documented())


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", text_of(page))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists() or name_of(file) in MADE_LATER, f"{name_of(page)}: {target}"
        if anchor:
            heads = re.findall(r"^#+ (.*)$", BLOCK.sub("", text_of(file)), re.MULTILINE)
            anchors = [re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads]
            assert anchor in anchors, f"{name_of(page)}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_options_exist(page: Path) -> None:
    scripts = [*methods(), *KINDS, "prepare"]
    known = set[str]().union(*(options_of(script) for script in scripts), REPLACED, FOREIGN)
    known |= set(re.findall(r"^    (\w+): \w+ =", example()[1], re.MULTILINE))
    mentioned = set(re.findall(r"(?<![\w-])--([a-zA-Z]\w*)", text_of(page)))
    assert mentioned <= known, sorted(mentioned - known)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_exist(page: Path) -> None:
    for script, *words in commands(page):
        stem = script.removesuffix(".py")
        if stem == example()[0] or stem.startswith("train_X"):
            continue
        assert (ROOT / "code" / script).is_file(), f"{name_of(page)}: python code/{script}"
        unknown = set(words_of(words)) - options_of(stem) - {"help"}
        assert not unknown, f"{name_of(page)}: python code/{script} has no {sorted(unknown)}"
    targets = re.findall(r"^(\w+):", text_of(ROOT / "Makefile"), re.MULTILINE)
    for target in re.findall(r"`make (\w+)`", text_of(page)):
        assert target in targets, f"{name_of(page)}: make {target}"


def test_commands_are_found() -> None:
    """The checks above look at something."""
    assert len([line for page in PAGES for line in commands(page)]) > 30


@pytest.mark.parametrize("script", documented())
def test_tables_of_defaults_are_the_programs(script: str, tmp_path: Path) -> None:
    """The table under "Defaults" of a method's page, cell by cell, against what the command line resolves to."""
    page = text_of(ROOT / page_of(script))
    section = page.split("## Defaults", 1)[1].split("\n## ", 1)[0]
    head, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("|")]
    rows = [row for row in rows if row[0].startswith("`--")]
    assert rows
    for column, names in enumerate(head):
        data_sets = names.split(", ") if names else []
        for place, data_set in enumerate(data_sets):
            values = defaults_of(script, data_set, tmp_path)
            for row in rows:
                cell = row[column].split(", ") if len(data_sets) > 1 and ", " in row[column] else [row[column]] * len(data_sets)
                value = values[row[0].strip("`-")]
                shown = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
                assert cell[place] == shown, f"{script}, {row[0]}, {data_set}: {shown}"


def defaults_of(script: str, data_set: str, root: Path) -> Mapping[str, object]:
    options = parse(kind_of(script), getattr(import_module(script), "PRESETS"), ["--dataset", data_set, "--root_path", str(root)])  # noqa: B009
    return options.resolved.defaults  # type: ignore[attr-defined]


def test_checkpoint_code_of_the_faq(bench: Bench, narrow: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines of the FAQ that load a checkpoint, on a run of that method."""
    block = next(match[2] for match in BLOCK.finditer(text_of(ROOT / "docs" / "faq.md")) if match[1] == "python")
    assert bench.train("MeanTeacher", "--max_iterations", "1").code == 0
    loading, replaced = re.subn(r'"model/[^"]*best\.pt"', repr(str(bench.run_folder() / "best.pt")), block)
    assert replaced == 1
    monkeypatch.setattr(sys, "path", list(sys.path))
    known: dict[str, Any] = {}
    exec(loading, known)
    assert known["network"](torch.zeros(1, 1, 32, 32)).shape == (1, 4, 32, 32)
