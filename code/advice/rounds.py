"""The trials in their order: a probe that measures time, rounds of successive halving, the curve over label budgets; within the time.

What was decided is not written down: it follows from the results of the trials, which lie where the results of all runs lie. Written
down are the plan, the time used so far, and what each kind of run took (`State`), so the same command goes on at any moment.
"""
from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import networks
from advice.arms import SUPERVISED, Arm
from advice.evidence import survivors
from advice.folds import Piece, budgets_for, folds_for, pieces
from advice.question import Question
from advice.schedule import Plan, Size, planned, sizes_for, widened
from advice.trials import Trial, Trials, by_image
from dataloaders.description import Case
from dataloaders.errors import UserError
from dataloaders.splits.draws import groups_of
from storage.checkpoint import write_json
from storage.sealed import read_sealed, sealed
from system.devices import choose_device

STATE = "advice.json"
PROBE_STEPS, WHOLE = 16, 1.5
"""Steps of the run that measures; how many passes of the network a step is taken for, with loss, optimizer and batch."""
MOST_ROUNDS = 6
"""Divisions of the labelled images, however much time there is."""
SEED = 1


@dataclass
class State:
    """What the same command finds again."""

    labeled: str
    """Digest of the names of the labelled images."""
    unlabeled: str = ""
    """Of those of the unlabelled ones."""
    masks: str = ""
    """Of what lies in the files of the masks."""
    root: str = ""
    """The folder that was asked about: folders of one name share a place."""
    used: float = 0.0
    """Seconds so far."""
    plan: Plan | None = None
    step: float = 0.0
    """Seconds of a supervised step at the size of the plan, as measured before."""
    own_step: float = 0.0
    """The same at the size at which the data set is trained by default."""
    beside: float = 0.0
    """Seconds of a run beside its steps."""
    took: dict[str, list[float]] = field(default_factory=dict)
    """By arm: seconds of each run, its test included."""
    failed: dict[str, str] = field(default_factory=dict)
    """By arm: why a run of it failed."""

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, sealed({**asdict(self), "plan": self.plan.as_json() if self.plan else None}))


def digest(names: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(names).encode(errors="backslashreplace")).hexdigest()[:16]


def masks_of(cases: Sequence[Case]) -> str:
    """Digest of the files of the masks. Names alone would let scores of masks that were drawn anew since count as those of the new ones."""
    whole = hashlib.sha256()
    for case in cases:
        if case.label is not None and case.label.is_file():
            with open(case.label, "rb") as file:
                whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()[:16]


def state_of(question: Question) -> State:
    """As it was left, or a new one. Raises `UserError` where it was made for other images or masks, and for a file that is none."""
    path, ways = question.folder / STATE, "Move it aside, or choose another place by --exp NAME."
    now = State(digest([case.name for case in question.labeled]), digest([case.name for case in question.unlabeled]),
                masks_of(question.labeled), str(question.root.resolve()))
    try:
        value = read_sealed(path, ways)
    except FileNotFoundError:
        return now
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}). {ways}") from None
    try:
        found = State(**{**value, "plan": Plan.of_json(value["plan"]) if value["plan"] else None})
        check_kinds(found)
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: no state of an adviser ({error}). {ways}") from None
    anew = "Ask anew in another place: --exp advice/NAME."
    if found.root not in ("", now.root):
        raise UserError(f"{path}: was made for {found.root}, not for {now.root}; folders of one name share a place. {anew}")
    for then, this, what in ((found.labeled, now.labeled, "when other images were labelled"),
                             (found.masks, now.masks, "with other masks of the labelled images"),
                             (found.unlabeled, now.unlabeled, "beside other unlabelled images")):
        if then not in ("", this):
            raise UserError(f"{path}: was made {what}, so its scores are not those of what lies there now. {anew}")
    return replace(found, unlabeled=now.unlabeled, masks=now.masks, root=now.root)


def check_kinds(state: State) -> None:
    """Raises ValueError for values of other kinds than are written: a person may have changed them."""
    plan, numbers = state.plan, [state.used, state.step, state.own_step, state.beside]
    kinds = [all(isinstance(text, str) for text in (state.labeled, state.unlabeled, state.masks, state.root)),
             isinstance(state.took, dict) and isinstance(state.failed, dict)]
    if all(kinds):
        numbers += [second for seconds in state.took.values() for second in seconds]
        kinds.append(all(seconds for seconds in state.took.values()) and all(isinstance(why, str) for why in state.failed.values()))
    if plan is not None:
        counts = [plan.steps, plan.rounds, plan.folds, plan.size.batch, plan.size.labeled, *plan.size.patch]
        kinds.append(all(isinstance(count, int) and count > 0 for count in counts) and isinstance(plan.runs, int))
        kinds.append(all(isinstance(name, str) for name in (*plan.arms, *plan.left_out)))
        numbers += [plan.seconds, plan.runs]
    if not all(kinds) or not all(isinstance(number, (int, float)) and 0 <= number < np.inf for number in numbers):
        raise ValueError("a value of another kind than it writes")


@dataclass
class Rounds:
    """The trials of a question, and what they have said so far."""

    question: Question
    trials: Trials
    arms: tuple[Arm, ...]
    seconds: float
    """That may be used altogether."""
    patch: tuple[int, ...] | None = None
    steps: int | None = None
    say: Callable[[str], object] = print
    told: Callable[[], object] = lambda: None
    """Called after each trial."""

    def __post_init__(self) -> None:
        self.state = state_of(self.question)
        self._again = dict(self.state.failed)
        """What failed before, by arm: it is tried again where there is time, and else has failed as it did."""
        self.state.failed.clear()
        self.folds = folds_for(self.question.groups)
        self.groups = list(groups_of(sorted(self.question.labeled, key=lambda case: case.name)))
        self.remarks: tuple[str, ...] = ()
        """On the labelled images, for the page."""
        self.dropped: dict[str, int] = {}
        """By arm: the round after which it was dropped."""
        self.begun = False
        """Whether it is known which trials there are, so that there is something to say."""
        self.stopped = ""
        """Why the rounds ended before their time; "" where they did not."""
        self._mark = time.monotonic()
        self._made: dict[tuple[str, Piece], Trial] = {}
        self._parts = [pieces(self.question.labeled, self.folds, round_) for round_ in range(MOST_ROUNDS)]
        self._smaller = {budget: pieces(self.question.labeled, self.folds, 0, budget)
                         for budget in budgets_for(self.question.groups, self.folds)}

    # Time

    def _tick(self) -> None:
        now = time.monotonic()
        self.state.used += now - self._mark
        self._mark = now

    def _keep(self) -> None:
        self._tick()
        self.state.write(self.question.folder / STATE)

    @property
    def left(self) -> float:
        """Seconds."""
        self._tick()
        return self.seconds - self.state.used

    def expected(self, arm: Arm) -> float:
        """Seconds of the next run of an arm."""
        plan, took = self.state.plan, self.state.took.get(arm.name)
        assert plan is not None
        return float(np.mean(took)) if took else self.state.beside + plan.steps * self.state.step * arm.cost

    # The plan

    def make_plan(self) -> Plan:
        """Measures and plans, where that was not done before; says it."""
        if self.state.plan is not None:
            self._same(self.state.plan)
            self._widen(self.state.plan)
        else:
            data = self.question.data
            sizes = sizes_for(data.defaults, data.dimensions, self.patch)
            self.say(f"Measuring this machine: {PROBE_STEPS} supervised steps at {sizes[-1].said}, and a test ...")
            trial = self.trial(SUPERVISED, self._parts[0][0], sizes[-1], PROBE_STEPS, probe=True)
            outcome, wall = self.trials.run(trial)
            if outcome.state not in ("done", "skipped"):
                raise UserError(f"The first run of the adviser failed: {outcome.reason}", 3)
            inside = self.trials.training_seconds(trial)
            own = sizes_for(data.defaults, data.dimensions, None)[0]
            every = measured(data, list(dict.fromkeys([own, *sizes])), inside / PROBE_STEPS, choose_device(self.trials.device))
            cost = {size: every[size] for size in sizes}
            self.state.beside = max((wall if wall is not None else inside + 10) - PROBE_STEPS * cost[sizes[-1]], 0.5)
            self.state.plan = planned(self.left, self.arms, self.folds, len(budgets_for(self.question.groups, self.folds)), cost,
                                      self.state.beside, int(str(data.defaults.get("max_iterations", 30000))), self.steps,
                                      self.state.used)
            self.state.step, self.state.own_step = cost[self.state.plan.size], every[own]
            self._keep()
        return self.state.plan

    def _widen(self, plan: Plan) -> None:
        """Takes arms into the plan for which there was no time when it was made, and is now."""
        wider = widened(plan, self.arms, len(self._smaller), self.seconds, self.state.step, self.state.beside)
        if wider is not plan:
            self.say(f"There is time now for {', '.join(wider.arms[len(plan.arms):])}, too.")
            self.state.plan = wider
            self._keep()

    def _same(self, plan: Plan) -> None:
        """Raises `UserError` where something else is asked for than what the plan that lies there has."""
        planned = (*plan.arms, *plan.left_out)
        others = [f"--methods {arm.name}" for arm in self.arms if arm.name not in planned]
        if not others and len(self.arms) < len(planned):  # whose page would say nothing of those that were tried
            others.append(f"--methods {' '.join(arm.name for arm in self.arms if arm.unlabeled)} alone")
        if self.steps is not None and self.steps != plan.steps:
            others.append(f"--max_iterations {self.steps}, and not {plan.steps}")
        if self.patch is not None and self.patch != plan.size.patch:
            others.append(f"--patch_size {' '.join(map(str, self.patch))}, and not {' '.join(map(str, plan.size.patch))}")
        if others:
            raise UserError(f"{self.question.folder / STATE}: the plan that was begun has not {others[0]}. Ask anew in another place: "
                            "--exp advice/NAME.")

    def trial(self, arm: Arm, piece: Piece, size: Size | None = None, steps: int | None = None, probe: bool = False) -> Trial:
        plan = self.state.plan
        if size is None:
            assert plan is not None
            size, steps = plan.size, plan.steps
        assert steps is not None
        file = piece.file(self.question.folder / "splits")
        # A seed for each part, the same for all arms: what first weights do to a network (whether a class is learned yet, say) would else
        # move all parts of a division alike, and the spread of the parts would know nothing of it.
        seed = SEED + piece.round * piece.of + piece.fold
        return Trial(arm, piece, file.resolve(), size, steps, seed, probe, self.question.data.family != "natural")

    # Running

    def go(self) -> None:
        """All rounds, as far as time goes. Raises KeyboardInterrupt when told to stop; what was done is kept."""
        plan = self.make_plan()
        alive = [arm for arm in self.arms if arm.name in plan.arms]
        self._ask(alive)
        if not self._pieces(alive, self._parts[0]):
            return
        alive = self._halved(alive, 0)
        base = next(arm for arm in alive if not arm.unlabeled)
        for parts in self._smaller.values():
            if not self._pieces([base], parts):
                return
        for round_ in range(1, MOST_ROUNDS):
            if len(alive) < 2 or not self._pieces(alive, self._parts[round_]):
                return
            alive = self._halved(alive, round_)

    def _ask(self, arms: Sequence[Arm]) -> None:
        """Asks the scripts about all that may be run, at once: each is a process that takes seconds to start."""
        parts, smaller = ([part for ones in some for part in ones] for some in (self._parts, self._smaller.values()))
        found = [(arm, part) for arm in arms for part in (parts if arm.unlabeled else [*parts, *smaller])]
        trials = [self.trial(arm, part) for arm, part in found]
        self.trials.prepare(trials)
        # All of them now: an end in the first round must not hide what earlier calls did in later ones.
        self._made.update({(arm.name, part): trial for (arm, part), trial in zip(found, trials)})
        self.begun = True

    def _pieces(self, arms: Sequence[Arm], parts: Sequence[Piece]) -> bool:
        """Each arm on each part; False where time is over."""
        found = [(arm, self.trial(arm, part)) for part in parts for arm in arms]
        self.trials.prepare([trial for _, trial in found])
        for arm, trial in found:
            self._made[arm.name, trial.piece] = trial
            if arm.name in self.state.failed or self.trials.record(trial) is not None:
                continue
            if self.expected(arm) > self.left:
                if arm.name in self._again:
                    self.state.failed[arm.name] = self._again[arm.name]
                    continue
                more = (self.state.used + self.expected(arm)) / 3600
                self.stopped = f"The time is used up ({self.state.used / 60:.0f} min): a larger --hours than {more:.2f} goes on from here."
                return False
            outcome, wall = self.trials.run(trial, self._tick)
            if outcome.state == "in use":
                raise UserError(f"{trial.title}: {outcome.reason}. Does this adviser run twice? Wait for the other, then ask again.")
            if outcome.state == "failed":
                self.state.failed[arm.name] = outcome.reason
            elif wall is not None:
                self.state.took.setdefault(arm.name, []).append(wall)
            self._keep()
            self.told()
        return True

    def _halved(self, alive: Sequence[Arm], round_: int) -> list[Arm]:
        whole = [arm for arm in alive if arm.name not in self.state.failed]
        supervised, others = [a.name for a in whole if not a.unlabeled], [a.name for a in whole if a.unlabeled]
        if not supervised:
            raise UserError(f"Supervised training failed: {'; '.join(self.state.failed.values())}", 3)
        kept = survivors(self.scores(round_ + 1), supervised, others, self.parts)
        for arm in alive:
            if arm.name not in kept:
                self.dropped.setdefault(arm.name, round_)
        return [arm for arm in whole if arm.name in kept]

    # What is known

    @property
    def trained_on(self) -> float:
        """Labelled images (groups) that a network of a fold learned from."""
        return self.question.groups * (1 - 1 / self.folds)

    @property
    def parts(self) -> np.ndarray:
        """(rounds, groups): in which part of its round each labelled image (group) is held out."""
        of = {case.name: case.group for case in self.question.labeled}
        found = np.zeros((MOST_ROUNDS, len(self.groups)), int)
        for round_, ones in enumerate(self._parts):
            for part in ones:
                found[round_, [self.groups.index(of[name]) for name in part.test]] = part.fold
        return found

    def scores(self, rounds: int | None = None) -> dict[str, np.ndarray]:
        """By arm: (rounds, groups), as `evidence.Scores`; `rounds`: of so many alone, so that a decision is the same when later ones are
        there."""
        names = [arm.name for arm in self.arms]
        found = np.full((len(names), MOST_ROUNDS, len(self.groups)), np.nan)
        for round_, parts in enumerate(self._parts[:rounds]):
            for part in parts:
                records = [self.trials.record(trial) if (trial := self._made.get((name, part))) else None for name in names]
                values = by_image(records, self.groups)
                found[:, round_] = np.where(np.isnan(values), found[:, round_], values)
        return {name: one for name, one in zip(names, found) if not np.isnan(one).all()}

    def curve_scores(self) -> tuple[str, dict[float, np.ndarray]]:
        """(the supervised arm of which the curve was made, (1, groups) scores of the first division by label budget).

        All budgets of a part are scored together, and without other arms: these may find a class in an image that has none of it, which
        then counts for all that are scored with them, and a curve of which one point counts it and others do not rises by that alone.
        """
        best: tuple[str, dict[float, np.ndarray]] = ("", {})
        budgets = [self.trained_on, *map(float, self._smaller)]
        for arm in (arm.name for arm in self.arms if not arm.unlabeled):
            rows = np.full((len(budgets), len(self.groups)), np.nan)
            for parts in zip(self._parts[0], *self._smaller.values()):
                trials = [self._made.get((arm, part)) for part in parts]
                values = by_image([self.trials.record(trial) if trial else None for trial in trials], self.groups)
                rows = np.where(np.isnan(values), rows, values)
            found = {budget: row[None] for budget, row in zip(budgets, rows) if not np.isnan(row).any()}
            best = max(best, (arm, found), key=lambda one: len(one[1]))
        return best


def measured(data: Any, sizes: Sequence[Size], probed: float, device: torch.device) -> dict[Size, float]:
    """Seconds of a supervised step by size, from passes of the network alone, forward and backward, of two rows.

    Of the last size `probed` is the mean of a few steps of a run. The first of them reads images and compiles, which counts as what a run
    costs beside its steps; so a step is taken to be `WHOLE` passes of its rows where that is less.
    """
    name = str(data.defaults.get("model", "unet"))
    network = networks.build(name, in_channels=data.channels, num_classes=data.num_classes).to(device).train()

    def seconds(size: Size) -> float:
        images, best = torch.zeros(2, data.channels, *size.patch, device=device), float("inf")
        for _ in range(3):
            began = time.perf_counter()
            out = network(images)
            (out[0] if isinstance(out, tuple) else out).mean().backward()
            if device.type == "cuda":
                torch.cuda.synchronize()
            best = min(best, time.perf_counter() - began)
        return best / 2 * size.batch

    passes = {size: seconds(size) for size in sizes}
    smallest = min(probed, WHOLE * passes[sizes[-1]])
    return {size: smallest * passes[size] / passes[sizes[-1]] for size in sizes}
