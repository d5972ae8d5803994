"""Sweeps without Ray: which runs there are, what a script says of them, attempts, interruptions, the table, the SLURM script."""
from __future__ import annotations

import fcntl
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cross_validate
import pytest
from cross_validate import CrossValidate, conduct, divide, grid
from fake_run import fake

from dataloaders.errors import UserError
from engine import plan
from sweeps import slurm
from sweeps.board import Board, Row, line_of, look, span
from sweeps.grid import Combination, combinations
from sweeps.work import Outcome, read_json, work
from sweeps.work import tested as is_tested

CODE, TESTS = Path(__file__).parents[1] / "code", Path(__file__).parent


def starts(job) -> list[str]:
    return (Path(job.folder) / "starts").read_text().splitlines()


def until(true, seconds: float = 60) -> None:
    limit = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.02)


def test_every_combination_once_and_those_that_are_compared_stand_together():
    found = combinations(["A", "B"], ["7", "14"], [0, 1], 2, [5, 6], baselines=True)
    assert len(found) == len(set(found)) == 2 * 2 * (2 * (2 + 4) + 1)
    assert {(one.fold, one.seed, one.draw) for one in found[:7]} == {(0, 5, 0), (0, 5, None)}
    assert [one for one in found if one.labeled == "all"] == [
        Combination("Supervised", "all", fold, None, seed) for seed in (5, 6) for fold in (0, 1)], "nothing to draw where all are labelled"
    assert Combination("A", "10%", 3, 2, 1).words(5, "X") == [
        "--labeled_num", "10%", "--seed", "1", "--exp", "X/A", "--fold", "3", "--folds", "5", "--labeled_choice", "random",
        "--labeled_seed", "2"]
    assert Combination("A", "7", None, None, 1).words(None, "X") == ["--labeled_num", "7", "--seed", "1", "--exp", "X/A"]


def test_our_options_and_the_scripts():
    ours, others = ["--methods", "A", "B", "--seeds", "0", "1", "--exp=X"], [["--patch_size", "32", "32"], ["--no-compile"], ["--lr=-1"]]
    assert divide([*ours[:3], *others[0], *ours[3:6], *others[1], ours[6], *others[2]]) == (ours, others)
    for word in ("--seed", "--labeled-seed", "--fresh"):
        with pytest.raises(UserError, match="--seeds|--draws|--exp"):
            divide(["--methods", "A", word, "1"])
    for options, said in ((CrossValidate(("MeanTecher",)), "there is MeanTeacher"), (CrossValidate(("CPS",), fold=(0,)), "--folds 5"),
                          (CrossValidate(("CPS",), jobs=0), "--jobs 0"), (CrossValidate(("CPS",), seeds=()), "at least one"),
                          (CrossValidate(("CPS",), gpus_per_run=1.5), "--gpus_per_run 1.5")):
        with pytest.raises(UserError, match=said):
            grid(options, "7")
    assert [(one.fold, one.labeled) for one in grid(CrossValidate(("CPS",), folds=5, fold=(3, 1)), "10%")] == [(3, "10%"), (1, "10%")]


def asked(monkeypatch, capsys, extra: list[list[str]], runs: list[list[str]]) -> list[dict]:
    """What train_MeanTeacher.py answers."""
    import train_MeanTeacher as script
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps({"extra": extra, "runs": runs})))
    assert plan.answer(script.Method, script.PRESETS) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_script_says_what_it_would_do(monkeypatch, capsys, tiny_acdc, tmp_path):
    monkeypatch.setenv("SEMISEG_MODEL", str(tmp_path / "model"))
    data = ["--dataset", "ACDC", "--root_path", str(tiny_acdc), "--labeled_num"]
    extra = [["--consistency", "0.3"], ["--augment", "strong"], ["--max_iterations=20"]]
    about, *runs = asked(monkeypatch, capsys, extra, [
        [*data, "2"], [*data, "2000"], [*data, "2", "--fold", "7"], [*data, "2", "--seed", "x"], [*data, "2", "--cfg", "y"]])
    assert about["unknown"] == ["augment"] and "ema_decay" in about["options"]
    folder = tmp_path / "model/ACDC/MeanTeacher_2_labeled/unet/official_seed1337_max_iterations=20_consistency=0.3"
    asked_of_the_split = {"protocol": "official", "fold": None, "folds": 5, "split_seed": 0, "labeled_num": "2",
                          "labeled_choice": "first", "labeled_seed": 0, "split_file": None, "hold_out": False}
    assert runs[0] == {"words": [*data, "2", "--consistency", "0.3", "--max_iterations=20"], "folder": str(folder), "dimensions": 2,
                       "steps": 20, "device": "auto", "split": asked_of_the_split, "reader": {}}
    for run, said in zip(runs[1:], ("asked 2000", "--fold 7", "seed", "--cfg has no meaning here")):
        assert said in run["error"]
    assert not (tmp_path / "model").exists(), "asking makes nothing"
    folder.mkdir(parents=True)
    (folder / "status.json").write_text('{"state": "done"}')
    (folder / "config.json").write_text('{"options": {"val_every": 7, "device": "cuda", "log_every": 9, "seed": 1337}}')
    assert "(--val_every 7 then, 200 now)" in asked(monkeypatch, capsys, extra, [[*data, "2"]])[1]["error"]


def test_attempts(tmp_path):
    """Failures are tried three times, wrong commands once, interruptions by others until there is no progress."""
    ended = {}
    for name, codes in (("good", "0"), ("once", "3,0"), ("killed", "9,9,0"), ("never", "3"), ("wrong", "2"), ("moved", "75,75,75,75,0"),
                        ("busy", "in use")):
        job = fake(tmp_path, name, codes)
        ended[name] = work(job, "s", {"OMP_NUM_THREADS": "3"}, str(tmp_path)), len(starts(job))
        assert read_json(Path(job.folder) / "sweep.json")["state"] == ended[name][0].state
    assert {name: (outcome.state, count) for name, (outcome, count) in ended.items()} == {
        "good": ("done", 1), "once": ("done", 2), "killed": ("done", 3), "never": ("failed", 3), "wrong": ("failed", 1),
        "moved": ("done", 5), "busy": ("in use", 1)}
    assert ended["never"][0].reason == "exit code 3: it went wrong"
    job = fake(tmp_path, "good", "3")
    assert starts(job)[0].split()[1] == "3"
    before = time.monotonic()
    assert work(job, "s", {}, str(tmp_path)) == Outcome("skipped") and time.monotonic() - before < 0.1
    Path(job.result).unlink()
    assert work(job, "s", {}, str(tmp_path)) == Outcome("done") and len(starts(job)) == 1 and is_tested(job), "tested alone"
    assert (Path(job.folder) / "sweep.log").read_text().count("--- ") == 3


ALONE = """
import sys; sys.path[:0] = {path!r}
from fake_run import fake; from sweeps.work import work; from pathlib import Path
print(work(fake(Path({root!r}), "run", "wait"), "s", {{}}, {root!r}).state)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_run_ends_in_its_orderly_way_with_its_sweep(tmp_path, number):
    text = ALONE.format(path=[str(CODE), str(TESTS)], root=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True)
    job = fake(tmp_path, "run")
    status, screen = Path(job.folder) / "status.json", Path(job.folder) / "sweep.log"
    until(lambda: screen.exists() and "attempt 1" in screen.read_text())
    process.send_signal(number)
    assert process.communicate(timeout=30)[0] == ("interrupted\n" if number == signal.SIGINT else "")
    until(lambda: read_json(status)["state"] == "interrupted" and "saved" in screen.read_text())
    (tmp_path / "go").touch()
    assert work(fake(tmp_path, "run", "wait"), "s", {}, str(tmp_path)).state == "done"


def test_a_result_of_an_earlier_training_is_made_again(tmp_path):
    """--fresh by hand, for example: the scores beside it are of the run that was moved aside."""
    job = fake(tmp_path, "run")
    assert work(job, "s", {}, str(tmp_path)).state == "done" and is_tested(job)
    result = Path(job.result)
    result.write_text('{"summary": {"mean": {"dice": 0.1}}}')
    ended = (Path(job.folder) / "status.json").stat().st_mtime_ns
    os.utime(result, ns=(ended - 10**9, ended - 10**9))
    assert not is_tested(job)
    assert work(job, "s", {}, str(tmp_path)).state == "done"
    assert read_json(result)["summary"]["mean"]["dice"] == 0.75 and len(starts(job)) == 1, "tested again, not trained"


def test_the_others_finish_and_what_failed_is_told(tmp_path, capsys, monkeypatch):
    """A run that another process holds is waited for, one that fails stops nobody, finished ones are not begun again."""
    jobs = [fake(tmp_path, name, codes) for name, codes in (("held", "in use,0"), ("bad", "3"), ("good", "0"))]
    Path(jobs[0].folder).mkdir()
    held = open(Path(jobs[0].folder) / "lock", "w")  # noqa: SIM115 - closed below
    fcntl.flock(held, fcntl.LOCK_EX)
    monkeypatch.setattr(cross_validate.time, "sleep", lambda _: held.close())
    with pytest.raises(UserError) as error:
        conduct("X", jobs, CrossValidate(("Fake",)))
    told = str(error.value).splitlines()
    assert told[:2] == ["1 of 3 runs failed:", "bad: exit code 3: it went wrong"]
    assert told[2].endswith("bad/sweep.log ends with:") and told[-1] == "    | it went wrong"
    assert error.value.code == 3 and is_tested(jobs[0]) and is_tested(jobs[2])
    said = capsys.readouterr().out
    assert "good: done, test Dice 0.7500" in said and "X: 3 runs: 2 done, 1 failed" in said
    assert len(starts(jobs[1])) == 3 and len(starts(jobs[0])) == 2
    conduct("X", [jobs[0], jobs[2]], CrossValidate(("Fake",)))
    assert len(starts(jobs[2])) == 1


def test_the_table(tmp_path, monkeypatch):
    job = fake(tmp_path, "run")
    folder = Path(job.folder)
    folder.mkdir()
    assert look(job, "s") == Row("waiting", 0, 10)
    (folder / "sweep.json").write_text('{"sweep": "s", "state": "training", "failures": 1}')
    (folder / "status.json").write_text('{"state": "running", "step": 100, "of": 400}')
    lines = [{"step": 120, "kind": "train", "total": 1}, {"step": 200, "kind": "validation/a", "dice/mean": 0.25},
             {"step": 200, "kind": "validation/b", "dice/mean": 0.5}, {"step": 200, "kind": "train"}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 2')
    os.utime(folder / "status.json", (time.time() - 50, time.time() - 50))
    row = look(job, "s")
    assert (row.state, row.step, row.of, row.validation, row.tries) == ("training", 200, 400, 0.25, 2)
    assert row.left == pytest.approx(100, rel=0.05), "100 steps in 50 s; 200 are left"
    assert line_of(row).split() == ["training", "(2)", "200/400", "0.2500", *span(row.left).split()]
    assert look(job, "another sweep") == Row("waiting", 100, 400), "notes of an older sweep say nothing"
    done, other = fake(tmp_path, "done"), fake(tmp_path, "other", method="Other")
    work(done, "s", {}, str(tmp_path))
    assert look(done, "s") == Row("done", 10, 10, 0.5, 0.75, seconds=3.0)
    board = Board("X", [job, done, fake(tmp_path, "next"), other], "s", 2)
    board.rows = [row, *board.rows[1:]]
    whole = (2 * row.left + 3.0) / 2  # of a run: the mean of the one that goes on and the one that is done
    assert board.left() == pytest.approx((row.left + 2 * whole) / 2)
    assert board.heading().startswith("X: 4 runs: 1 done, 1 training, 2 waiting; about")
    assert [span(one) for one in (None, 5, 90, 5400, 200000)] == ["", "5 s", "1.5 min", "1.5 h", "2.3 days"]


def test_slurm(tmp_path):
    """The script is bash; an index trains and tests its run; told of its time limit it saves and asks for another turn."""
    jobs = [fake(tmp_path, "a b", "0"), fake(tmp_path, "wait", "wait"), fake(tmp_path, "bad", "3"), fake(tmp_path, "stopped", "wait")]
    for job in jobs:
        Path(job.folder).mkdir()
    text = slurm.script("X", jobs, tmp_path, tmp_path, {"SEMISEG_MODEL": "/m o"}, 7, 2, 1)
    for line in ("--array=0-3%7", "--cpus-per-task=2", "--gpus=1", "--signal=B:USR1@300", "--requeue"):
        assert f"\n#SBATCH {line}\n" in text
    assert "\n#SBATCH --gpus" not in slurm.script("X", jobs, tmp_path, tmp_path, {}, None, None, None)
    script = tmp_path / "array.sh"
    script.write_text(text)
    subprocess.run(["bash", "-n", script], check=True)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/scontrol").write_text("#!/bin/sh\necho scontrol $*\n")
    (tmp_path / "bin/scontrol").chmod(0o755)

    def start(index: int) -> subprocess.Popen:
        told = {"SLURM_ARRAY_TASK_ID": str(index), "SLURM_JOB_ID": "77", "SLURM_CPUS_PER_TASK": "2"}
        environment = {**os.environ, **told, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
        return subprocess.Popen(["bash", script], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    assert start(0).wait(30) == 0 and is_tested(jobs[0]) and starts(jobs[0])[0].split()[1] == "2"
    again = start(0)
    assert "trained and tested" in again.communicate(timeout=30)[0] and again.returncode == 0 and len(starts(jobs[0])) == 1
    assert start(2).wait(30) == 3 and len(starts(jobs[2])) == 3
    assert start(4).wait(30) == 2
    for index, number, code in ((1, signal.SIGUSR1, 0), (3, signal.SIGTERM, 75)):
        job, process = jobs[index], start(index)
        until(lambda: (Path(job.folder) / "metrics.jsonl").exists())  # noqa: B023
        process.send_signal(number)
        said = process.communicate(timeout=30)[0]
        assert process.returncode == code and ("scontrol requeue 77" in said) == (number == signal.SIGUSR1), said
        assert read_json(Path(job.folder) / "status.json")["state"] == "interrupted"
    (tmp_path / "go").touch()
    assert start(1).wait(30) == 0 and is_tested(jobs[1]) and len(starts(jobs[1])) == 2
