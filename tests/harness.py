"""Runs training scripts in processes of their own, many a second: forked from a server that has imported everything.

The server has run no torch operation, so a child is as fresh as a new interpreter.
"""
from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import torch

PRELOAD = ["torch", "torch._dynamo", "h5py", "tensorboardX", "train_Supervised", "train_MeanTeacher", "train_simEps",
           "awkward_stages", "awkward_critic", "awkward_policy", "two_stages", "harness"]
SHORT = ("--patch_size", "32", "32", "--batch_size", "4", "--labeled_bs", "2", "--labeled_num", "2", "--max_iterations", "12",
         "--val_every", "4", "--save_every", "3", "--log_every", "2", "--device", "cpu", "--exp", "run")
LIMIT_S = 120
POLLING = threading.Lock()
"""Starting a process asks after all others too; a child's exit code can be read only once, so one thread asks at a time."""
TIMES = ("seconds", "wait_share")
"""What differs between two equal runs."""


@dataclass(frozen=True)
class End:
    """How a process ended: its exit code (-9: killed), what it said, and how long it took."""

    code: int | None
    out: str
    err: str
    seconds: float


@dataclass
class Started:
    """A process under way."""

    process: Any
    out: Path
    err: Path
    began: float = field(default_factory=time.monotonic)

    def said(self, text: str, within_s: float = 60) -> None:
        """Waits until the process has said `text`."""
        while text not in self.out.read_text():
            assert self.alive() and time.monotonic() - self.began < within_s, self.out.read_text() + self.err.read_text()
            time.sleep(0.01)

    def alive(self) -> bool:
        with POLLING:
            return self.process.is_alive()

    def end(self) -> End:
        limit = time.monotonic() + LIMIT_S
        while self.alive() and time.monotonic() < limit:
            time.sleep(0.01)
        if self.alive():
            self.process.kill()
            raise AssertionError(f"still running after {LIMIT_S} s:\n{self.out.read_text()}{self.err.read_text()}")
        return End(self.process.exitcode, self.out.read_text(), self.err.read_text(), time.monotonic() - self.began)


STARTING = threading.Lock()


def server() -> Any:
    """The forkserver, started once with a single thread for every library."""
    context = multiprocessing.get_context("forkserver")
    with STARTING:
        start_server(context)
    return context


def start_server(context: Any) -> None:
    if forkserver._forkserver._forkserver_pid is None:  # type: ignore[attr-defined]
        context.set_forkserver_preload(PRELOAD)
        # Python 3.11 gives the server no search path, and a failed preload says nothing.
        wanted = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
        before = {name: os.environ.get(name) for name in wanted}
        os.environ.update(wanted)
        try:
            forkserver.ensure_running()
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


def child(module: str, words: Sequence[str], environment: dict[str, str], out: str, err: str, before: Callable[[], object] | None) -> None:
    """What a child does: output to files, then the script's own `launch`."""
    for number, path in ((1, out), (2, err)):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        os.dup2(handle, number)
        os.close(handle)
    os.environ.update(environment)
    torch.set_num_threads(1)
    if before is not None:
        before()
    script = import_module(module)
    from engine import Options, launch
    kind = next(thing for thing in vars(script).values() if isinstance(thing, type) and issubclass(thing, Options) and thing is not Options)
    sys.argv = [f"{module}.py", *words]
    launch(getattr(script, "main"), kind, getattr(script, "PRESETS"), words)  # noqa: B009


class Bench:
    """Training runs of one test: data, a model folder, and processes."""

    def __init__(self, folder: Path, data: Path):
        self.folder, self.data, self._count = folder, data, 0
        folder.mkdir(parents=True, exist_ok=True)

    def start(self, method: str, *words: str, model: str = "model", fault: str = "", before: Callable[[], object] | None = None,
              data: Path | None = None, **environment: str) -> Started:
        """Starts code/train_<method>.py, or a script of the tests, on the tiny data set."""
        self._count += 1
        out, err = (self.folder / f"{self._count}.{kind}" for kind in ("out", "err"))
        out.touch()
        err.touch()
        setting = {"SEMISEG_MODEL": str(self.folder / model), "SEMISEG_RESULTS": str(self.folder / "results"),
                   "SEMISEG_CACHE": str(self.folder / "cache"), **environment}
        if fault:
            setting["SEMISEG_FAULT"] = fault
        module = method if method.islower() else f"train_{method}"
        given = ("--root_path", str(data or self.data), *SHORT, *words)
        process = server().Process(target=child, args=(module, given, setting, str(out), str(err), before))
        with POLLING:
            process.start()
        return Started(process, out, err)

    def train(self, method: str, *words: str, **more: Any) -> End:
        return self.start(method, *words, **more).end()

    def run_folder(self, model: str = "model") -> Path:
        """The one run below a model folder."""
        found = sorted((self.folder / model).rglob("config.json"))
        assert len(found) == 1, found
        return found[0].parent


def together(jobs: Sequence[Callable[[], Any]], at_once: int = 2) -> list[Any]:
    """Results of jobs, a few at a time."""
    with ThreadPoolExecutor(at_once) as pool:
        return [done.result() for done in [pool.submit(job) for job in jobs]]


def plain(value: Any) -> Any:
    """A checkpoint's content as comparable values: tensors by type, shape and bytes."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), hashlib.sha256(value.contiguous().numpy().tobytes()).hexdigest()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if key != "spent"}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def content(file: Path) -> dict[str, Any]:
    """A checkpoint, read as a stranger should: tensors and plain values only."""
    return plain(torch.load(file, map_location="cpu", weights_only=True))


def metrics(folder: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what clocks say."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def outcome(folder: Path) -> dict[str, Any]:
    """All that two equal runs must have in common."""
    files = {path.name: content(path) for path in sorted(folder.glob("*.pt")) if path.name.count(".") == 1}
    for state in files.values():
        state.pop("metrics_offset", None)  # digits of the clock's numbers count
    return {**files, "metrics": metrics(folder), "state": json.loads((folder / "status.json").read_text())["state"]}
