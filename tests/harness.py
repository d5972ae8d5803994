"""Runs training scripts in processes of their own, many a second: forked from a server that has imported everything.

The server has run no torch operation, so a child is as fresh as a new interpreter.
"""
from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import torch
from narrow import make_narrow

PRELOAD = ["torch", "h5py", "tensorboardX", "train_Supervised", "train_MeanTeacher", "train_simEps",
           "awkward_stages", "awkward_critic", "awkward_policy", "two_stages", "harness", "warm"]
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


def child(module: str, words: Sequence[str], environment: dict[str, str], out: str, err: str, before: Callable[[], object] | None,
          narrow: bool = False) -> None:
    """What a child does: output to files, narrow networks where asked for, then the script's own `launch`."""
    for number, path in ((1, out), (2, err)):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        os.dup2(handle, number)
        os.close(handle)
    os.environ.update(environment)
    torch.set_num_threads(1)
    if narrow:
        make_narrow()
    if before is not None:
        before()
    script = import_module(module)
    from engine import launch
    sys.argv = [f"{module}.py", *words]
    launch(getattr(script, "main"), kind_of(module), getattr(script, "PRESETS"), words)  # noqa: B009


def kind_of(module: str) -> type:
    """A script's own class of options."""
    from engine import Options
    kinds = [thing for thing in vars(import_module(module)).values() if isinstance(thing, type) and issubclass(thing, Options)]
    return next(kind for kind in kinds if kind is not Options)


def leave_undrawn(patch: Any) -> None:
    """Has figures of this process, which take longest, not drawn."""
    for drawing in ("tight_layout", "savefig"):
        patch.setattr(f"matplotlib.figure.Figure.{drawing}", lambda *_, **__: None)


class Bench:
    """Training runs of one test: data, a model folder, and processes; with networks of a fraction of their width where `narrow`."""

    def __init__(self, folder: Path, data: Path, narrow: bool = False):
        self.folder, self.data, self.narrow, self._count = folder, data, narrow, 0
        folder.mkdir(parents=True, exist_ok=True)

    def start(self, method: str, *words: str, model: str = "model", fault: str = "", before: Callable[[], object] | None = None,
              data: Path | None = None, short: Sequence[str] = SHORT, **environment: str) -> Started:
        """Starts code/train_<method>.py, or a script of the tests, on the tiny data set, with the options of a short run."""
        self._count += 1
        out, err = (self.folder / f"{self._count}.{kind}" for kind in ("out", "err"))
        out.touch()
        err.touch()
        setting = {"SEMISEG_MODEL": str(self.folder / model), "SEMISEG_RESULTS": str(self.folder / "results"),
                   "SEMISEG_CACHE": str(self.folder / "cache"), **environment}
        if fault:
            setting["SEMISEG_FAULT"] = fault
        module = method if method.islower() else f"train_{method}"
        given = ("--root_path", str(data or self.data), *short, *words)
        process = server().Process(target=child, args=(module, given, setting, str(out), str(err), before, self.narrow))
        with POLLING:
            process.start()
        return Started(process, out, err)

    def train(self, method: str, *words: str, **more: Any) -> End:
        return self.start(method, *words, **more).end()

    def test(self, script: str, model: str = "model") -> dict[str, dict[str, Any]]:
        """Tests the one run below a model folder with `test_2D` or `test_3D`, in this process; gives the results by predictor."""
        from pytest import MonkeyPatch

        from system.ending import finish_with
        module, results = import_module(script), self.folder / f"results of {model}"
        with MonkeyPatch.context() as patch:
            if self.narrow:
                make_narrow(patch.setattr)
            leave_undrawn(patch)
            patch.setenv("SEMISEG_MODEL", str(self.folder / model))
            patch.setenv("SEMISEG_RESULTS", str(results))
            assert finish_with(lambda: module.main(module.Test(run=self.run_folder(model), device="cpu"))) == 0
        found = [json.loads(file.read_text()) for file in sorted(results.rglob("*.json"))]
        return {result["run"]["predictor"]: result for result in found}

    def run_folder(self, model: str = "model") -> Path:
        """The one run below a model folder."""
        found = sorted((self.folder / model).rglob("config.json"))
        assert len(found) == 1, found
        return found[0].parent


# What a kill leaves


def leave_copies(places: dict[str, str]) -> None:
    """Has a child copy its run's folder as it stands when it passes a place, "step:5" as in SEMISEG_FAULT, to the folder of models named:
    what a kill would leave there. (That a kill leaves no more than what lies on the disk: the tests that kill.)"""
    from system import faults
    passed: Counter[str] = Counter()

    def copying(place: str, what: str = "") -> None:
        for name in (place, f"{place}-{what}"):
            passed[name] += 1
            if copy := places.get(f"{name}:{passed[name]}"):
                model = Path(os.environ["SEMISEG_MODEL"])
                shutil.copytree(model, model.with_name(copy))

    faults.reach = copying


# Several processes for one run


def keep_states() -> None:
    """Has a child write, at the end of its run, what its rank holds: networks and kept state, and the validation scores it saw."""
    from engine.run import Run
    finish = Run.finish

    def kept(run: Run) -> None:
        finish(run)
        held = {**run.parts.networks, **run.parts.kept}
        state = {name: dict(thing.state_dict()) for name, thing in held.items()}
        scores = {name: best["score"] for name, best in run.best_states.items()}
        torch.save({"state": state, "scores": scores, "quoted": run.quoted}, Path(os.environ["KEPT"]) / f"rank{run.rank}.pt")

    Run.finish = kept  # type: ignore[method-assign]


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def start_ranks(bench: Bench, method: str, *words: str, world: int = 2, faults: dict[int, str] | None = None, **more: Any) -> list[Started]:
    """Starts the script once a rank, as torchrun would."""
    port = free_port()
    return [bench.start(method, *words, fault=(faults or {}).get(rank, ""), RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world),
                        LOCAL_WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1", MASTER_PORT=port, **more) for rank in range(world)]


def train_ranks(bench: Bench, method: str, *words: str, **more: Any) -> list[End]:
    return [started.end() for started in start_ranks(bench, method, *words, **more)]


def check_equal(folder: Path, ends: list[End]) -> dict:
    """Asserts that every rank ended well with the same numbers, to the bit; gives what rank 0 holds."""
    assert [end.code for end in ends] == [0] * len(ends), ends
    held = [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(len(ends))]
    first = plain(held[0])
    for other in held[1:]:
        other = plain(other)
        for name, state in first["state"].items():
            assert other["state"][name] == state, f"{name} differs between ranks"
        assert other == first
    return held[0]


class Commands:
    """Commands of scripts without new interpreters: training in children of the fork server, testing here; narrow networks, no figures.

    Runs, results and caches lie in `folder`.
    """

    def __init__(self, folder: Path, monkeypatch: Any):
        self.folder, self.called = folder, list[str]()
        make_narrow(monkeypatch.setattr)
        leave_undrawn(monkeypatch)
        for name in ("MODEL", "RESULTS", "CACHE"):
            monkeypatch.setenv(f"SEMISEG_{name}", str(folder / name.lower()))

    def __call__(self, command: Sequence[str]) -> str:
        """Of (script, words ...); gives what it said."""
        script, words = Path(command[0]).stem, list(command[1:])
        self.called.append(script)
        if script == "test_2D":
            import test_2D
            given = dict(zip(words[::2], words[1::2]))
            assert given.get("--empty", "penalty") == "penalty" and given.get("--metric_backend", "numba") == "numba"
            test_2D.main(test_2D.Test(run=Path(given["--run"]), device="cpu"))
            return ""
        out, err = (self.folder / f"command.{kind}" for kind in ("out", "err"))
        process = server().Process(target=child, args=(script, words, dict(os.environ), str(out), str(err), None, True))
        process.start()
        process.join()
        assert process.exitcode == 0, err.read_text()
        return out.read_text()


class Again:
    """reproduce.py on a folder with model/ and results/."""

    def __init__(self, folder: Path, monkeypatch: Any):
        self.command = Commands(folder, monkeypatch)
        monkeypatch.setattr("reproduce.call", lambda words, record: self.command(words))

    @property
    def called(self) -> list[str]:
        return self.command.called

    def __call__(self, file: Path, *seeds: int) -> int:
        import reproduce

        from system.ending import finish_with
        return finish_with(lambda: reproduce.main(reproduce.Reproduce(file, seeds=seeds)))


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
