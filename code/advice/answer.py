"""What the trials let one say, as data and as plain sentences: the page is made of it, and the calibration reads it."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import path
from pathlib import Path
from shlex import quote

import numpy as np

from advice.arms import Arm
from advice.curve import BEYOND, Curve, Worth, fitted, worth
from advice.evidence import Estimate, estimate, gain, gain_of_choice, leader, means, picked
from advice.rounds import Rounds
from dataloaders.splits.given import written

HELPS, NO_HELP = 0.1, 0.4
"""Chance of no gain up to which unlabelled data is said to help (and, of a gain, not to), one in ten as everywhere on the page; and from
which on nothing with it is advised."""
LEARNED = 0.02
"""Mean Dice below which a network is taken to have found nothing yet: arms that found nothing are equal, which says nothing of them."""
LONG = 12 * 3600
"""Seconds of a training from which on the shorter one is named first."""


@dataclass(frozen=True)
class Row:
    """An arm on the page."""

    arm: Arm
    score: Estimate
    over: Estimate | None
    """Its gain over the better supervised arm, which has none."""
    rounds: int
    """Divisions in which it was tried."""
    note: str
    """When it was dropped, or why it failed."""


@dataclass(frozen=True)
class Answer:
    """All that is said."""

    rows: tuple[Row, ...]
    """Best first."""
    base: str
    """The better supervised arm; "" before there is any score."""
    best: str
    """The best arm with unlabelled data; "" where none has a score."""
    advised: str
    gain: Estimate | None
    """Of choosing among the arms with unlabelled data over the better supervised one."""
    predicted: float | None
    """Score of the advised arm at the size and steps that were tried, with the labels that a fold leaves. Not drawn on to all labels: the
    curve promises too much of them (results/advice.md)."""
    interval: tuple[float, float] | None
    curve: Curve | None
    worth: Worth | None
    verdict: tuple[str, ...]
    """Sentences, the answer first."""
    unknown: tuple[str, ...]
    """What could not be told, and why."""
    commands: tuple[tuple[str, str], ...]
    """(what it does, command)."""


def points(value: float) -> str:
    """Dice as it is said: 0.812."""
    return f"{min(max(value, 0.0), 1.0):.3f}"


def percent(chance: float) -> str:
    return "under 1 %" if chance < 0.01 else "over 99 %" if chance > 0.99 else f"{100 * chance:.0f} %"


def answered(rounds: Rounds) -> Answer:
    """The answer as far as the trials go."""
    scores = rounds.scores()
    by_name = {arm.name: arm for arm in rounds.arms}
    supervised = [name for name in scores if not by_name[name].unlabeled]
    others = [name for name in scores if by_name[name].unlabeled]
    # Who has failed is left out, who was dropped stands behind those that went on, and who was not on every image yet behind these.
    sound = [name for name in scores if name not in rounds.state.failed]
    whole = [name for name in sound if _whole(scores[name])]
    through = [name for name in whole if name not in rounds.dropped]

    def first(names: Sequence[str]) -> str:
        there = next((some for kept in (through, whole, sound) if (some := [name for name in names if name in kept])), names)
        return leader(scores, there) if there else ""

    base, best = first(supervised), first(others)
    rows, parts = [], rounds.parts
    for name, of in scores.items():
        note = f"failed: {rounds.state.failed[name]}" if name in rounds.state.failed else \
            f"dropped after round {rounds.dropped[name] + 1}" if name in rounds.dropped else ""
        rows.append(Row(by_name[name], estimate(of, parts), gain(scores, name, base, parts) if base and name != base else None,
                        int((~np.isnan(of)).any(1).sum()), note))
    rows.sort(key=lambda row: -(0.0 if row.over is None else row.over.mean))
    if not base:
        return Answer(tuple(rows), "", best, "", None, None, None, None, None, ("No supervised run is done yet, so there is no answer.",),
                      _unknown(rounds, None), ())
    rivals = [name for name in others if name in whole]
    won = gain_of_choice(scores, base, rivals, parts, rounds.dropped) if rivals else None
    idle = max(row.score.mean for row in rows) < LEARNED
    if won is not None and (idle or not np.isfinite(won.scale)):
        won = None
    advised = best if best and won is not None and won.mean > 0 and won.chance_below < NO_HELP else base
    _, budgets = rounds.curve_scores()
    curve = fitted(budgets)
    more = None
    if curve is not None and won is not None:  # of the first division, as the curve; freed of the luck of the pick, as the gain
        more = worth(curve, rounds.trained_on, means(scores[base][:1]), means(picked(scores, rivals, rounds.dropped)[:1]))
    row = next(row for row in rows if row.arm.name == advised)
    low, high = row.score.interval
    return Answer(
        tuple(rows), base, best, advised, won, row.score.mean, (max(low, 0.0), min(high, 1.0)), curve, more,
        _nothing_learned(rounds) if idle else
        (*_verdict(rounds, base, best, advised, won, row.score), *_worth(rounds, won, curve, more)),
        _unknown(rounds, curve), _commands(rounds, by_name[advised]))


def _whole(scores: np.ndarray) -> bool:
    """Whether each image was scored at least once."""
    return bool((~np.isnan(scores)).any(0).all())


def _nothing_learned(rounds: Rounds) -> tuple[str, ...]:
    plan = rounds.state.plan
    steps = "so few" if plan is None else str(plan.steps)
    return (f"No method has learned to find anything in {steps} steps (each has a Dice below {LEARNED}), so whether unlabelled data helps "
            "cannot be told. Ask anew with longer trials, in another place: a larger --hours, and --exp advice/NAME.",)


def _verdict(rounds: Rounds, base: str, best: str, advised: str, gain: Estimate | None, score: Estimate) -> list[str]:
    question, (low, high) = rounds.question, score.interval
    known = "" if not np.isfinite(low) else f" (nine in ten: {points(low)} to {points(high)})"
    seen = f"the {score.images} of {question.groups} {question.things} that were held out so far" if score.images < question.groups \
        else f"{question.things} that it had not seen"
    expected = (f"Train {advised}. On {seen} its Dice was {points(score.mean)}{known}, with about "
                f"{rounds.trained_on:.0f} of the {question.groups} labelled {question.things}, at this size and length; with all of them "
                f"it should be no lower.")
    if gain is None:
        return ["So far only supervised training has been scored on every labelled image, so whether unlabelled data helps is not known."
                if not best else "Not every labelled image has been held out under a method with unlabelled data yet: no answer so far.",
                expected]
    chance, low, high = percent(gain.chance_below), *gain.interval
    amount = f"{100 * gain.mean:+.1f} points of Dice over {base} (nine in ten: {100 * low:+.1f} to {100 * high:+.1f})"
    if gain.chance_below <= HELPS and gain.mean > 0:
        first = f"Unlabelled data helps here: {best} gains {amount}; the chance that there is no gain is {chance}."
    elif gain.chance_below < NO_HELP and gain.mean > 0:
        first = f"Unlabelled data may help here: {best} gains {amount}, but the chance that there is no gain is {chance}."
    else:
        seen = "does not help here, as far as was tried" if gain.chance_below >= 1 - HELPS else "was not seen to help here"
        first = (f"Unlabelled data {seen}: the best method with it, {best}, is at {amount}; the chance that there is no gain is {chance}.")
    return [first, expected]


def _worth(rounds: Rounds, gain: Estimate | None, curve: Curve | None, more: Worth | None) -> list[str]:
    things = rounds.question.things
    if gain is None or gain.mean <= 0:
        return []
    if more is None:
        why = "no curve over label budgets was made" if curve is None else \
            "the score does not clearly rise with labels between " + f"{curve.budgets[0]:.0f} and {curve.budgets[-1]:.0f}"
        return [f"How many more labelled {things} would be worth as much cannot be told: {why}."]
    most = (BEYOND - 1) * rounds.trained_on
    if more.more is None:
        return [f"More than {most:.0f} more labelled {things} would be needed to be worth as much; beyond that the curve tells nothing."]
    if more.more < 0.5:
        return [f"A gain so small is worth no further label: fewer than one of the {things} would do as much."]
    return [f"At least about {more.more:.0f} more labelled {things} would be needed to be worth as much (by the images alone not under "
            f"{more.low:.0f}). It may be many times more: the curve takes the error to go on falling as it did, and it never does so for "
            f"long."]


def _unknown(rounds: Rounds, curve: Curve | None) -> tuple[str, ...]:
    question, plan, found = rounds.question, rounds.state.plan, []
    things = question.things
    if plan is not None:
        found.append(f"Everything here was trained for {plan.steps} steps at {plan.size.said}. The data set's own training is longer and "
                     "larger: scores will be higher there, and the order of methods may be another.")
        if plan.left_out:
            found.append(f"There was no time for {', '.join(plan.left_out)}; a larger --hours takes them in.")
    found.append(f"Networks of the trials learned from {rounds.trained_on:.0f} of the {question.groups} labelled {things} each, the rest "
                 "being held out.")
    if question.groups < 10:
        found.append(f"{question.groups} labelled {things} say little of others: intervals are wide, and nothing here can be surer than "
                     "they are.")
    if question.data.own and question.groups == len(question.labeled):
        found.append("Every image counts by itself. If several show one piece or patient, groups.csv must say so, else all scores are too "
                     "high.")
    found += rounds.remarks
    if curve is not None and not curve.tells:
        found.append("What more labels would bring is not clear from so few.")
    for name, why in rounds.state.failed.items():
        found.append(f"{name} failed and is left out: {why}.")
    if rounds.stopped:
        found.append(rounds.stopped)
    found.append("No test part was opened: these scores are of labelled images that were held out in turn.")
    return tuple(found)


def _commands(rounds: Rounds, arm: Arm) -> tuple[tuple[str, str], ...]:
    """Of the final training on all labelled images: the data set's own schedule, and the one that was tried."""
    question, plan = rounds.question, rounds.state.plan
    assert plan is not None
    everything = written(question.folder / "splits" / "everything.json", "everything", [case.name for case in question.labeled], None)
    script = _shown(Path(__file__).resolve().parents[1] / f"train_{arm.method}.py")
    base = ["python", script, "--dataset", quote(question.data.name), "--root_path", _shown(question.root),
            "--split_file", _shown(everything), "--labeled_num", "all", "--schedule", "poly", *arm.words]
    steps = int(str(question.data.defaults.get("max_iterations", 30000)))
    whole = rounds.state.own_step * steps * arm.cost
    short = rounds.state.step * plan.steps * arm.cost
    full = (f"Trains {arm.name} on everything, as long and large as the data set's own training (here about {span(whole)})",
            " ".join([*base, "--exp", quote(f"{question.name}/final")]))
    tried = (f"The same as short as it was tried (about {span(short)})",
             " ".join([*base, "--exp", quote(f"{question.name}/final_short"), *plan.size.words, "--max_iterations", str(plan.steps),
                       *(arm.scaled if question.data.family != "natural" else ())]))
    return (full, tried) if whole < LONG else (tried, full)


def _shown(place: Path) -> str:
    """A path as one types it from here, quoted where it must be."""
    near = path.relpath(place)
    text = near if not near.startswith("../..") else str(place.resolve())
    return quote(text)


def span(seconds: float) -> str:
    """40 s, 12 min, 3.5 h."""
    return f"{max(seconds, 1):.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

