"""What the engine promises beside resuming: draws by seed and step, labels that cannot leak, one run a folder, damage, finite losses."""
from __future__ import annotations

import json
import os
import pickle
import re
import resource
import shutil
import signal
import time
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from harness import Bench, content, outcome, together

from storage import checkpoint, provenance
from storage.provenance import code_digest

CODE = Path(__file__).parents[1] / "code"


def weights(bench: Bench, model: str) -> dict:
    """The networks at the last step."""
    return content(bench.run_folder(model) / "last.pt")["networks"]


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file but the lock, which each process signs, and tensorboard's, written in its own time."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "lock" and path.parent.name != "log"]
    return {str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def begun(bench: Bench, *words: str, step: int = 8) -> Path:
    """A Supervised run that was killed in step 8: last.pt is of step 6, last.prev.pt of step 3."""
    assert bench.train("Supervised", *words, fault=f"kill@step:{step}").code == -signal.SIGKILL
    return bench.run_folder()


# Draws


def test_what_is_watched_changes_no_weight(bench: Bench) -> None:
    runs = {"a": (), "b": ("--val_every", "5", "--log_every", "7"), "c": ("--val_every", "100", "--save_every", "100"),
            "d": ("--seed", "1338")}
    ends = together([partial(bench.train, "MeanTeacher", *words, model=model) for model, words in runs.items()])
    assert [end.code for end in ends] == [0] * 4, ends
    assert weights(bench, "a") == weights(bench, "b") == weights(bench, "c")
    assert weights(bench, "a")["student"]["state"]["out.weight"] != weights(bench, "d")["student"]["state"]["out.weight"]


def test_same_command_twice(bench: Bench) -> None:
    ends = together([partial(bench.train, "simEps", "--num_branches", "2", model=model) for model in ("a", "b")])
    assert [end.code for end in ends] == [0, 0], ends
    assert outcome(bench.run_folder("a")) == outcome(bench.run_folder("b"))


@pytest.mark.parametrize("harm", ["poisoned", "deleted"])
def test_labels_of_unlabelled_cases_are_never_seen(bench: Bench, harm: str) -> None:
    """Every label but those of the first two patients: out of range, or gone. The path is the same, for it is in the configuration."""
    data = bench.folder / "ACDC"
    shutil.copytree(bench.data, data)
    assert bench.train("MeanTeacher", data=data, model="whole").code == 0
    for file in (data / "data").rglob("*.h5"):
        if int(file.name[7:10]) in range(3, 7):
            with h5py.File(file, "r+") as h5:
                shape = h5["label"].shape
                del h5["label"]
                if harm == "poisoned":
                    h5["label"] = np.full(shape, 99, np.uint8)
    end = bench.train("MeanTeacher", data=data, model="harmed", SEMISEG_CACHE=str(bench.folder / "other cache"))
    assert end.code == 0, end
    assert outcome(bench.run_folder("whole")) == outcome(bench.run_folder("harmed"))


def test_official_split_opens_no_test_file(bench: Bench) -> None:
    """Fails where the list or a file of the test part is opened: the one is gone, the other no HDF5."""
    data = bench.folder / "ACDC"
    shutil.copytree(bench.data, data)
    assert bench.train("Supervised", data=data, model="whole").code == 0
    (data / "test.list").unlink()
    (data / "test.list").mkdir()
    for file in (data / "data").glob("patient009*"):
        file.write_text("not for training")
    end = bench.train("Supervised", data=data, model="without")
    assert end.code == 0, end
    assert outcome(bench.run_folder("whole")) == outcome(bench.run_folder("without"))
    end = bench.train("Supervised", "--fold", "0", "--folds", "3", data=data, model="fold")
    assert end.code == 2 and "test.list" in end.err, "a fold does use them, so the test can tell"


# Damage


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def zeros(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


def flip(file: Path) -> None:
    """One bit in the middle of the tensors: torch reads such a file without a word."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    torch.load(file, weights_only=True)


def text(file: Path) -> None:
    file.write_text("hello, this is not a checkpoint")


def foreign(file: Path) -> None:
    """A stranger's weights."""
    torch.save({"net": {"weight": torch.ones(3)}, "opt": {}}, file)


DAMAGE = {
    "cut": cut, "zeros": zeros, "flipped bit": flip, "empty": lambda file: file.write_bytes(b""), "text": text, "foreign": foreign,
    "no sidecar": lambda file: checkpoint.sidecar(file).unlink(),
    "sidecar of nonsense": lambda file: checkpoint.sidecar(file).write_text("[]"),
    "gone": lambda file: file.unlink(),
}


@pytest.mark.parametrize("kinds", [list(DAMAGE)[:5], list(DAMAGE)[5:]], ids=["inside", "around"])
def test_damaged_checkpoint_falls_back(bench: Bench, kinds: list[str]) -> None:
    """To the one before, said aloud; and the run ends as if nothing had been. The damaged file is kept, and harms no later fall."""
    assert bench.train("Supervised", model="whole").code == 0
    source = begun(bench)

    def go_on(kind: str) -> None:
        model = kind.replace(" ", "-")
        folder = bench.folder / model / source.relative_to(bench.folder / "model")
        shutil.copytree(source, folder)
        DAMAGE[kind](folder / "last.pt")
        if kind == "cut":  # and a kill while the previous one takes its place
            assert bench.train("Supervised", model=model, fault="kill@swap-last.pt:1").code == -signal.SIGKILL
        # A second kill, right after the first save on the way: what was good must still be good.
        first = bench.train("Supervised", model=model, fault="kill@between-last.pt:1")
        assert first.code == -signal.SIGKILL and "WARNING" in first.out and "last.prev.pt, step 3" in first.out, (kind, first)
        assert first.err == "", (kind, first)
        end = bench.train("Supervised", model=model)
        assert end.code == 0 and "resumed at step 3" in end.out and "WARNING" not in end.out, (kind, end)
        assert outcome(folder) == outcome(bench.run_folder("whole")), kind
        assert kind in ("gone",) or (folder / "last.damaged.pt").exists()

    together([partial(go_on, kind) for kind in kinds])


def test_damage_never_takes_the_place_of_a_good_one(tmp_path: Path) -> None:
    """last.pt goes bad while the run goes on: the next save leaves last.prev.pt as it is."""
    file = tmp_path / "last.pt"
    for step in (1, 2):
        checkpoint.save(file, {"format": 1, "step": step}, keep_previous=True)
    zeros(file)
    checkpoint.save(file, {"format": 1, "step": 3}, keep_previous=True)
    assert checkpoint.load(file)["step"] == 3 and checkpoint.load(checkpoint.previous_of(file))["step"] == 1


def test_a_save_cut_between_its_two_files_leaves_nothing_behind(tmp_path: Path) -> None:
    """last.prev.pt is then another name of last.pt, and replacing a file by itself does nothing."""
    file = tmp_path / "last.pt"
    checkpoint.save(file, {"format": 1, "step": 1}, keep_previous=True)
    checkpoint.previous_of(file).hardlink_to(file)
    checkpoint.save(file, {"format": 1, "step": 2}, keep_previous=True)
    assert checkpoint.load(checkpoint.previous_of(file))["step"] == 1 and not list(tmp_path.glob("*.tmp-*"))


def test_both_checkpoints_damaged(bench: Bench) -> None:
    folder = begun(bench)
    flip(folder / "last.pt")
    cut(folder / "last.prev.pt")
    before = tree(folder)
    end = bench.train("Supervised")
    assert end.code == 4 and "Traceback" not in end.err, end
    assert "last.prev.pt" in end.err and "damaged" in end.err and "--fresh" in end.err
    after = tree(folder)
    assert all(before[name] == after[name] for name in before if name.endswith(".pt")), "what may be rescued is left alone"
    end = bench.train("Supervised", "--fresh")
    assert end.code == 0 and "moved to" in end.out, end


class Bomb:
    """A pickle that runs a command when it is read."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch '{self.canary}'",)


@pytest.mark.parametrize("disguise", ["pickle", "torch file", "with its digest"])
def test_pickle_with_code_is_never_run(bench: Bench, disguise: str) -> None:
    """Exit code 4, no fallback: this is an attack or another program's file, not a crash."""
    folder = begun(bench)
    canary = bench.folder / "canary"
    bomb = {"format": 1, "step": 6, "networks": Bomb(canary)}
    if disguise == "pickle":
        (folder / "last.pt").write_bytes(pickle.dumps(bomb))
    else:
        torch.save(bomb, folder / "last.pt")
    if disguise == "with its digest":
        import hashlib
        digest = hashlib.sha256((folder / "last.pt").read_bytes()).hexdigest()
        checkpoint.sidecar(folder / "last.pt").write_text(json.dumps({"new": digest, "old": ""}))
    end = bench.train("Supervised")
    assert end.code == 4 and "carries code, which was not run" in end.err and "Traceback" not in end.err, end
    assert not canary.exists() and "Going back" not in end.out + end.err
    pickle.loads(pickle.dumps(Bomb(canary)))
    assert canary.exists(), "the bomb works where it is lit"


def test_damaged_best_checkpoint(bench: Bench) -> None:
    folder = begun(bench)
    cut(folder / "best.pt")
    end = bench.train("Supervised")
    assert end.code == 4 and "best.pt" in end.err and "--fresh" in end.err and "Traceback" not in end.err, end


# One run, one folder


def test_another_configuration_is_refused(bench: Bench) -> None:
    folder = begun(bench)
    before = tree(folder)
    end = bench.train("Supervised", "--val_every", "5", "--deterministic", "0")
    assert end.code == 2 and "Traceback" not in end.err, end
    assert "--val_every: 4 then, 5 now" in end.err and "--deterministic: 1 then, 0 now" in end.err
    assert "--fresh" in end.err and "--exp" in end.err and "--accept_changes" in end.err
    assert tree(folder) == before
    end = bench.train("Supervised", "--val_every", "5", "--accept_changes")
    assert end.code == 0 and "resumed at step 6" in end.out, end
    assert json.loads((folder / "config.json").read_text())["changes"] == ["--val_every: 4 then, 5 now"]
    assert content(folder / "last.pt")["changes"] == ["--val_every: 4 then, 5 now"]


def test_nothing_is_refused_before_the_first_step(bench: Bench) -> None:
    """A script that failed in its first step may be mended and started again."""
    assert bench.train("Supervised", fault="kill@step:1").code == -signal.SIGKILL
    end = bench.train("Supervised", "--deterministic", "0")
    assert end.code == 0 and "resumed" not in end.out, end


def test_changed_lists_are_refused(bench: Bench) -> None:
    """Also where the unlabelled cases are others, but as many."""
    data = bench.folder / "ACDC"
    shutil.copytree(bench.data, data)
    assert bench.train("MeanTeacher", data=data, fault="kill@step:5").code == -signal.SIGKILL
    for file in (data / "data").rglob("patient006*"):
        file.rename(file.with_name(file.name.replace("006", "016")))
    for name in ("train.list", "train_slices.list"):
        (data / name).write_text((data / name).read_text().replace("patient006", "patient016"))
    end = bench.train("MeanTeacher", data=data)
    assert end.code == 2 and "the cases of the split" in end.err, end


def other_code(digest: str) -> None:
    """As if the code had this digest."""
    provenance.code_files = lambda script: {"losses/overlap.py": digest}


def test_changed_code_is_refused(bench: Bench) -> None:
    folder = begun(bench)
    made = json.loads((folder / "config.json").read_text())["code"]
    end = bench.train("Supervised", before=partial(other_code, "f00d"))
    f00d = provenance.digest_of({"losses/overlap.py": "f00d"})
    assert end.code == 2 and f"the code that shapes a run: {made} then, {f00d} now (changed: losses/overlap.py; gone: " in end.err, end
    assert "--accept_changes" in end.err
    end = bench.train("Supervised", "--accept_changes", fault="kill@step:2", before=partial(other_code, "f00d"))
    assert end.code == -signal.SIGKILL and "resumed at step 6" in end.out, end
    end = bench.train("Supervised", before=partial(other_code, "f00d"))
    assert end.code == 0 and "resumed at step 6" in end.out, end
    config = json.loads((folder / "config.json").read_text())
    assert len(config["changes"]) == 1 and config["first_code"] == made and config["code"] == f00d
    end = bench.train("Supervised", before=partial(other_code, "cafe"))
    assert end.code == 0 and "This run is finished" in end.out and f"code {f00d}, which has changed since" in end.out, end


def test_digest_of_code(tmp_path: Path) -> None:
    """Follows every byte of a script, line ends apart."""
    script = tmp_path / "train_X.py"
    digests = []
    for source in (b"a = 1\n", b"a = 2\n", b"a = 2\r\n"):
        script.write_bytes(source)
        digests.append(code_digest(script))
    assert digests[0] != digests[1] == digests[2]


def test_the_digest_covers_what_decides_weights_and_the_chosen_step_and_nothing_else(tmp_path: Path) -> None:
    shutil.copytree(CODE, tmp_path / "code", ignore=shutil.ignore_patterns("__pycache__", "*.json", "lists"))
    script = tmp_path / "code" / "train_CPS.py"
    before = provenance.code_files(script)
    decides = ("train_CPS.py", "engine/stage.py", "losses/overlap.py", "networks/unet.py", "metrics/surface.py", "inference/cases.py",
               "dataloaders/batches/loader.py", "dataloaders/layouts/acdc.py", "dataloaders/splits/split.py", "system/distributed.py")
    does_not = ("train_MeanTeacher.py", "engine/monitor.py", "pictures/flat.py", "preparation/acdc.py", "reporting/build.py",
                "prediction/loop.py", "evaluation/results.py", "sweeps/grid.py", "predict.py", "test_2D.py", "val_2D.py",
                "storage/logbook.py")
    for name in (*decides, *does_not):
        file = tmp_path / "code" / name
        text = file.read_text()
        file.write_text(text + "# changed\n")
        changed = provenance.changed_files(before, provenance.code_files(script))
        assert changed == (f"changed: {name}" if name in decides else ""), name
        file.write_text(text)


def test_fresh_moves_the_old_run_aside(bench: Bench) -> None:
    folder = begun(bench)
    before = tree(folder)
    assert bench.train("Supervised", "--fresh", "--val_every", "5", fault="kill@step:2").code == -signal.SIGKILL
    aside = [path for path in folder.parent.iterdir() if path != folder]
    assert len(aside) == 1 and tree(aside[0]) == before
    end = bench.train("Supervised", "--val_every", "5")
    assert end.code == 0 and "resumed at step 0" in end.out, end


def test_finished_run_is_left_alone(bench: Bench) -> None:
    assert bench.train("Supervised").code == 0
    before = tree(bench.run_folder())
    end = bench.train("Supervised")
    assert end.code == 0 and "This run is finished" in end.out and "test_2D.py" in end.out and end.seconds < 5, end
    end = bench.train("Supervised", "--val_every", "5", "--accept_changes")
    assert end.code == 2 and "finished run with another configuration" in end.err, end
    assert tree(bench.run_folder()) == before


def test_second_process_is_refused(bench: Bench) -> None:
    first = bench.start("Supervised", before=slow_down)
    first.said("stands still")
    before = tree(bench.run_folder())
    second = bench.train("Supervised")
    third = bench.train("Supervised", "--fresh")
    try:
        for end in (second, third):
            assert end.code == 2 and f"in use by process {first.process.pid} on" in end.err and "Traceback" not in end.err, end
        assert tree(bench.run_folder()) == before
    finally:
        first.process.kill()
    first.end()
    assert bench.train("Supervised").code == 0, "the lock of a dead process holds nobody up"


def slow_down() -> None:
    """Stands still after each validation."""
    from system import faults
    reach = faults.reach

    def slow(place: str, what: str = "") -> None:
        reach(place, what)
        if place == "validated":
            print("stands still", flush=True)
            time.sleep(60)

    faults.reach = slow


# Losses and machines


@pytest.mark.parametrize("method", ["MeanTeacher", "awkward_stages"])
def test_loss_that_is_not_finite(bench: Bench, method: str) -> None:
    """The weights on the disk are those of the last good checkpoint, and going on from there gives the clean run."""
    assert bench.train(method, model="whole").code == 0
    end = bench.train(method, fault="nan@step:5")
    assert end.code == 3 and "Traceback" not in end.err, end
    assert re.search(r"step 5: the loss is not finite \(total = nan[,)]", end.err) and "--base_lr" in end.err
    cases = re.search(r"Cases of the batch: (.*)", end.err)
    # The stage trains on labels alone: six slices in batches of four, so that its step 5 has the two that are left.
    rows = 2 if method == "awkward_stages" else 4
    assert cases and len(re.findall(r"patient00[1-6]_frame01_slice_[123]", cases[1])) == rows
    folder = bench.run_folder()
    last = folder / ("pretrain_last.pt" if method == "awkward_stages" else "last.pt")
    assert str(last) in end.err
    state = checkpoint.load(last)
    assert state["step"] == 3
    assert all(bool(value.isfinite().all()) for found in state["networks"].values() for value in found["state"].values())
    assert json.loads((folder / "status.json").read_text())["state"] == "failed"
    assert bench.train(method).code == 0
    assert outcome(folder) == outcome(bench.run_folder("whole"))


def little_memory() -> None:
    """Room for the program, not for a batch of four thousand."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 800 * 2**20, resource.RLIM_INFINITY))


def test_out_of_memory(bench: Bench) -> None:
    end = bench.train("MeanTeacher", "--batch_size", "4000", "--labeled_bs", "2000", "--patch_size", "64", "64", before=little_memory)
    assert end.code == 3 and "Out of memory" in end.err and "Traceback" not in end.err, end
    assert "--batch_size" in end.err and "--patch_size" in end.err and "last.pt" in end.err
    assert checkpoint.load(bench.run_folder() / "last.pt")["step"] == 0
