"""Is the advice right? code/advise.py on few labels, beside what its methods reach on held-out images; and --next beside random choice.

    python benchmarks/advice.py advise NEU-Seg 6      the adviser on the first 6 labels, then the truth: every arm, several seeds
    python benchmarks/advice.py next NEU-Seg          6 labels, 6 more chosen or drawn, supervised networks on 12
    python benchmarks/advice.py table                 writes results/advice.md of what there is

Reads $SEMISEG_DATA (what unpack.py lays out; Phantom is drawn there), runs in $SEMISEG_MODEL, result files in $SEMISEG_RESULTS. What
is done is not done again. All at 64 x 64, 8 images a step and a fixed number of steps, so that a run takes seconds on a core; runs are
forked from a server that has imported everything, else starting them would take longer than training. The adviser never opens the test
part; the truth is measured on it (of NEU-Seg and MT the clean split), after the advice was written down.
"""
from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "code"))

import numpy as np  # noqa: E402
from advice import rounds as rounds_of_advice  # noqa: E402
from advice.answer import HELPS, NO_HELP, answered  # noqa: E402
from advice.arms import ARMS, SUPERVISED, Arm  # noqa: E402
from advice.curve import exponents  # noqa: E402
from advice.evidence import estimate, gain_of_choice, leader  # noqa: E402
from advice.folds import Piece, folds_for  # noqa: E402
from advice.pages import as_json, write  # noqa: E402
from advice.question import Question, asked  # noqa: E402
from advice.rounds import Rounds  # noqa: E402
from advice.schedule import Plan, Size  # noqa: E402
from advice.trials import Trial, Trials  # noqa: E402

from dataloaders.splits.draws import groups_of  # noqa: E402
from reporting.records import group_of, read  # noqa: E402
from storage.checkpoint import write_json  # noqa: E402
from storage.folders import results_folder  # noqa: E402
from sweeps.work import Job, Outcome, tested, trained  # noqa: E402

SIZE, SECONDS, ROUNDS = Size((64, 64), 8, 4), 36000.0, 2
STEPS = {"NEU-Seg": 100, "Phantom": 100, "MT": 400}
"""Of a trial. Networks of MT have found nothing after 100 (every arm 0.000 on the test part, from 6 labels)."""
ARMS_TRIED = ("Supervised", "Supervised-strong", "MeanTeacher", "FixMatch")
NEXT_STEPS = 400
"""Of the networks by which a choice of images is judged. After 100 steps 18 labels of NEU-Seg were no better than 12 (0.27, 0.26)."""
SEEDS, DRAWS, LARGER = (11, 12), 10, 3
"""Of the truth; draws of 6 more labels, and of 12 more."""
BUDGETS = (6, 12, 30)
SETS = {"NEU-Seg": "NEU_Seg", "MT": "MT", "Phantom": "Phantom"}
PRELOAD = ["torch", "test_2D", *(f"train_{name}" for name in ("Supervised", "MeanTeacher", "FixMatch"))]
PAGE = ROOT / "results" / "advice.md"
STORE = ROOT / "results" / "advice.json"
"""What was said and measured, of all sessions: runs are not in the repository, and a line of the page takes a quarter of an hour."""
MARKER = "<!-- What stands below this line is written by hand and kept. -->"


# Runs, forked


def child(words: Sequence[str], screen: str) -> None:
    """A training script or test_2D.py in a process that has imported everything; no picture is drawn."""
    import torch

    handle = os.open(screen, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    torch.set_num_threads(1)
    from matplotlib.figure import Figure
    setattr(Figure, "savefig", lambda *_, **__: None)  # noqa: B010
    setattr(Figure, "tight_layout", lambda *_, **__: None)  # noqa: B010
    module = import_module(Path(words[0]).stem)
    if module.__name__ == "test_2D":
        module.main(module.Test(run=Path(words[words.index("--run") + 1]), device="cpu"))
        return
    from engine import Options, launch
    kind = next(k for k in vars(module).values() if isinstance(k, type) and issubclass(k, Options) and k.__module__ == module.__name__)
    sys.argv = list(words)
    launch(module.main, kind, module.PRESETS, list(words[1:]))


def forked(job: Job, tick: Callable[[], object]) -> Outcome:
    """A job of a sweep, forked."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    os.environ["PYTHONPATH"] = str(ROOT / "code")  # of the server, which is not given this process's search path
    Path(job.folder).mkdir(parents=True, exist_ok=True)
    for words, done in ((job.train, trained), (job.test, tested)):
        if done(job):
            continue
        process = context.Process(target=child, args=(words, str(Path(job.folder) / "sweep.log")))
        process.start()
        process.join()
        if not done(job):
            return Outcome("failed", f"exit code {process.exitcode}, see {job.folder}/sweep.log")
    return Outcome("done")


# The adviser


def question_of(name: str, labels: int) -> Question:
    """With so many labelled patients, or images of as many pieces: the first of the training part; all other labels count as unknown."""
    root = Path(os.environ["SEMISEG_DATA"]) / SETS[name]
    found = asked(name, root, None, "all", f"advice/{name}/{labels}")
    groups = list(groups_of(found.labeled).items())[:labels]
    few = [case for _, members in groups for case in (members if found.data.unit == "patient" else members[:1])]
    names = {case.name for case in few}
    known = {group for group, _ in groups}
    others = [case for case in found.labeled if case.name not in names and case.group not in known]
    return replace(found, budget=str(labels), labeled=tuple(few), unlabeled=tuple(others))


def rounds_of(name: str, labels: int) -> Rounds:
    """An adviser with this benchmark's plan in place of one that was measured."""
    question = question_of(name, labels)
    arms = tuple(arm for arm in ARMS[2] if arm.name in ARMS_TRIED)
    rounds_of_advice.MOST_ROUNDS = ROUNDS
    rounds = Rounds(question, Trials(question, "cpu", forked), arms, SECONDS)
    if rounds.state.plan is None:
        rounds.state.plan = Plan(SIZE, STEPS[name], ARMS_TRIED, (), ROUNDS, rounds.folds, 0, SECONDS)
        rounds.state.step, rounds.state.own_step, rounds.state.beside = 0.06, 3.0, 2.0
    return rounds


def advise(name: str, labels: int) -> None:
    rounds = rounds_of(name, labels)
    rounds.told = lambda: print(f"{name} {labels}: {rounds.state.used:.0f} s", flush=True)
    rounds.go()
    answer = answered(rounds)
    write(rounds, answer)
    print("\n".join(answer.verdict), flush=True)
    if key(name, labels) not in store()["measured"]:
        truth(rounds.question, rounds.trials, rounds.arms, labels)
    print(json.dumps(as_json(rounds, answer)["rows"], indent=1)[:1500])


# The truth


def truth_trials(question: Question, arms: Sequence[Arm], labels: int) -> list[Trial]:
    """Every arm with all labels; and supervised training with more, the first of the order."""
    found = []
    for seed in SEEDS:
        piece = Piece(seed, 0, 1, tuple(case.name for case in question.labeled), (), None)
        found += [trial_of(question, arm, piece, "truth", seed) for arm in arms]
        for more in (2, 4):
            names = tuple(case.name for case in question_of(question.data.name, more * labels).labeled)
            found += [trial_of(question, arm, Piece(seed, 0, 1, names, ()), f"truth{more}", seed) for arm in arms if not arm.unlabeled]
    return found


def trial_of(question: Question, arm: Arm, piece: Piece, word: str, seed: int, steps: int | None = None) -> Trial:
    from dataloaders.splits.given import written
    name = f"{word}_seed{seed}"
    file = written(question.folder / "splits" / f"{name}.json", name, piece.labeled, None)
    return Trial(arm, piece, file.resolve(), SIZE, steps or STEPS[question.data.name], seed)


def truth(question: Question, trials: Trials, arms: Sequence[Arm], labels: int) -> None:
    wanted = [trial for trial in truth_trials(question, arms, labels) if known_by(question.data.name, trial, labels) is None]
    trials.prepare(wanted)
    for trial in wanted:
        outcome, seconds = trials.run(trial)
        print(f"truth {trial.arm.name} {trial.file.stem}: {outcome.state} {seconds or 0:.0f} s {outcome.reason}", flush=True)


def known_by(name: str, trial: Trial, labels: int) -> float | None:
    """The score of the same run where half or a quarter of the labels were asked about, of which it was one with more labels."""
    word, seed = trial.file.stem.split("_seed")
    times = int(word.removeprefix("truth") or 1)
    for fewer in BUDGETS:
        if fewer < labels and times * labels in (2 * fewer, 4 * fewer):
            values = (kept_or_measured(name, fewer) or {}).get(f"{trial.arm.name} truth{times * labels // fewer}")
            if values:
                return values[SEEDS.index(int(seed))]
    return None


@cache
def kept_or_measured(name: str, labels: int) -> dict[str, list[float]] | None:
    return store()["measured"].get(key(name, labels)) or measured_of(name, labels)


def score_of(trials: Trials, trial: Trial) -> float | None:
    """Mean over the test images of the mean Dice over the classes that each has, or in which something is found."""
    record = trials.record(trial)
    if record is None:
        return None
    by_case: dict[str, list[float]] = {}
    for case in record.cases:
        if case["dice"] is not None:
            by_case.setdefault(case["name"], []).append(case["dice"])
    return float(np.mean([np.mean(values) for values in by_case.values()]))


# What is known already: stored scores in place of trials


def stored(draws: int = 400) -> list[str]:
    """Lines of a table: the adviser's arithmetic on results/phantom_folds, where every method was trained on 7 patients in each of five
    folds and scored on the 20 others. Patients of several folds stand for the labelled images, each scored by its fold's networks, as a
    part of the labelled images is by the networks of a trial; the truth is the mean over all folds and patients."""
    records = [record for record in read([ROOT / "results" / "phantom_folds"])[0] if record.quoted and record.labeled_num == "7"]
    arms = sorted({record.method for record in records}, key=lambda arm: (arm != "Supervised", arm))
    of: dict[tuple[str, int | None], dict[str, float]] = {}
    for record in records:
        values: dict[str, list[float]] = {}
        for case in record.cases:
            values.setdefault(group_of(case), []).append(0.0 if case["dice"] is None else case["dice"])
        of[record.method, record.fold] = {group: float(np.mean(some)) for group, some in values.items()}
    folds = sorted({fold for _, fold in of}, key=str)
    truth = {arm: float(np.mean([value for fold in folds for value in of[arm, fold].values()])) for arm in arms}
    top = max(truth, key=lambda arm: truth[arm])
    lines = [f"Measured: {', '.join(f'{arm} {value:.3f}' for arm, value in sorted(truth.items(), key=lambda one: -one[1]))}.", "",
             "| labels | best was advised | advised within its interval of the best | short of the best, mean (worst tenth) | "
             "true gain in the interval | score in the interval | said to help | said not to help | width of the gain's interval |",
             "|" + "---|" * 9]
    for count in (6, 12, 30):
        parts = min(folds_for(count), len(folds))
        short, within, taken, gains, scores, wide, helps, none = [], [], [], [], [], [], 0, 0
        for draw in range(draws):
            rng = np.random.default_rng([count, draw])
            table: dict[str, list[float]] = {arm: [] for arm in arms}
            places: list[int] = []
            for part, fold in enumerate(rng.permutation(len(folds))[:parts]):
                there = sorted(of["Supervised", folds[fold]])
                for k in rng.permutation(len(there))[: count // parts + (part < count % parts)]:
                    places.append(part)
                    for arm in arms:
                        table[arm].append(of[arm, folds[fold]][there[k]])
            rows = {arm: np.array([values]) for arm, values in table.items()}
            at = np.array([places])
            found, best = gain_of_choice(rows, arms[0], arms[1:], at), leader(rows, arms[1:])
            advised = best if found.mean > 0 and found.chance_below < NO_HELP else arms[0]
            said = estimate(rows[advised], at)
            short.append(truth[top] - truth[advised])
            within.append(said.interval[1] >= truth[top])
            taken.append(advised == top)
            gains.append(found.interval[0] <= truth[best] - truth[arms[0]] <= found.interval[1])
            scores.append(said.interval[0] <= truth[advised] <= said.interval[1])
            wide.append(found.interval[1] - found.interval[0])
            helps += found.chance_below <= HELPS and found.mean > 0
            none += found.chance_below >= 1 - HELPS
        lines.append(f"| {count} | {np.mean(taken):.0%} | {np.mean(within):.0%} | {100 * np.mean(short):.1f} "
                     f"({100 * np.quantile(short, 0.9):.1f}) | {np.mean(gains):.0%} | {np.mean(scores):.0%} | {helps / draws:.0%} | "
                     f"{none / draws:.0%} | {100 * np.median(wide):.0f} points |")
    return lines



def stored_worth() -> list[str]:
    """Lines of a table: how many more patients each method's gain is worth, as the adviser says it and as it is."""
    means: dict[tuple[str, str], list[float]] = {}
    for record in read([ROOT / "results" / "phantom_folds"])[0]:
        if record.quoted:
            means.setdefault((record.method, record.labeled_num), []).append(
                float(np.mean([0.0 if case["dice"] is None else case["dice"] for case in record.cases])))
    score = {key: float(np.mean(values)) for key, values in means.items()}
    few, some, every = (score["Supervised", budget] for budget in ("3", "7", "all"))
    _, b = exponents(np.array([1 - few, 1 - some]), np.array([3.0, 7.0]))
    lines = ["| method, 7 patients | Dice | said: more patients | measured |", "|---|---|---|---|"]
    for (method, budget), value in sorted(score.items()):
        if budget == "7" and value > some:
            said = 7 * (((1 - some) / (1 - value)) ** (1 / float(b)) - 1)
            found = f"{7 * (10 ** ((value - some) / (every - some)) - 1):.0f}" if value < every else "more than 63"
            lines.append(f"| {method} | {value:.3f} | at least {said:.0f} | {found} |")
    return lines


# Which images next


def next_trials(name: str) -> None:
    """6 labels and 6 more: by what images look like, by a run, and drawn; supervised networks on the 12; drawn ones on 18 too."""
    from advice import looks
    from advice.choosing import chosen

    from evaluation import results

    start, more = 6, 6
    question = question_of(name, start)
    question = replace(question, name=f"advice/{name}/next")
    trials = Trials(question, "cpu", forked)
    first = tuple(case.name for case in question.labeled)
    groups = list(dict.fromkeys(case.group for case in question.labeled))
    base = trial_of(question, SUPERVISED, Piece(1, 0, 1, first, ()), "start", 1, NEXT_STEPS)
    trials.run(base)
    found: dict[str, list[tuple[str, ...]]] = {}
    run = results.finished(Path(trials.jobs[base].folder))
    candidates = looks.candidates_of(question)
    import torch
    for word, (seen, _) in (("looks", looks.plain_looks(candidates)),
                            ("run", looks.looks_of(looks.knowing(run, torch.device("cpu")), candidates))):
        rows, labeled = np.stack([look.plain for look in seen]), np.array([look.candidate.labeled for look in seen])
        expected = None if word == "looks" else np.array([look.expected for look in seen], float)
        places, _ = chosen(rows, labeled, [look.candidate.group for look in seen], np.stack([look.print.small for look in seen]), more,
                           expected)
        found[word] = [tuple(seen[place].candidate.group for place in places)]
    pool = list(dict.fromkeys(case.group for case in question.unlabeled if case.group not in groups))
    for draw in range(DRAWS):
        order = [pool[k] for k in np.random.default_rng(draw).permutation(len(pool))]
        found.setdefault("random", []).append(tuple(order[:more]))
        if draw < LARGER:
            found.setdefault("random18", []).append(tuple(order[: 2 * more]))
    scores: dict[str, list[float]] = {}
    cases = {group: [case.name for case in question.unlabeled if case.group == group] for group in pool}
    for word, draws in found.items():
        for number, chosen_groups in enumerate(draws):
            names = first + tuple(case for group in chosen_groups
                                  for case in (cases[group] if question.data.unit == "patient" else cases[group][:1]))
            for seed in SEEDS if word in ("looks", "run") else SEEDS[:1]:
                piece = Piece(number, 0, 1, names, ())
                trial = trial_of(question, SUPERVISED, piece, f"{word}{number}", seed, NEXT_STEPS)
                trials.run(trial)
                score = score_of(trials, trial)
                if score is not None:
                    scores.setdefault(word, []).append(score)
                print(f"next {name} {word} {number} seed {seed}: {score}", flush=True)
    start_score = score_of(trials, base)
    (question.folder / "next.json").write_text(json.dumps({"start": start_score, "scores": scores, "chosen": found}, indent=1))


# The page


def key(name: str, labels: int) -> str:
    return f"{name} {labels}"


def store() -> dict[str, dict[str, Any]]:
    """What was said, measured and chosen, of all sessions, by `key` and by data set."""
    return json.loads(STORE.read_text(encoding="utf-8")) if STORE.is_file() else {"said": {}, "measured": {}, "next": {}}


def measured_of(name: str, labels: int) -> dict[str, list[float]] | None:
    """Each seed's score on the test part by arm, and by arm with more labels; None where one is missing."""
    question = question_of(name, labels)
    trials = Trials(question, "cpu", forked)
    wanted = truth_trials(question, tuple(arm for arm in ARMS[2] if arm.name in ARMS_TRIED), labels)
    trials.prepare(wanted)
    measured: dict[str, list[float]] = {}
    for trial in wanted:
        score = known_by(name, trial, labels)
        if score is None:
            score = score_of(trials, trial)
        if score is None:
            return None
        word = trial.file.stem.split("_")[0]
        measured.setdefault(trial.arm.name if word == "truth" else f"{trial.arm.name} {word}", []).append(score)
    return measured


def gathered() -> dict[str, dict[str, Any]]:
    """`store`, with what this session has made."""
    known = store()
    for name in SETS:
        for labels in BUDGETS:
            place = results_folder() / "advice" / name
            if (place / str(labels) / "answer.json").is_file():
                said = json.loads((place / str(labels) / "answer.json").read_text(encoding="utf-8"))
                said.pop("commands", None)  # they name places of this machine
                known["said"][key(name, labels)] = said
            if key(name, labels) not in known["measured"] and (measured := measured_of(name, labels)) is not None:
                known["measured"][key(name, labels)] = measured
        if (place / "next" / "next.json").is_file():
            known["next"][name] = json.loads((place / "next" / "next.json").read_text(encoding="utf-8"))
    write_json(STORE, known)
    return known


def measured_worth(line: dict[str, Any]) -> float | None:
    """More labels with which the better supervised arm reaches the best measured arm with unlabelled data; inf beyond four times."""
    means, labels = line["means"], line["labels"]
    base = max(ARMS_TRIED[:2], key=lambda arm: means.get(arm, 0.0))
    others = [value for arm, value in means.items() if arm in ARMS_TRIED[2:]]
    budgets = [(1, base), (2, f"{base} truth2"), (4, f"{base} truth4")]
    if not others or any(key not in means for _, key in budgets):
        return None
    best = means.get(line["said"]["best"], max(others))
    points = [(np.log(times * labels), means[key]) for times, key in budgets]
    if best <= points[0][1]:
        return 0.0
    for (x0, y0), (x1, y1) in zip(points, points[1:]):
        if y0 < best <= y1:
            return float(np.exp(x0 + (x1 - x0) * (best - y0) / (y1 - y0)) - labels)
    return float("inf")


def table() -> None:
    known = gathered()
    lines = [{"set": name, "labels": labels, "said": known["said"][one], "measured": known["measured"][one],
              "means": {arm: float(np.mean(values)) for arm, values in known["measured"][one].items()}}
             for name in SETS for labels in BUDGETS if (one := key(name, labels)) in known["said"] and one in known["measured"]]
    text = ["# Is the advice right?", "",
            "Made by `python benchmarks/advice.py table` from what `advise` and `next` of that program left. No published protocol, and "
            "no page to "
            "choose a method by: it asks how far an adviser is to be believed.", ""]
    text += adviser_lines(lines) if lines else []
    text += next_lines(known["next"])
    text += ["## The arithmetic, on scores that were there already", "",
             "results/phantom_folds has every method, trained on 7 patients, in five folds (Phantom is synthetic; 200 steps). 400 draws of "
             "patients that stand for labelled images; the truth is the mean over all folds, of which three or four are the adviser's "
             "own, so "
             "coverage is told somewhat too well.", "", *stored(), "", "Labels that a gain is worth, by the curve through Supervised with "
             "3 and 7 "
             "patients, beside what Supervised with all 70 shows (between 7 and 70 by logarithm):", "", *stored_worth()]
    kept = PAGE.read_text(encoding="utf-8").split(MARKER, 1)[1] if PAGE.is_file() and MARKER in PAGE.read_text(encoding="utf-8") else "\n"
    PAGE.write_text("\n".join([*text, "", MARKER]) + kept, encoding="utf-8")
    print(PAGE.read_text(encoding="utf-8"))


def adviser_lines(lines: Sequence[dict[str, Any]]) -> list[str]:
    """The adviser beside the truth."""
    length = ", ".join(f"{steps} steps on {name}" for name, steps in STEPS.items())
    text = ["## The adviser beside the truth", "",
            f"Runs at 64x64, {SIZE.batch} images a step, {length}. Arms: {', '.join(ARMS_TRIED)}. The truth is the mean of "
            f"{len(SEEDS)} "
            "seeds on the test part, with all labels that the adviser had; NEU-Seg and MT by their clean split, an image of each of so "
            "many "
            f"pieces. {ROUNDS} divisions of the labels. A set that is not here was not measured.", "",
            "| data | labels | advised | its measured Dice | best measured | short of the best | predicted Dice (nine in ten) | "
            "said of the gain | of which over which | measured of these two | measured of the best of each kind | worth said | "
            "worth measured |", "|" + "---|" * 13]
    for line in lines:
        said, means = line["said"], line["means"]
        best = max(ARMS_TRIED, key=lambda arm: means[arm])
        advised, base = said["advised"], max(ARMS_TRIED[:2], key=lambda arm: means[arm])
        gain, more, truth_more = said["gain"], said["worth"], measured_worth(line)
        told = "-" if gain is None else f"{100 * gain['mean']:+.1f} ({100 * gain['low']:+.1f} to {100 * gain['high']:+.1f}), none: " \
            f"{100 * gain['chance_below_0']:.0f} %"
        of = "cannot tell" if more is None else f"{_or_more(more['more'])} ({more['low']:.0f} to {_or_more(more['high'])})"
        low, high = said["interval"]
        inside = "" if low <= means[advised] <= high else " (outside)"
        text.append(
            f"| {line['set']} | {line['labels']} | {advised} | {means[advised]:.3f} | {best} {means[best]:.3f} | "
            f"{100 * (means[best] - means[advised]):.1f} | {said['predicted']:.3f} ({low:.3f} to {high:.3f}){inside} | {told} | "
            f"{said['best']} over {said['base']} | {100 * (means[said['best']] - means[said['base']]):+.1f} | "
            f"{100 * (max(means[arm] for arm in ARMS_TRIED[2:]) - means[base]):+.1f} | {of} | "
            f"{'-' if truth_more is None else 'more than 4 times' if np.isinf(truth_more) else f'{truth_more:.0f}'} |")
    text += ["", "Every arm, expected by the adviser and measured (each seed):", "",
             "| data | labels | arm | expected (nine in ten) | measured |", "|---|---|---|---|---|"]
    for line in lines:
        for arm in ARMS_TRIED:
            row, values = line["said"]["rows"].get(arm), line["measured"].get(arm, [])
            score = row["score"] if row else None
            text.append(f"| {line['set']} | {line['labels']} | {arm} | " + (
                f"{score['mean']:.3f} ({max(score['low'], 0):.3f} to {min(score['high'], 1):.3f})" if score else "-") + " | "
                f"{np.mean(values) if values else float('nan'):.3f} ({', '.join(f'{value:.3f}' for value in values)}) |")
    return [*text, ""]


def next_lines(known: Mapping[str, Any]) -> list[str]:
    """--next beside random choice, by data set; nothing where it was not measured."""
    found = []
    for name in SETS:
        if name in known:
            value = known[name]
            scores = value["scores"]
            drawn = scores["random"]
            below = [sum(one < np.mean(scores[word]) for one in drawn) for word in ("looks", "run")]
            curve = [(6, value["start"]), (12, float(np.mean(drawn))), (18, float(np.mean(scores["random18"])))]
            worth = ", ".join(_drawn_labels(curve, float(np.mean(scores[word]))) for word in ("looks", "run"))
            found.append(f"| {name} | {value['start']:.3f} | {_each(scores['looks'])} | {_each(scores['run'])} | {_each(drawn)} | "
                         f"{below[0]}, {below[1]} of {len(drawn)} | {_each(scores['random18'])} | {worth} |")
    return ["## Which images next", "",
            f"Supervised networks ({NEXT_STEPS} steps) on 6 labels and 6 more, chosen without a network (looks), by a run on the 6 (run), "
            f"or drawn; {len(SEEDS)} seeds for a choice, one for each of {DRAWS} draws. A set that is not here was not measured.", "",
            "| data | 6 labels | looks | run | drawn (each) | draws below looks, run | 18 labels, drawn | "
            "labels drawn for the same score: looks, run |", "|" + "---|" * 8, *found, ""] if found else []


def _drawn_labels(curve: Sequence[tuple[int, float]], score: float) -> str:
    """So many labels, drawn, have this score, between those of which the score is known (by logarithm)."""
    if score < curve[0][1]:
        return f"fewer than {curve[0][0]}"
    for (x0, y0), (x1, y1) in zip(curve, curve[1:]):
        if y0 <= score <= y1 and y0 < y1:
            return f"{x0 * (x1 / x0) ** ((score - y0) / (y1 - y0)):.0f}"
    return f"more than {curve[-1][0]}"


def _each(values: Sequence[float]) -> str:
    return f"**{np.mean(values):.3f}** ({', '.join(f'{value:.3f}' for value in values)})"


def _or_more(value: float | None) -> str:
    return "beyond" if value is None else f"{value:.0f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("advise", "next", "table"))
    parser.add_argument("data", nargs="?", choices=tuple(SETS))
    parser.add_argument("labels", nargs="?", type=int, default=6)
    parser.add_argument("--steps", type=int, help="of a trial, on every set")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="that the adviser may take: it answers by what it tried till then")
    given = parser.parse_args()
    SECONDS = given.seconds
    STEPS = dict.fromkeys(SETS, given.steps) if given.steps else STEPS
    if given.what == "table":
        table()
    elif given.what == "next":
        next_trials(given.data)
    else:
        advise(given.data, given.labels)
