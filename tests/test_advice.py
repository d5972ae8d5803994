"""The adviser: what it concludes from scores, how it fits its time, that it goes on, and which images it would have labelled next."""
from __future__ import annotations

import dataclasses
import io
import json
import shutil
import sys
from importlib import import_module
from pathlib import Path

import advise
import numpy as np
import pytest
from advice import curve, evidence, pages
from advice.answer import _shown, _verdict, _worth, answered
from advice.arms import ARMS, Arm, arms_of
from advice.choosing import chosen, odd_ones
from advice.curve import Worth
from advice.folds import Piece, budgets_for, folds_for, pieces
from advice.looks import candidates_in, plain_looks
from advice.question import asked, check_answerable, near_copies
from advice.rounds import Rounds
from advice.schedule import Plan, Size, planned, programme, sizes_for, widened
from advice.trials import Trial, Trials, by_image
from advise import Advise, choose_next
from harness import Bench, kind_of
from PIL import Image
from tiny import write_folder

from dataloaders.description import Case
from dataloaders.errors import UserError
from dataloaders.splits.given import written
from dataloaders.splits.split import SplitRequest, make_split
from dataloaders.splits.split import test_cases as cases_of_test
from engine import plan
from reporting.records import Record
from sweeps.work import Job, Outcome
from system.ending import finish_with

# Figures


def scores(**means: float) -> dict[str, np.ndarray]:
    """Two rounds of 12 images: each arm at its mean, images of differing difficulty, and a little noise of its own."""
    rng = np.random.default_rng(3)
    hard = rng.normal(0, 0.1, 12)
    return {name: mean + hard + rng.normal(0, 0.01, (2, 12)) for name, mean in means.items()}


PARTS = np.tile(np.arange(12) % 3, (2, 1))


def test_a_gain_and_its_chance_are_those_of_the_correlated_t_test():
    """Of four images in two parts: their spread, or that of the parts' networks, whichever leaves more open."""
    given = evidence.estimate(np.array([[0.1, 0.3, 0.2, 0.2]]), np.array([[0, 0, 1, 1]]))
    images = np.sqrt(0.02 / 3) * np.sqrt(1 / 4 + 1 / 2)
    assert (given.mean, given.scale, given.freedom) == (pytest.approx(0.2), pytest.approx(images), 3), "the parts are equal"
    assert given.chance_below == pytest.approx(0.0331, abs=1e-4)  # Student's t, 3 degrees, at 2.8284
    assert given.interval == pytest.approx((0.2 - 2.3534 * images, 0.2 + 2.3534 * images), abs=1e-4)
    given = evidence.estimate(np.array([[0.1, 0.1, 0.3, 0.3]]), np.array([[0, 0, 1, 1]]))
    assert given.freedom == 1 and given.scale == pytest.approx(np.sqrt(0.02) * np.sqrt(1 / 2 + 1)), "two networks, and not four images"
    assert evidence.estimate(np.array([[0.5, np.nan]]), np.array([[0, 1]])).chance_below == 0.5, "one image says nothing"
    assert evidence.estimate(np.zeros((1, 4)), np.array([[0, 0, 1, 1]])).chance_below == 0.5
    one = evidence.estimate(np.array([[0.50, 0.51, np.nan, np.nan]]), np.array([[0, 0, 1, 1]]))
    assert one.mean == pytest.approx(0.505) and np.isinf(one.interval).all(), "of one network alone nobody knows how networks differ"
    found = scores(A=0.5, B=0.6)
    assert evidence.gain(found, "B", "A", PARTS).mean == pytest.approx(0.1, abs=0.02), "paired: what is hard for both counts for neither"
    found["A"][1] = np.nan
    assert evidence.gain(found, "B", "A", PARTS).images == 12, "on the rounds that both have"


def test_halving_keeps_the_better_half_and_who_is_nearly_as_good():
    arms = {"S": 0.5, "T": 0.52, "A": 0.7, "B": 0.7001, "C": 0.6, "D": 0.55}
    assert set(evidence.survivors(scores(**arms), ["S", "T"], list("ABCD"), PARTS)) == {"T", "A", "B"}
    assert evidence.survivors(scores(S=0.5, A=0.7, B=0.3, C=0.2), ["S"], ["A", "B", "C"], PARTS) == ["S", "A"], "clearly worse goes at once"
    assert evidence.survivors(scores(S=0.5), ["S"], [], PARTS) == ["S"]


def test_the_luck_of_the_pick_is_taken_out():
    """Of eight arms without any difference the best looks better than another, and its pick does not."""
    rng = np.random.default_rng(0)
    best, honest = [], []
    for _ in range(200):
        table = {f"arm{k}": rng.normal(0.5, 0.1, (1, 10)) for k in range(8)}
        base = {"base": rng.normal(0.5, 0.1, (1, 10))}
        others = list(table)
        found = table | base
        parts = np.arange(10)[None] % 3
        best.append(evidence.gain(found, evidence.leader(found, others), "base", parts).mean)
        honest.append(evidence.gain_of_choice(found, "base", others, parts).mean)
    assert np.mean(best) > 0.03 and abs(np.mean(honest)) < 0.015


def test_a_power_law_is_found_and_says_what_a_gain_is_worth():
    hard = np.linspace(0.8, 1.2, 12)
    by_budget = {float(m): 1 - 0.8 * m**-0.5 * hard[None] for m in (2, 4, 9)}
    found = curve.fitted(by_budget)
    assert found is not None and found.tells and (found.a, found.b) == pytest.approx((0.8, 0.5), abs=1e-6)
    better = 1 - 0.8 * 18**-0.5 * hard
    more = curve.worth(found, 9, by_budget[9.0][0], better)
    assert more is not None and more.more == pytest.approx(9, abs=1e-6) and more.low <= 9 <= more.high
    assert curve.worth(found, 9, by_budget[9.0][0], by_budget[9.0][0]).more == 0
    beyond = curve.worth(found, 9, by_budget[9.0][0], 1 - 0.8 * 400**-0.5 * hard)
    assert beyond is not None and beyond.more is None and beyond.high is None
    rng = np.random.default_rng(1)
    flat = curve.fitted({float(m): rng.normal(0.5, 0.1, (1, 12)) for m in (2, 4, 9)})
    assert flat is not None and not flat.tells and curve.worth(flat, 9, better, better) is None
    assert curve.fitted({2.0: hard[None]}) is None


# Time


def test_a_plan_fits_its_time_or_says_how_much_is_needed():
    arms, sizes = ARMS[2], [Size((256, 256), 24, 12), Size((64, 64), 8, 4)]
    step = dict(zip(sizes, (6.0, 0.06)))
    found = {hours: planned(3600 * hours, arms, 3, 2, step, 8.0, 30000) for hours in (0.6, 2, 100, 6000)}
    for hours, one in found.items():
        kept = [arm for arm in arms if arm.name in one.arms]
        assert one.seconds <= 3600 * hours and one.runs == sum(runs for _, runs in programme(kept, 3, 2, one.rounds))
    assert [one.size.patch[0] for one in found.values()] == [64, 64, 256, 256] and found[6000].steps == 30000
    assert found[0.6].rounds == 3 and not found[0.6].left_out and found[0.6].steps < found[2].steps
    short = planned(300, arms, 3, 2, step, 8.0, 30000)
    assert short.rounds == 1 and short.left_out[-1] == "simEps" and {"Supervised", "Supervised-strong"} <= set(short.arms)
    cost = step[short.size]
    assert widened(short, arms, 2, 300, cost, 8.0) is short
    wide = widened(short, arms, 2, 7200, cost, 8.0)
    assert not wide.left_out and wide.arms[:len(short.arms)] == short.arms and (wide.size, wide.steps) == (short.size, short.steps)
    with pytest.raises(UserError, match=r"a run 8 s more.*--hours 0\.0[0-9]"):
        planned(60, arms, 3, 2, step, 8.0, 30000)
    with pytest.raises(UserError, match=r"--hours 0\.1: too little"):
        planned(-40, arms, 3, 2, step, 8.0, 30000, used=400)
    assert planned(300, arms, 3, 2, step, 2.0, 30000, steps=100).steps == 100
    assert Plan.of_json(json.loads(json.dumps(short.as_json()))) == short
    assert sizes_for({"patch_size": (256, 256), "batch_size": 24, "labeled_bs": 12}, 2, None)[-1] == Size((64, 64), 8, 4)
    assert sizes_for({"patch_size": (256, 256)}, 2, (32, 32)) == [Size((32, 32), 24, 12), Size((32, 32), 8, 4)]


# Divisions, and splits that files give


def cases(count: int, of_a_group: int = 1) -> list[Case]:
    return [Case(f"c{k}", Path(f"c{k}.png"), Path(f"m{k}.png"), f"g{k // of_a_group}") for k in range(count)]


def test_folds_hold_every_group_out_once_and_budgets_are_nested():
    labeled = cases(12, of_a_group=2)
    assert (folds_for(6), folds_for(12), folds_for(30)) == (3, 4, 5) and budgets_for(6, 3) == [1, 2] and budgets_for(12, 4) == [2, 4]
    found = pieces(labeled, 3, 1)
    assert sorted(name for piece in found for name in piece.test) == sorted(case.name for case in labeled)
    for piece, small in zip(found, pieces(labeled, 3, 1, 2)):
        assert not set(piece.labeled) & set(piece.test) and len(piece.labeled) == 8 and len(small.labeled) == 4
        assert set(small.labeled) < set(piece.labeled) and small.test == piece.test
    assert [piece.test for piece in pieces(labeled, 3, 2)] != [piece.test for piece in found]


def test_a_file_gives_the_split(tiny_folder, tmp_path):
    question = asked(None, tiny_folder, None, None, None)
    names = [case.name for case in question.labeled]
    assert len(names) == 8 and len(question.unlabeled) == 4
    file = written(tmp_path / "s.json", "mine", names[:3], names[3:5])
    request = SplitRequest(split_file=str(file))
    split = make_split(question.source, request)
    assert split.name == "mine" and [case.name for case in split.labeled] == names[:3] and split.selection == "last" and not split.val
    assert {case.name for case in split.unlabeled} == {*names[5:], *(case.name for case in question.unlabeled)}
    assert all(case.label is None for case in split.unlabeled), "labels of others count as unknown"
    assert [case.name for case in cases_of_test(question.source, request)] == sorted(names[3:5])
    for value, said in (([["c"], names[:1]], "c is no case of the training part"), ([names[:1], names[:1]], "stands in labeled too"),
                        ([[question.unlabeled[0].name], None], "has no label")):
        written(file, "mine", *value)
        with pytest.raises(UserError, match=said):
            make_split(question.source, request)
    file.write_text('{"schema": 1, "name": "../x"}')
    with pytest.raises(UserError, match="no split with a schema and a name"):
        make_split(question.source, request)
    with pytest.raises(UserError, match="give one of them"):
        make_split(question.source, SplitRequest(split_file=str(file), fold=0))


def test_every_arm_takes_what_a_trial_says(monkeypatch, capsys, tiny_folder, tmp_path):
    monkeypatch.setenv("SEMISEG_MODEL", str(tmp_path / "model"))
    question = asked(None, tiny_folder, None, None, "mine")
    part = pieces(question.labeled, 3, 0)[1]
    for arm in ARMS[2]:
        trial = Trial(arm, part, part.file(tmp_path), Size((32, 32), 4, 2), 7, 1)
        script = import_module(f"train_{arm.method}")
        monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps({"extra": [], "runs": [[*question.common, *trial.words(None, "mine")]]})))
        plan.answer(kind_of(f"train_{arm.method}"), script.PRESETS)
        said = json.loads(capsys.readouterr().out.splitlines()[1])
        assert "error" not in said and said["steps"] == 7
        assert f"mine/{arm.name}_all_labeled/unet/round0_fold1of3_seed1" in said["folder"]


def test_a_run_learns_and_is_tested_as_the_file_says(bench: Bench, tiny_folder, tmp_path, narrow):
    question = asked(None, tiny_folder, None, None, None)
    names = [case.name for case in question.labeled]
    file = written(tmp_path / "s.json", "mine", names[:4], names[4:7])
    end = bench.train("Supervised", "--split_file", str(file), "--labeled_num", "all", "--max_iterations", "2", "--augment", "strong",
                      data=tiny_folder)
    assert end.code == 0, end.err
    result = bench.test("test_2D")["network"]
    assert [case["name"] for case in result["cases"]] == sorted(names[4:7])
    assert result["run"]["split"]["labeled"] == names[:4] and result["run"]["split"]["name"] == "mine"


# The rounds, with made scores


MADE = {"Supervised": 0.5, "Supervised-strong": 0.55, "MeanTeacher": 0.57, "FixMatch": 0.75, "CPS": 0.52, "UniMatch": 0.4, "simEps": 0.3}


class Made(Trials):
    """Trials of which each takes no time and gives a score by its arm and its labels; kept in a folder, so that they go on."""

    stop_after, count, wall = 10**9, 0, 1.0

    def prepare(self, trials):
        for trial in trials:
            place = self.question.folder / "made" / f"{trial.arm.name}_{trial.piece.name}{'_probe' * trial.probe}.json"
            self.jobs[trial] = Job(trial.title, trial.method, str(place), str(place), (), (), trial.steps)

    def run(self, trial, tick=lambda: None):
        self.prepare([trial])
        place = Path(self.jobs[trial].result)
        if place.is_file():
            return Outcome("skipped"), None
        if self.count == self.stop_after:
            raise KeyboardInterrupt
        if trial.arm.name == "UniMatch":
            return Outcome("failed", "exit code 3: out of memory"), 1.0
        self.count += 1
        rng = np.random.default_rng([len(trial.arm.name), trial.piece.round, trial.piece.fold])
        mean = MADE[trial.arm.name] + 0.1 * np.log(len(trial.piece.labeled) / 6)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps([{"name": name, "group": name, "class": "class 1", "empty": "",
                                      "dice": float(mean + rng.normal(0, 0.02))}
                                     for name in trial.piece.test]))
        return Outcome("done"), self.wall

    def training_seconds(self, trial):
        return 0.5

    def record(self, trial):
        job = self.jobs.get(trial)
        there = job is not None and Path(job.result).is_file()
        return Record(Path(job.result), {}, {}, json.loads(Path(job.result).read_text()), True) if there else None


@pytest.fixture
def question(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("SEMISEG_RESULTS", str(tmp_path / "results"))
    monkeypatch.setattr("advice.rounds.MOST_ROUNDS", 2)
    return asked(None, tiny_folder, None, None, "mine")


def rounds_of(question, hours: float, **changed) -> Rounds:
    made = Made(question, "cpu")
    for name, value in changed.items():
        setattr(made, name, value)
    return Rounds(question, made, ARMS[2], 3600 * hours, (64, 64), 100)


def test_the_best_is_advised_with_its_reasons_and_the_page_says_so(question, capsys):
    rounds = rounds_of(question, 1)
    advise.advise(rounds)
    screen = capsys.readouterr().out
    answer = answered(rounds)
    assert answer.advised == answer.best == "FixMatch" and answer.base == "Supervised-strong"
    assert answer.gain.mean == pytest.approx(0.2, abs=0.03) and answer.gain.chance_below < 0.05
    assert answer.interval[0] < 0.75 < answer.interval[1] and answer.curve.tells and answer.predicted == answer.rows[0].score.mean
    assert rounds.dropped["simEps"] == 0 and rounds.state.failed == {"UniMatch": "exit code 3: out of memory"}
    folder = question.folder
    for text in (screen, (folder / "advice.md").read_text(), (folder / "advice.html").read_text()):
        for said in ("Unlabelled data helps here: FixMatch", "the chance that there is no gain is", "more labelled images would be needed",
                     "train_FixMatch.py", "UniMatch failed", "No test part was opened", "8 labelled images"):
            assert said in text, said
    everything = json.loads((folder / "splits" / "everything.json").read_text())
    assert len(everything["labeled"]) == 8 and everything["test"] is None
    assert screen.index("Plan:") < screen.index(" done here"), "what will be done is said before"


def test_it_goes_on_and_an_interruption_leaves_an_answer(question, capsys):
    with pytest.raises(KeyboardInterrupt):
        advise.advise(rounds_of(question, 1, stop_after=10))
    assert "Does unlabelled data help?" in capsys.readouterr().out and (question.folder / "advice.html").is_file()
    used = json.loads((question.folder / "advice.json").read_text())
    rounds = rounds_of(question, 1)
    assert rounds.state.plan == Plan.of_json(used["plan"]) and rounds.state.used >= used["used"]
    rounds.go()
    other = rounds_of(question, 1)
    other.go()
    assert other.trials.count == 0 and other.dropped == rounds.dropped, "nothing is done twice, and decided as before"
    with pytest.raises(UserError, match="has not --max_iterations 100, and not 50|has not --max_iterations 50, and not 100"):
        Rounds(question, Made(question, "cpu"), ARMS[2], 3600, (64, 64), 50).go()


def test_a_state_that_is_not_as_it_was_written_or_of_other_images_is_refused(question, tmp_path):
    path = question.folder / "advice.json"
    rounds_of(question, 1, stop_after=4).make_plan()
    whole = json.loads(path.read_text())
    bare = {key: value for key, value in whole.items() if key != "sha256"}
    for text, said in ((json.dumps({**whole, "used": 0.0}), "changed after it was written"), (path.read_text()[:200], "no readable JSON"),
                       ("[]", "a list lies in it"), (json.dumps({**bare, "used": "12"}), "another kind than it writes"),
                       (json.dumps({**bare, "took": {"CPS": [None]}}), "another kind than it writes"),
                       (json.dumps({**bare, "plan": {**bare["plan"], "steps": "60"}}), "another kind than it writes"),
                       (json.dumps({**bare, "root": "/elsewhere/own"}), r"was made for /elsewhere/own, not for .*--exp advice/NAME"),
                       (json.dumps({**bare, "labeled": "other"}), "when other images were labelled.*--exp advice/NAME"),
                       (json.dumps({**bare, "masks": "other"}), "with other masks of the labelled images"),
                       (json.dumps({**bare, "unlabeled": "other"}), "beside other unlabelled images")):
        path.write_text(text)
        with pytest.raises(UserError, match=said):
            rounds_of(question, 1)
    path.write_text(json.dumps({key: value for key, value in bare.items() if key not in ("root", "masks", "unlabeled")}))
    assert rounds_of(question, 1).state.root == str(question.root.resolve()), "as an older version wrote it"


def test_a_call_that_is_refused_or_ended_early_leaves_the_page(question, capsys):
    rounds = rounds_of(question, 1)
    advise.advise(rounds)
    folder, whole = question.folder, answered(rounds)
    page = (folder / "advice.md").read_text()
    narrow = Rounds(question, Made(question, "cpu"), arms_of(2, ("FixMatch",)), 3600, (64, 64), 100)
    with pytest.raises(UserError, match="has not --methods FixMatch alone"):
        advise.advise(narrow)
    assert (folder / "advice.md").read_text() == page, "what is refused has no page"
    state = rounds.state
    state.used = 3600.0
    state.write(folder / "advice.json")
    over = rounds_of(question, 1)
    advise.advise(over)
    answer = answered(over)
    assert over.state.failed == {"UniMatch": "exit code 3: out of memory"} and over.dropped == rounds.dropped, "no time to try it again"
    assert answer.gain == whole.gain and [row.rounds for row in answer.rows] == [row.rounds for row in whole.rows]

    class Stopped(Made):
        def run(self, trial, tick=lambda: None):
            raise KeyboardInterrupt

    stopped = Rounds(question, Stopped(question, "cpu"), ARMS[2], 7200, (64, 64), 100)
    with pytest.raises(KeyboardInterrupt):
        advise.advise(stopped)  # as UniMatch is tried again, in the first part of the first division
    assert answered(stopped).gain == whole.gain and "UniMatch" not in stopped.state.failed
    capsys.readouterr()


def test_who_failed_or_is_not_through_is_not_advised(question):
    """MeanTeacher is ahead on one part, and then fails or is not through: the gain is FixMatch's, and so is its name."""
    rounds = rounds_of(question, 1)
    rounds.go()
    for trial in [trial for (arm, piece), trial in rounds._made.items() if arm == "MeanTeacher"]:
        place = Path(rounds.trials.jobs[trial].result)
        if trial.piece.round or trial.piece.fold:
            place.unlink(missing_ok=True)
        else:
            place.write_text(json.dumps([{**case, "dice": 1.0} for case in json.loads(place.read_text())]))
    assert answered(rounds).best == "FixMatch" and "FixMatch gains" in answered(rounds).verdict[0]
    rounds.state.failed["FixMatch"] = "exit code 3"
    assert answered(rounds).best == "CPS", "what failed is left out, as the page says"


def test_arms_are_compared_in_rounds_that_they_share():
    """A is dropped after the first round, where methods gained much; B, a little ahead there, goes on and gains nothing in the second."""
    nan = np.full(6, np.nan)
    easy, hard = 0.8 + np.arange(6) / 100, 0.4 + np.arange(6) / 100
    table = {"S": np.stack([easy, hard]), "A": np.stack([easy + 0.05, nan]), "B": np.stack([easy + 0.06, hard])}
    parts = np.tile(np.arange(6) % 3, (2, 1))
    assert evidence.leader(table, ["A", "B"]) == "B", "by the first round, which both share"
    assert evidence.gain_of_choice(table, "S", ["A", "B"], parts, {"A"}).mean == pytest.approx(0.03), "B's, and not A's 0.05"


def test_a_gain_is_over_the_row_that_is_named(question):
    """Not over a choice of supervised rows: that told 12 points where the table beside it had 9."""
    rounds = rounds_of(question, 1)
    rounds.go()
    answer, table = answered(rounds), rounds.scores()
    others = [name for name in table if name not in ("Supervised", "Supervised-strong")]
    chosen = evidence.picked(table, others, rounds.dropped)
    assert answer.gain.mean == pytest.approx(float(np.nanmean(evidence.means(chosen - table[answer.base]))))
    assert f"points of Dice over {answer.base} (" in answer.verdict[0]


def test_the_choice_without_an_image_goes_on_as_the_rounds_did():
    """A is dropped after the first round, B and C go on: without A the better of these in both rounds, not the best of the first."""
    nan, first = np.full(6, np.nan), 0.5 + np.arange(6) / 100
    table = {"A": np.stack([first + 0.1, nan]), "B": np.stack([first + 0.06, first]), "C": np.stack([first + 0.05, first + 0.2])}
    assert evidence.picked(table, ["A", "B", "C"], {"A"})[1] == pytest.approx(table["B"][1]), "C was behind in the round of all"
    assert np.isnan(evidence.picked(table, ["A", "B", "C"])[1]).all(), "where none is dropped, A"
    assert evidence.picked(table, ["B", "C"])[1] == pytest.approx(table["C"][1])


def test_who_was_dropped_is_not_advised(question, monkeypatch):
    """However good it was in the rounds that it had."""
    rounds = rounds_of(question, 3)
    rounds.go()
    arm = next(name for name in rounds.dropped if name not in ("Supervised", "Supervised-strong"))
    for (name, _), trial in rounds._made.items():
        place = Path(rounds.trials.jobs[trial].result)
        if name == arm and place.is_file():
            place.write_text(json.dumps([{**case, "dice": 1.0} for case in json.loads(place.read_text())]))
    handed = []
    monkeypatch.setattr("advice.answer.gain_of_choice", lambda *given: handed.append(given[-1]) or evidence.gain_of_choice(*given))
    assert answered(rounds).best not in rounds.dropped
    assert handed == [rounds.dropped], "nor is its gain told"


def test_a_gain_that_was_not_seen_is_not_said_to_be_none(question):
    rounds = rounds_of(question, 1)
    rounds.go()
    score = answered(rounds).rows[0].score
    for mean, said in ((-0.02, "was not seen to help here"), (-0.3, "does not help here"), (0.02, "was not seen to help here"),
                       (0.05, "may help here"), (0.1, "may help here"), (0.3, "helps here")):
        gain = dataclasses.replace(answered(rounds).gain, mean=mean, scale=0.1)
        assert mean != 0.1 or 0.1 < gain.chance_below < 0.2, "one in ten is the limit: at one in five it was said where it was not so"
        assert f"Unlabelled data {said}" in _verdict(rounds, "Supervised", "FixMatch", "FixMatch", gain, score)[0]


def test_each_part_has_first_weights_of_its_own(question):
    """With one seed for all parts of a division, all its supervised networks of NEU-Seg missed the same class, and a gain of 38 points with
    a chance of 2 % was told where there was none: the spread of the parts did not know of it."""
    rounds = rounds_of(question, 1)
    rounds.go()
    seeds = {(piece.round, piece.fold): set() for _, piece in rounds._made}
    for (_, piece), trial in rounds._made.items():
        seeds[piece.round, piece.fold].add(trial.seed)
    assert all(len(one) == 1 for one in seeds.values()), "arms are paired"
    assert len(set.union(*seeds.values())) == len(seeds) > 3


def test_the_curve_scores_its_budgets_by_the_same_classes(question):
    """FixMatch finds a class that no image has. Supervised training must not look better for it, nor its full budget than smaller ones."""
    rounds = rounds_of(question, 1)
    rounds.go()
    before = rounds.curve_scores()[1]
    for (arm, _), trial in rounds._made.items():
        place = Path(rounds.trials.jobs[trial].result)
        if place.is_file():
            cases_ = json.loads(place.read_text())
            other = {"dice": 0.0, "empty": "false"} if arm == "FixMatch" else {"dice": None, "empty": "both"}
            absent = [{**case, "class": "class 2", **other} for case in cases_]
            place.write_text(json.dumps(cases_ + absent))
    arm, after = rounds.curve_scores()
    assert rounds.scores()[arm][0] == pytest.approx(after[rounds.trained_on][0])
    assert all(after[budget] == pytest.approx(before[budget]) for budget in before)


def test_where_nothing_was_learned_nothing_is_said_of_unlabelled_data(question):
    """Sixty steps leave many a network at a Dice of 0: all arms are equal then, which is no sign that unlabelled data does not help."""
    rounds = rounds_of(question, 1)
    rounds.go()
    for trial in rounds._made.values():
        place = Path(rounds.trials.jobs[trial].result)
        if place.is_file():
            place.write_text(json.dumps([{**case, "dice": 0.0} for case in json.loads(place.read_text())]))
    answer = answered(rounds)
    assert "No method has learned to find anything in 100 steps" in answer.verdict[0] and len(answer.verdict) == 1
    assert answer.gain is None and answer.advised == answer.base and answer.worth is None


def test_the_page_of_few_labels_and_of_odd_names(question):
    rounds = rounds_of(question, 1)
    rounds.go()
    answer = answered(rounds)
    few = dataclasses.replace(answer.curve, budgets=(1.0, 2.67), b=0.0)
    assert _worth(rounds, answer.gain, few, None)[0].endswith("with labels between 1 and 3.")
    for more, said in ((0.3, "fewer than one of the"), (0.7, "At least about 1 more")):
        assert said in _worth(rounds, answer.gain, few, Worth(more, 0.0, None))[0]
    assert _shown(Path("/tmp/Teile d'été $x")) == """'/tmp/Teile d'"'"'été $x'"""
    assert pages.in_cell("a | b\nc") == "a \\| b c"


def test_the_time_of_the_final_training_is_that_of_its_own_size(question, monkeypatch):
    """--patch_size is of the trials; the command of the final model has the data set's own size, and its time is said beside it."""
    monkeypatch.setattr("advice.rounds.measured", lambda data, sizes, *_: {size: 1e-6 * np.prod(size.patch) * size.batch for size in sizes})
    rounds = rounds_of(question, 100)
    rounds.make_plan()
    own = sizes_for(question.data.defaults, 2, None)[0]
    assert own.patch != (64, 64) and rounds.state.own_step == pytest.approx(1e-6 * np.prod(own.patch) * own.batch)
    assert rounds.state.plan.size.patch == (64, 64)


def test_labelled_images_that_are_nearly_the_same_are_told(question, tmp_path):
    root = shutil.copytree(question.root, tmp_path / "twice")
    assert near_copies(question) == []
    for kind in ("images", "masks"):
        shutil.copy(root / kind / "piece 3.png", root / kind / "copy.png")
    twice = asked(None, root, None, None, "mine")
    assert "copy (train) and piece 3 (train)" in near_copies(twice)[0] and "groups.csv" in near_copies(twice)[0]
    (root / "groups.csv").write_text("image,group\n" + "".join(
        f"{case.name},{'one' if case.name in ('copy', 'piece 3') else case.name}\n" for case in (*twice.labeled, *twice.unlabeled)))
    assert near_copies(asked(None, root, None, None, "mine")) == [], "they are held out together"
    rounds = rounds_of(twice, 1)
    rounds.remarks = tuple(near_copies(twice))
    rounds.go()
    assert rounds.remarks[0] in answered(rounds).unknown


def test_two_advisers_at_once_are_told(question):
    class Held(Made):
        def run(self, trial, tick=lambda: None):
            return (Outcome("in use", "in use by process 7"), 0.1) if not trial.probe else super().run(trial, tick)

    rounds = Rounds(question, Held(question, "cpu"), ARMS[2], 3600, (64, 64), 100)
    with pytest.raises(UserError, match="in use by process 7.*run twice"):
        rounds.go()
    assert not rounds.state.took


@pytest.mark.parametrize("hours, tried", [(0.007, 3), (2, len(MADE))])
def test_methods_for_which_there_was_no_time_come_in_when_there_is(question, hours, tried):
    rounds = rounds_of(question, 1, wall=1.0)
    rounds.seconds, rounds.state.step, rounds.state.beside = 3600 * hours, 0.01, 1.0
    rounds.state.plan = Plan(Size((64, 64), 8, 4), 100, tuple(MADE)[:3], tuple(MADE)[3:], 1, 3, 9, 60.0)
    rounds.go()
    assert len(rounds.state.plan.arms) == tried and set(rounds.scores(1)) == {*tuple(MADE)[:tried]} - {"UniMatch"}, "which fails"


def test_the_time_ends_the_rounds(question):
    rounds = rounds_of(question, 1, wall=2000.0)
    rounds.state.plan, rounds.state.step, rounds.state.beside = Plan(Size((64, 64), 8, 4), 100, tuple(MADE), (), 3, 3, 9, 9.0), 0.1, 1.0
    rounds.state.used = 2500.0
    rounds.go()
    answer = answered(rounds)
    assert rounds.trials.count == 6, "one run of each arm was expected to fit, and no second one"
    assert any("The time is used up" in said and "--hours" in said for said in answer.unknown) and answer.gain is None
    page = pages.markdown(pages.sections(rounds, answer))
    assert "On the 3 of 8 images that were held out so far its Dice was 0." in page and "(nine in ten" not in page, "of one network alone"
    assert "| not known | not known | 1 |" in page, "and no chance either"
    assert "Of the 8 labelled images only these have been held out so far: " in page and ", 3 under Supervised" in page
    assert "no answer so far" in answer.verdict[0]


def test_scores_by_image_count_a_false_alarm():
    def record(rows):
        return Record(Path(), {}, {}, [{"name": n, "group": g, "class": c, "dice": d, "empty": e} for n, g, c, d, e in rows], True)

    same = [("b", "g", "x", 0.4, ""), ("b", "g", "y", None, "both")]
    bare = [("c", "h", "x", None, "both"), ("d", "i", "x", None, "both")]
    first = record([("a", "g", "x", 0.8, ""), ("a", "g", "y", None, "both"), *same, *bare])
    second = record([("a", "g", "x", 0.6, ""), ("a", "g", "y", 0.0, "false"), *same, ("c", "h", "x", 0.0, "false"), bare[1]])
    found = by_image([first, second, None], ["g", "h", "i"])
    assert found[:, 0] == pytest.approx([(0.8 + 0.4) / 2, (0.3 + 0.4) / 2, np.nan], nan_ok=True), "each by what it found itself"
    assert found[:, 1] == pytest.approx([1, 0, np.nan], nan_ok=True) and np.isnan(found[:, 2]).all(), "images without a class"


# Bad input


def test_what_cannot_be_asked_gets_a_sentence(tiny_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SEMISEG_RESULTS", str(tmp_path / "results"))
    for images, masks, said in ((12, 3, "3 labelled images; with fewer than 4 nothing can be held out.*--next 10"),
                                (8, 8, "all 8 images are labelled.*--labeled_num 4")):
        root = write_folder(tmp_path / f"D{masks}", images, masks)
        with pytest.raises(UserError, match=said):
            check_answerable(asked(None, root, None, None, None))
    root = write_folder(tmp_path / "film", 8, 4)
    (root / "groups.csv").write_text("image,group\n" + "".join(f"piece {k},film {k % 4}\n" for k in range(8)))
    film = asked(None, root, None, None, None)
    with pytest.raises(UserError, match="without labels: all 4 unlabelled images are of a patient.*groups.csv"):
        check_answerable(film)
    assert finish_with(lambda: choose_next(Advise(root, next=2))) == 2
    assert "all 4 unlabelled images are of a patient" in capsys.readouterr().err
    for words, said in ((Advise(tiny_folder, hours=0), "--hours 0: a time above 0"), (Advise(tiny_folder, next=0), "--next 0: a"),
                        (Advise(tiny_folder, run=tmp_path), "add --next 10"),
                        (Advise(tiny_folder, methods=("UniMach",)), "--methods UniMach"),
                        (Advise(tiny_folder, patch_size=(64,)), "2 sides from 16"), (Advise(tmp_path / "none"), "there is no such folder"),
                        (Advise(tiny_folder, protocol="clean"), "--protocol clean"), (Advise(tiny_folder, exp="../x"), "--exp ../x")):
        assert finish_with(lambda words=words: advise.main(words)) == 2
        assert said in capsys.readouterr().err
    assert [arm.name for arm in arms_of(3, ("UAMT",))] == ["Supervised", "Supervised-strong", "UAMT"]
    assert isinstance(ARMS[3][0], Arm) and Piece(0, 1, 3, (), (), 2).name == "round0_fold1of3_2labels"


# Which images next


def test_the_choice_is_spread_without_near_copies_or_a_second_of_a_group():
    rows = np.array([[0, 0], [0.1, 0], [5, 0], [5, 0.1], [0, 5], [9, 9], [2, 2]], float)
    prints = np.random.default_rng(0).normal(size=(7, 32, 32)).astype(np.float32)
    prints /= np.linalg.norm(prints, axis=(1, 2), keepdims=True)
    prints[3] = np.rot90(prints[2])
    labeled = np.array([True] + [False] * 6)
    groups = ["a", "b", "c", "d", "e", "f", "e"]
    assert chosen(rows, labeled, groups, prints, 3) == ([5, 3, 4], 2), "2 is 3 turned, 6 is of 4's group"
    assert len(chosen(rows, labeled, groups, prints, 9)[0]) == 4
    expected = np.array([0.9, 0.1, 0.3, 0.2, 0.9, 0.9, 0.4])
    assert chosen(rows, labeled, groups, prints, 1, expected)[0] == [3], "the furthest of the four of which least is expected"
    many = np.random.default_rng(1).normal(size=(100, 2))
    many[7] = 50
    assert odd_ones(many)[7] and odd_ones(many).sum() == 5 and not odd_ones(many[:10]).any()


def test_next_of_a_folder_without_masks(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SEMISEG_RESULTS", str(tmp_path / "results"))
    root = write_folder(tmp_path / "D", 12, 0)
    (root / "masks").mkdir(exist_ok=True)
    (root / "masks" / ".DS_Store").touch()
    shutil.copy(root / "images" / "piece 3.png", root / "images" / "copy.png")
    (root / "images" / "bad.png").write_bytes(b"no picture")
    assert finish_with(lambda: choose_next(Advise(root, next=12))) == 0
    said, folder = capsys.readouterr().out, tmp_path / "results" / "advice" / "D" / "next_12"
    names = (folder / "next.txt").read_text().split("\n")[:-1]
    assert len(names) == 12 and len({"copy", "piece 3"} & set(names)) == 1 and "bad.png" in said and "1 was passed over" in said
    links = sorted((folder / "links").iterdir())
    assert len(links) == 12 and all(Image.open(link).size == (48, 48) for link in links)
    assert Image.open(folder / "next.png").width > 300
    assert finish_with(lambda: choose_next(Advise(root, next=3, output=folder))) == 0 and len(list((folder / "links").iterdir())) == 3
    assert (np.asarray(Image.open(folder / "next.png").convert("L"))[0] == 255).all(), "the titles of the only row are not cut off"
    (tmp_path / "file").touch()
    assert finish_with(lambda: choose_next(Advise(root, next=3, output=tmp_path / "file"))) == 2
    assert "file: cannot be made (File exists); choose another place by --output" in capsys.readouterr().err
    first, *_ = sorted((folder / "links").iterdir())
    first.unlink()
    first.with_suffix(".json").write_text("{}")  # as many as there were links, and one is somebody's work
    assert finish_with(lambda: choose_next(Advise(root, next=3, output=folder))) == 2 and first.with_suffix(".json").is_file()
    assert "Choose another place by --output" in capsys.readouterr().err


def test_next_of_a_run(bench: Bench, tiny_folder, tmp_path, narrow, monkeypatch, capsys):
    monkeypatch.setenv("SEMISEG_RESULTS", str(tmp_path / "results"))
    assert bench.train("Supervised", "--max_iterations", "2", data=tiny_folder).code == 0
    assert json.loads((bench.run_folder() / "config.json").read_text())["classes"] == ["background", "class 1"]
    assert finish_with(lambda: choose_next(Advise(next=3, run=bench.run_folder()))) == 0, capsys.readouterr().err
    rows = [line.split(",") for line in (tmp_path / "results/advice/folder/own/all_labeled/next_3/next.csv").read_text().splitlines()]
    assert rows[0][3] == "expected_dice" and len(rows) == 4 and all(0 <= float(row[3]) <= 1 for row in rows[1:])
    assert {row[1] for row in rows[1:]} <= {f"piece {k}" for k in range(8, 12)}, "what has a mask is not drawn again, tested or not"


def test_next_of_a_run_and_another_folder(bench: Bench, tiny_folder, tmp_path, narrow, monkeypatch, capsys):
    """The photographs of another day: with a few masks, whose names are those of images that the run learned from; and with none."""
    monkeypatch.setenv("SEMISEG_RESULTS", str(tmp_path / "results"))
    assert bench.train("Supervised", "--max_iterations", "2", data=tiny_folder).code == 0
    for place, masks in ((write_folder(tmp_path / "later", 8, 4, seed=1), 4), (write_folder(tmp_path / "bare", 8, 0, seed=1), 0)):
        if not masks:
            (place / "masks").rmdir()
        folder = tmp_path / f"next{masks}"
        words = Advise(place, next=8, run=bench.run_folder(), output=folder)
        assert finish_with(lambda words=words: choose_next(words)) == 0, capsys.readouterr().err
        said = capsys.readouterr().out
        assert f"{8 - masks} of {8 - masks} unlabelled images" in said and f"; {masks} are labelled" in said
        assert len((folder / "next.txt").read_text().splitlines()) == 8 - masks
        assert all(0 <= float(row.split(",")[3]) <= 1 for row in (folder / "next.csv").read_text().splitlines()[1:])


def test_looks_tell_a_dark_picture_from_a_rough_one(tmp_path):
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    for k in range(4):
        for word, made in (("dark", rng.normal(40, 1, (40, 40))), ("bright", rng.normal(200, 1, (40, 40))),
                           ("rough", rng.normal(120, 60, (40, 40)))):
            Image.fromarray(np.clip(made, 0, 255).astype(np.uint8)).save(tmp_path / "images" / f"{word}{k}.png")
    found, remarks = plain_looks(candidates_in(tmp_path))
    rows = np.stack([look.plain for look in found])
    places, _ = chosen(rows, np.zeros(12, bool), [str(k) for k in range(12)], np.stack([look.print.small for look in found]), 3)
    assert not remarks and len({found[place].candidate.name[:-1] for place in places}) == 3
