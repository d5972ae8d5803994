"""A run that is killed at any moment and started again ends as an uninterrupted one does, to the bit on one CPU."""
from __future__ import annotations

import os
import random
import signal
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from harness import Bench, leave_copies, metrics, outcome, together

PLATEAU = ("--schedule", "plateau", "--steps_per_epoch", "2", "--val_every", "2", "--patience", "0")
"""The rate falls within a short run, so that the schedule's state matters."""
METHODS = {
    "Supervised": (), "MeanTeacher": ("--consistency_start", "2", "--consistency", "5"), "simEps": (*PLATEAU, "--num_branches", "2"),
    "awkward_stages": (), "awkward_critic": (), "awkward_policy": (),
}


@pytest.fixture(scope="module")
def clean(scratch: Path, tiny_acdc: Path):
    """Outcome of the uninterrupted run of a method, made once."""
    made: dict[str, dict] = {}

    def of(method: str) -> dict:
        if method not in made:
            bench = Bench(scratch / "clean" / method, tiny_acdc, narrow=True)
            end = bench.train(method, *METHODS[method])
            assert end.code == 0, end
            made[method] = outcome(bench.run_folder())
        return made[method]

    return of


def model_of(method: str, faults: tuple[str, ...]) -> str:
    """The folder of models in which a run meets these faults."""
    return f"{method} {' '.join(faults)}".replace(":", " ")


def survives(bench: Bench, method: str, faults: tuple[str, ...]) -> str:
    """Kills a run at each fault in turn and lets the next one finish; gives all that this one said. Of a single fault the run's folder is
    there already, as it was at that moment."""
    train = partial(bench.train, method, *METHODS[method], model=model_of(method, faults))
    for fault in faults[: len(faults) * (len(faults) > 1)]:
        end = train(fault=fault)
        if end.code != -signal.SIGKILL:
            return f"{faults}: not killed: {end}"
    end = train()
    return f"{faults}: {end}" if end.code else end.out


def check(bench: Bench, clean, method: str, kills: list[tuple[str, ...]]) -> dict[tuple[str, ...], str]:
    """Runs all kills two at a time; fails with every one whose end is not the uninterrupted run's. Gives what each last run said.

    Single kills are one run that leaves its folder, as it stands there, at every place; several in a row are killed.
    """
    expected = clean(method)
    copies = {faults[0].removeprefix("kill@"): model_of(method, faults) for faults in kills if len(faults) == 1}
    if copies:
        end = bench.train(method, *METHODS[method], model=f"{method} copied", before=partial(leave_copies, copies))
        assert end.code == 0, end
    said = dict(zip(kills, together([partial(survives, bench, method, faults) for faults in kills])))
    bad = []
    for faults in kills:
        folder = bench.run_folder(model_of(method, faults))
        found = outcome(folder)
        bad += [f"{faults}: {key} differs\n{said[faults]}" for key in expected if found.get(key) != expected[key]]
        left = [path.name for path in folder.iterdir() if ".tmp-" in path.name]
        bad += [f"{faults}: left behind {left}"] if left else []
        if "WARNING" in said[faults]:
            bad.append(f"{faults}: fell back to an older checkpoint\n{said[faults]}")
    assert not bad, "\n".join(bad)
    return said


def test_killed_at_every_step(bench: Bench, clean) -> None:
    said = check(bench, clean, "Supervised", [(f"kill@step:{n}",) for n in range(1, 13)])
    for (fault,), text in said.items():
        done = int(fault.split(":")[1]) - 1
        assert f"resumed at step {done // 3 * 3}" in text, text


SAVES = ("write", "half", "rename", "between")


def test_killed_in_saves_and_validations(bench: Bench, clean) -> None:
    """Every place in every file that a run writes, by its first and a later passing."""
    check(bench, clean, "Supervised", [(f"kill@{place}",) for place in (
        "half-last.pt:2", "rename-last.pt:3", "between-last.pt:1", "between-last.pt:4", "half-last.pt.sha256:2", "write-last.pt:1",
        "rename-last.prev.pt.sha256:2", "swap-last.prev.pt:2", "half-best.pt:1", "rename-best.pt:2", "between-best.pt:1",
        "rename-best.pt.sha256:2", "half-config.json:1", "rename-status.json:1", "half-status.json:2", "validation:1", "validation:3",
        "validated:2",
    )])


def test_killed_several_times(bench: Bench, clean) -> None:
    """Also at one place again and again: the sidecar then stands ahead of its file more than once."""
    check(bench, clean, "Supervised", [
        ("kill@step:2", "kill@step:5", "kill@step:3"), ("kill@between-last.pt:3",) + ("kill@between-last.pt:1",) * 2,
        ("kill@between-best.pt:2", "kill@between-best.pt:1", "kill@between-best.pt:1"),
        ("kill@swap-last.prev.pt:2",) + ("kill@swap-last.prev.pt:1",) * 2,
    ])


@pytest.mark.parametrize("method", ["simEps", "awkward_stages", "awkward_critic", "awkward_policy"])
def test_killed_in_every_method(bench: Bench, clean, method: str) -> None:
    """A plateau that lowers rates, stages, a critic, a learned policy: at places drawn once a method. Every script at one place:
    test_every_method.py."""
    draw = random.Random(method)
    steps = 18 if method == "awkward_stages" else 12
    kills = [(f"kill@step:{n}",) for n in sorted(draw.sample(range(5, steps + 1), 2))]
    if method != "simEps":  # the slowest; what is carried over several kills does not depend on the method
        kills.append((f"kill@{draw.choice(SAVES)}:{draw.randint(8, 12)}", f"kill@step:{draw.randint(1, 3)}", "kill@validated:1"))
    if method == "awkward_stages":
        kills += [("kill@step:8", "kill@step:5"), ("kill@half-pretrain_last.pt:3",), ("kill@write-last.pt:1",)]
    check(bench, clean, method, kills)


def test_finished_stage_is_not_run_again(bench: Bench) -> None:
    assert bench.train("awkward_stages", fault="kill@step:12").code == -signal.SIGKILL
    before = {path.name: path.stat().st_mtime_ns for path in bench.run_folder().glob("pretrain_*")}
    end = bench.train("awkward_stages")
    assert end.code == 0 and "resumed at step 3" in end.out, end
    assert before == {path.name: path.stat().st_mtime_ns for path in bench.run_folder().glob("pretrain_*")}
    lines = metrics(bench.run_folder())
    assert [line["step"] for line in lines if line.get("stage") == "pretrain" and line["kind"] == "train"] == [2, 4, 6]
    assert [line["step"] for line in lines if "stage" not in line and line["kind"] == "train"] == [2, 4, 6, 8, 10, 12]


def test_methods_do_what_their_resumes_are_worth(clean) -> None:
    """Equal outcomes prove little where nothing happens: rates fall, policies learn, teachers differ, both players move."""
    rates = {line["lr_branch1"] for line in clean("simEps")["metrics"] if line["kind"] == "train"}
    assert len(rates) > 1, rates
    chances = clean("awkward_policy")["last.pt"]["kept"]["policy"]["chances"]
    assert len(set(chances)) > 1 and 1.0 not in chances
    teacher, student = clean("MeanTeacher")["last.pt"]["kept"]["teacher"], clean("MeanTeacher")["last.pt"]["networks"]["student"]["state"]
    assert teacher["out.weight"] != student["out.weight"]
    losses = [line["critic"] for line in clean("awkward_critic")["metrics"] if "critic" in line]
    assert len(set(losses)) == len(losses)
    assert any(line.get("consistency", 0) > 0 for line in clean("MeanTeacher")["metrics"])


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1"])
def test_signal_in_a_step_saves_and_leaves(bench: Bench, clean, name: str) -> None:
    """At step 5, where nothing would be saved: the rerun goes on from there."""
    end = bench.train("MeanTeacher", *METHODS["MeanTeacher"], before=partial(strike, name, "step", 5))
    assert end.code == 75 and "Traceback" not in end.err, end
    assert "Interrupted at step 5 of 12" in end.err and "Run the same command again" in end.err
    assert '"interrupted"' in (bench.run_folder() / "status.json").read_text()
    end = bench.train("MeanTeacher", *METHODS["MeanTeacher"])
    assert end.code == 0 and "resumed at step 5" in end.out, end
    assert outcome(bench.run_folder()) == clean("MeanTeacher")


def strike(name: str, place: str, number: int, twice: bool = False) -> None:
    """Sends a signal to this process when it passes a place, once more right after where `twice`."""
    from system import faults
    passed = [0]
    reach = faults.reach

    def sending(at: str, what: str = "") -> None:
        reach(at, what)
        here = place in (at, f"{at} {what}")
        passed[0] += here
        if here and passed[0] == number:
            for _ in range(1 + twice):
                os.kill(os.getpid(), getattr(signal, name))

    faults.reach = sending


def test_signal_in_a_validation(bench: Bench, clean) -> None:
    end = bench.train("Supervised", before=partial(strike, "SIGTERM", "validation", 2))
    assert end.code == 75 and "Interrupted at step 8" in end.err, end
    assert bench.train("Supervised").code == 0
    assert outcome(bench.run_folder()) == clean("Supervised")


def test_signal_before_the_loop_and_after_it(bench: Bench, clean) -> None:
    """The first write is config.json's; the last best.pt is written by `finish`."""
    for place, number in (("write", 2), ("rename best.pt", 2)):
        end = bench.train("Supervised", before=partial(strike, "SIGTERM", place, number))
        assert end.code == 75 and "Traceback" not in end.err and "same command" in end.err, (place, end)
    assert bench.train("Supervised").code == 0
    assert outcome(bench.run_folder()) == clean("Supervised")


def test_second_interrupt_leaves_at_once(bench: Bench, clean) -> None:
    end = bench.train("Supervised", before=partial(strike, "SIGINT", "step", 5, twice=True))
    assert end.code == 130 and end.err == "", end
    end = bench.train("Supervised")
    assert end.code == 0 and "resumed at step 3" in end.out, end
    assert outcome(bench.run_folder()) == clean("Supervised")


def test_interrupted_without_a_logged_line(bench: Bench) -> None:
    """metrics.jsonl is cut on resuming; where nothing was written since, the next checkpoint must know its true length."""
    words = ("--log_every", "5", "--val_every", "12")
    clean_words = (*words, "--exp", "whole")
    assert bench.train("Supervised", *clean_words, model="whole").code == 0
    assert bench.train("Supervised", *words, fault="kill@half-last.pt:3").code == -signal.SIGKILL  # at step 6, with a line of step 5
    for step in (3, 4):
        end = bench.train("Supervised", *words, before=partial(strike, "SIGTERM", "step", 1))
        assert end.code == 75 and f"resumed at step {step}" in end.out, end
    assert bench.train("Supervised", *words).code == 0
    assert metrics(bench.run_folder()) == metrics(bench.run_folder("whole"))


def test_killed_by_the_clock(bench: Bench, clean) -> None:
    """Random moments, whatever the process is doing."""
    draw = random.Random(7)

    def run(k: int) -> str:
        for _ in range(2):
            started = bench.start("Supervised", model=f"clock {k}")
            started.said("Folder:")
            time.sleep(draw.uniform(0, 0.5))
            started.process.kill()
            started.end()
        return str(bench.train("Supervised", model=f"clock {k}"))

    said = together([partial(run, k) for k in range(4)])
    for k, text in enumerate(said):
        assert outcome(bench.run_folder(f"clock {k}")) == clean("Supervised"), text


def test_checkpoints_hold_plain_values_only(bench: Bench) -> None:
    """Everything is read by torch's safe reader, and what it would refuse is refused when written."""
    from storage import checkpoint
    state = {"a": torch.ones(2), "b": [1, 2.0, "x", None, (True, b"y")], "c": {"d": {3}}}
    checkpoint.save(bench.folder / "x.pt", {"format": 1, **state})
    assert checkpoint.load(bench.folder / "x.pt")["b"] == state["b"]
    import numpy as np
    for value in (np.float64(1), np.zeros(2), Path("x")):
        with pytest.raises(TypeError, match=r"\['policy'\]\['v'\] of the checkpoint is a "):
            checkpoint.save(bench.folder / "x.pt", {"kept": {"policy": {"v": value}}})
    assert checkpoint.load(bench.folder / "x.pt")["b"] == state["b"]
