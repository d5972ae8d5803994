"""Machines and people: a disk that is full, folders that may not be written, no locks, a clock that jumps, two runs in one folder, a folder
moved, data changed between the start of a run and its going on.

The outcome is "refused" (a sentence and exit code 2 or 3, and the run then ends as a clean one), "same" (it ends as a clean one at once),
"told" (it goes on, and says so); what may not be is "differs", "traceback", "silent".
"""
from __future__ import annotations

import ctypes
import errno
import os
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from fake_run import fake
from harness import Bench, End, outcome
from tiny import write_acdc

from campaigns.ledger import Finding, Ledger

GOOD, BAD = ("refused", "same", "told"), ("differs", "traceback", "silent")
LABEL, IMAGE, VAL = (f"data/{name}.h5" for name in ("slices/patient001_frame01_slice_2", "slices/patient005_frame01_slice_1",
                                                     "patient007_frame01"))


def small_files(limit: int) -> None:
    """Files can grow to `limit` bytes, as on a full disk or under a quota."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


def full_at(number: int) -> None:
    """The n-th sync of a file finds the disk full, and every later one."""
    sync, count = os.fsync, [0]

    def full(handle: int) -> None:
        count[0] += 1
        if count[0] >= number:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(handle)

    os.fsync = full


def unprivileged() -> None:
    """Takes root's right to write anywhere."""
    if os.getuid() == 0:
        version_and_self, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
        assert ctypes.CDLL(None).capset(version_and_self, none) == 0


def unlockable(number: int) -> None:
    """The file system knows no locks."""
    import fcntl

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    fcntl.flock = refuse  # type: ignore[assignment]


def clock(seconds: float) -> None:
    """The clock stands elsewhere than it did."""
    now = time.time
    time.time = lambda: now() + seconds  # type: ignore[assignment]
    time.localtime, local = (lambda at=None: local(now() + seconds if at is None else at)), time.localtime  # type: ignore[assignment]


class Machines:
    """A bench, the outcome of a clean run, and the faults."""

    def __init__(self, place: Path):
        shutil.rmtree(place, ignore_errors=True)
        self.bench = Bench(place, write_acdc(place / "ACDC"), narrow=True)
        self.count = 0
        end = self.train("clean")
        assert end.code == 0, end
        self.clean = outcome(self.bench.run_folder("clean"))

    def train(self, model: str, *words: str, method: str = "Supervised", **more) -> End:
        return self.bench.train(method, *words, model=model, **more)

    def begun(self, model: str, step: int = 8, **more) -> None:
        end = self.train(model, fault=f"kill@step:{step}", **more)
        assert end.code == -signal.SIGKILL, end

    def ends_as(self, model: str, first: End, said: str, **more) -> Finding:
        """What came of a command, and whether the next one ends as a clean run. `said`: what must be said where it goes on."""
        if "Traceback" in first.err:
            return "traceback", first.err
        if first.code in (2, 3):
            end = self.train(model, **more)
            if end.code or outcome(self.bench.run_folder(model)) != self.clean:
                return "differs", f"{first.err} {end}"
            return "refused", first.err
        if first.code or outcome(self.bench.run_folder(model)) != self.clean:
            return "differs", str(first)
        return ("told" if said and said in first.out + first.err else "silent" if said else "same"), first.out[-400:]

    # Each fault is a name and a function

    def all(self) -> Iterator[tuple[str, str, Callable[[str], Finding]]]:
        for limit in (500, 2000, 20_000, 200_000, 300_000, 400_000, 500_000, 600_000, 650_000, 700_000, 750_000, 800_000, 900_000):
            yield f"files of {limit} bytes", "full disk", partial(self.full, partial(small_files, limit))
        for number in (*range(1, 31, 2), 35, 40, 50):
            yield f"full at sync {number}", "full disk", partial(self.full, partial(full_at, number))
        for where in ("model", "run", "run begun", "best.pt alone", "log.txt alone"):
            yield where, "no permission", partial(self.forbidden, where)
        for number in ("ENOLCK", "ENOSYS", "EOPNOTSUPP", "EINVAL"):
            yield number, "no locks", partial(self.no_lock, getattr(errno, number))
        for seconds in (-10 * 365 * 86400.0, -86400.0, -1.0, 3600.0, 50 * 365 * 86400.0):
            yield f"by {seconds:g} s", "clock set", partial(self.clock_set, seconds)
            yield f"sweep, by {seconds:g} s", "clock set", partial(self.clock_in_a_sweep, seconds)
        for count in (1, 2, 3):
            yield f"{count} more", "runs in one folder", partial(self.together, count)
        for where in ("moved", "copied", "linked"):
            yield where, "a run's folder elsewhere", partial(self.moved, where)
        for name in (LABEL, IMAGE, VAL):
            for change in ("other size", "other time", "other values", "a copy", "restored"):
                yield f"{change}: {name}", "data changed", partial(self.changed, name, change)
        yield "a slice gone from its list", "data changed", self.fewer_slices

    def full(self, before: Callable[[], object], model: str) -> Finding:
        return self.ends_as(model, self.train(model, before=before), "")

    def forbidden(self, where: str, model: str) -> Finding:
        place = self.bench.folder / model
        if where == "model":
            place.mkdir()
        else:
            self.begun(model, 2 if where == "run" else 8)
        run = place if where == "model" else self.bench.run_folder(model)
        shut = [path for path in (run, *run.rglob("*")) if where in ("model", "run", "run begun") or path.name == where.split()[0]]
        for path in shut:
            path.chmod(0o555 if path.is_dir() else 0o444)
        first = self.train(model, before=unprivileged)
        for path in shut:
            if path.exists():
                path.chmod(0o755 if path.is_dir() else 0o644)
        return self.ends_as(model, first, "")

    def no_lock(self, number: int, model: str) -> Finding:
        return self.ends_as(model, self.train(model, before=partial(unlockable, number)), "cannot be locked")

    def clock_set(self, seconds: float, model: str) -> Finding:
        self.begun(model)
        return self.ends_as(model, self.train(model, before=partial(clock, seconds)), "")

    def clock_in_a_sweep(self, seconds: float, model: str) -> Finding:
        """Between the end of a training and its test: the result is older than the run, and is its result all the same."""
        import json

        from storage.sealed import sealed
        from sweeps.work import tested
        job = fake(self.bench.folder / model, "run")
        folder, result = Path(job.folder), Path(job.result)
        for path in (folder, result.parent):
            path.mkdir(parents=True)
        spent = {"seconds": 1.25, "waited": 0.5, "validation_seconds": 0.25, "peak_memory": 7}
        (folder / "status.json").write_text(json.dumps(sealed({"state": "done", "step": 10, **spent})))
        result.write_text(json.dumps(sealed({"run": {"training": spent}, "summary": {}})))
        os.utime(result, (time.time() + seconds,) * 2)
        first = tested(job)
        result.write_text(json.dumps(sealed({"run": {"training": {**spent, "seconds": 2.5}}, "summary": {}})))
        os.utime(result, (time.time() + seconds,) * 2)
        return ("same" if first and not tested(job) else "silent"), f"its own: {first}, that of another training: {tested(job)}"

    def together(self, count: int, model: str) -> Finding:
        first = self.bench.start("Supervised", model=model)
        first.said("Folder:")
        others = [self.train(model) for _ in range(count)]
        end = first.end()
        if any("Traceback" in other.err for other in others):
            return "traceback", str(others)
        if any(other.code not in (0, 2) for other in others) or end.code or outcome(self.bench.run_folder(model)) != self.clean:
            return "differs", f"{end} {others}"
        return ("refused" if any("in use by" in other.err for other in others) else "same"), others[0].err

    def moved(self, where: str, model: str) -> Finding:
        self.begun(model)
        old, new = self.bench.folder / model, self.bench.folder / f"{model} elsewhere"
        if where == "copied":
            shutil.copytree(old, new)
        else:
            old.rename(new)
        if where == "linked":
            old.symlink_to(new)
        return self.ends_as(old.name if where == "linked" else new.name, self.train(old.name if where == "linked" else new.name), "")

    def changed(self, name: str, change: str, model: str) -> Finding:
        import h5py
        data = self.bench.folder / f"{model} data" / "ACDC"
        shutil.copytree(self.bench.data, data)
        file = data / name
        train = partial(self.train, method="MeanTeacher", data=data)  # every image of the training part is in use
        end = train(f"{model} whole")
        assert end.code == 0, end
        self.begun(model, method="MeanTeacher", data=data)
        content, state = file.read_bytes(), file.stat()
        if change == "other size":
            file.write_bytes(content + bytes(8))
        elif change == "other time":
            os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns + 10**9))
        elif change == "other values":
            with h5py.File(file, "r+") as h5:
                h5["image"][..., :4] = 0.5
        elif change == "a copy":
            shutil.copy2(file, file.with_suffix(".new"))
            file.with_suffix(".new").replace(file)
        else:
            file.write_bytes(content[::-1])
            file.write_bytes(content)
            os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
        first = train(model)
        if "Traceback" in first.err:
            return "traceback", first.err
        kept = change in ("a copy", "restored")
        if first.code == 2 and file.name in first.err and "--accept_changes" in first.err and not kept:
            accepted = train(model, "--accept_changes")
            noted = file.name in (self.bench.run_folder(model) / "config.json").read_text()
            return ("refused" if accepted.code == 0 and noted else "silent"), first.err
        if first.code == 0 and kept and "are not the same files" in first.out:
            same = outcome(self.bench.run_folder(model))
            return ("told" if same == outcome(self.bench.run_folder(f"{model} whole")) else "differs"), first.out[-400:]
        return "silent", str(first)

    def fewer_slices(self, model: str) -> Finding:
        data = self.bench.folder / f"{model} data" / "ACDC"
        shutil.copytree(self.bench.data, data)
        self.begun(model, data=data)
        lines = (data / "train_slices.list").read_text().splitlines()
        (data / "train_slices.list").write_text("\n".join(lines[1:]) + "\n")
        first = self.train(model, data=data)
        return ("refused" if first.code == 2 and "no longer used" in first.err else "silent"), first.err or first.out


def run(place: Path, ledger: Ledger) -> None:
    """All faults that the ledger does not know."""
    machines = Machines(place)
    for number, (name, kind, fault) in enumerate(machines.all()):
        if f"{kind}: {name}" in ledger.found:
            continue
        try:
            found, said = fault(f"model {number}")
        except AssertionError as error:
            found, said = "differs", str(error)
        ledger.add(f"{kind}: {name}", kind, found, said)
