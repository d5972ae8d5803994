"""Does unlabelled data help on these images, and by which method? Which images should be labelled next?

The first tries supervised training and several methods on the labelled images, each image held out in turn, as far as --hours go, and
ends with one page (on the screen, advice.md, advice.html). It says what it will do before it starts, the same command goes on where it
stopped, and Ctrl-C at any moment leaves the best answer so far. No test part is opened.

    python code/advise.py --root_path D --hours 2
    python code/advise.py --root_path D --next 10
    python code/advise.py --root_path D --next 10 --run model/folder/D/MeanTeacher_all_labeled/unet/drawn_seed1337

Exit codes: 0 done, 2 bad arguments or data, 3 failed runs, 75 interrupted (run it again).
"""
from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from advice import handing, looks, pages
from advice.answer import answered, span
from advice.arms import arms_of
from advice.choosing import chosen, distances
from advice.question import Question, asked, check_answerable, near_copies
from advice.rounds import STATE, Rounds
from advice.trials import Trials

from dataloaders.errors import UserError
from dataloaders.layouts.folder import FolderSource
from dataloaders.listing import entries
from evaluation import results
from storage.folders import results_folder
from system.devices import choose_device
from system.ending import finish_with


@dataclass
class Advise:
    root_path: Path | None = None
    """Folder of the images, labelled and unlabelled, in any layout that trains."""
    dataset: str | None = None
    """As in the training scripts; told by --root_path without it."""
    hours: float | None = None
    """Time that may be used for trials, altogether. Without it: 2."""
    next: int | None = None
    """Choose so many images to label next, in place of trials."""
    run: Path | None = None
    """With --next: a finished run that has learned from what is labelled. Without it: by what the images look like alone."""
    output: Path | None = None
    """With --next: folder for list, sheet and links. Without it: next_<N> beside the adviser's pages in results/."""
    labeled_num: str | None = None
    """How many of the images with a mask count as labelled, as in the scripts. Without it: of your own images all."""
    protocol: str | None = None
    """Split of a data set, whose training part alone is looked at."""
    methods: tuple[str, ...] = ()
    """Only these of the methods that are tried, beside supervised training."""
    patch_size: tuple[int, ...] | None = None
    """Size of the training images. Without it: the largest for which there is time."""
    max_iterations: int | None = None
    """Steps of each trial. Without it: as many as there is time for."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU where there is one."""
    exp: str | None = None
    """Name of the trials below model/ and results/. Without it: advice/<data set>/<N>_labeled."""


def main(options: Advise) -> None:
    if options.next is not None:
        choose_next(options)
        return
    for name in ("run", "output"):
        if getattr(options, name) is not None:
            raise UserError(f"--{name}: is for the choice of images; add --next 10.")
    hours = 2.0 if options.hours is None else options.hours
    if not 0 < hours < 10_000:
        raise UserError(f"--hours {hours:g}: a time above 0 is needed, for example --hours 2.")
    if options.max_iterations is not None and options.max_iterations < 1:
        raise UserError(f"--max_iterations {options.max_iterations}: a number of steps from 1 is needed.")
    question = asked(options.dataset, options.root_path, options.protocol, options.labeled_num, options.exp)
    check_answerable(question)
    arms = arms_of(question.data.dimensions, options.methods)
    if options.patch_size is not None and (len(options.patch_size) != question.data.dimensions or min(options.patch_size) < 16):
        raise UserError(f"--patch_size {' '.join(map(str, options.patch_size))}: {question.data.dimensions} sides from 16 are needed.")
    advise(Rounds(question, Trials(question, options.device), arms, 3600 * hours, options.patch_size, options.max_iterations))


def advise(rounds: Rounds) -> None:
    """Runs the trials, and says and writes the answer whatever ends them. Raises KeyboardInterrupt when told to stop."""
    question, began = rounds.question, time.monotonic()
    before = (question.folder / STATE).is_file()
    rounds.say(f"{question.data.name} in {question.root}: {question.groups} labelled {question.things}, {len(question.unlabeled)} "
               f"unlabelled images; up to {span(rounds.seconds)}" + (f", of which {span(rounds.state.used)} are used." if before else "."))
    rounds.remarks = tuple(near_copies(question))
    for remark in rounds.remarks:
        rounds.say(remark)
    done = 0

    def told() -> None:
        nonlocal done
        done += 1
        answer = answered(rounds)
        pages.write(rounds, answer)
        lead = f"; ahead: {max(answer.rows, key=lambda row: row.score.mean).arm.name}" if answer.rows else ""
        rounds.say(f"  {done} run{'s' * (done > 1)} done here, {span(rounds.state.used)} used{lead}")

    rounds.told = told
    try:
        plan = rounds.make_plan()
        left = f" There is no time for {', '.join(plan.left_out)}." if plan.left_out else ""
        rounds.say(f"Plan: {', '.join(plan.arms)}; {plan.steps} steps at {plan.size.said}; the labelled images divided into {plan.folds} "
                   f"parts, {plan.rounds} time{'s' * (plan.rounds > 1)} or more, the worse half of the methods dropped after each; about "
                   f"{plan.runs} runs, {span(plan.seconds)}.{left}")
        rounds.go()
    finally:
        if rounds.begun:  # else the page of before, if there is one, says more
            rounds.state.write(question.folder / STATE)
            answer = answered(rounds)
            folder = pages.write(rounds, answer)
            rounds.say(pages.screen(pages.sections(rounds, answer)))
            rounds.say(f"\nThis page: {os.path.relpath(folder / 'advice.html')}, advice.md; {span(time.monotonic() - began)}.")


def choose_next(options: Advise) -> None:
    """Writes which images to label next."""
    count = options.next or 0
    if count < 1:
        raise UserError(f"--next {options.next}: a number of images from 1 is needed.")
    candidates, question, run = None, None, None
    if options.run is not None:
        finished = results.finished(options.run)
        config, root = finished.config, options.root_path or Path(finished.config["root"])
        run = looks.knowing(finished, choose_device(options.device))
        if config["dimensions"] == 2 and config["data_set"] == "folder" and without_masks(root):
            candidates = looks.candidates_in(root, looks.reader_of(finished))
        else:
            question = asked(config["data_set"], root, config["options"].get("protocol"), options.labeled_num, options.exp,
                             finished.settings)
            # Names say nothing of what the run knows where they are those of another folder.
            own = root.resolve() == Path(config["root"]).resolve()
            candidates = looks.candidates_of(question, [*config["split"]["labeled"], *config["split"]["val"]] if own else [])
    elif options.root_path is not None and options.dataset in (None, "folder") and without_masks(options.root_path):
        candidates = looks.candidates_in(options.root_path)
    else:
        question = asked(options.dataset, options.root_path, options.protocol, options.labeled_num, options.exp)
        candidates = looks.candidates_of(question)
    known = sum(candidate.labeled for candidate in candidates)
    if known == len(candidates) and question is not None and question.left_out:
        raise UserError(f"{question.root}: nothing is left to choose from: {question.left_without_labels}")
    if known == len(candidates):
        raise UserError(f"{place_of(question, options)}: all {known} images are labelled already; put unlabelled ones beside them.")
    found, remarks = looks.looks_of(run, candidates) if run is not None else looks.plain_looks(candidates)
    for remark in remarks[:5]:
        print(remark)
    if not any(not look.candidate.labeled for look in found):
        raise UserError(f"{place_of(question, options)}: none of the unlabelled images could be read.")
    rows, labeled = np.stack([look.plain for look in found]), np.array([look.candidate.labeled for look in found])
    expected = None if run is None else np.array([look.expected for look in found], float)
    places, passed = chosen(rows, labeled, [look.candidate.group for look in found], np.stack([look.print.small for look in found]), count,
                            expected)
    folder = options.output or (question.folder if question else results_folder() / "advice" / place_of(question, options).resolve().name) \
        / f"next_{count}"
    hand_out(found, places, rows, labeled, folder)
    tell(found, places, passed, labeled, count, options, folder)


def hand_out(found: list[looks.Look], places: list[int], rows: np.ndarray, labeled: np.ndarray, folder: Path) -> None:
    """The files, with how far each lies from what is labelled or was chosen before it."""
    away, known = [], [*np.flatnonzero(labeled)]
    for place in places:
        away.append(float(distances(rows[known], rows[place]).min()) if known else np.inf)
        known.append(place)
    handing.hand_out(folder, [found[place] for place in places], away)


def tell(found: list[looks.Look], places: list[int], passed: int, labeled: np.ndarray, count: int, options: Advise, folder: Path) -> None:
    """The choice on the screen, and how it came about."""
    by = (f"by {options.run}: of the images with the lowest expected Dice those that lie furthest apart in its features" if options.run
          else "by what they look like alone (grey values, gradients, histogram): those that lie furthest apart")
    print(f"{len(places)} of {len(found) - int(labeled.sum())} unlabelled images to label next, {by}; {int(labeled.sum())} are labelled.")
    for number, place in enumerate(places, 1):
        look = found[place]
        print(f"  {number:>3}  {look.candidate.name}" + ("" if look.expected is None else f"  (expected Dice {look.expected:.2f})"))
    if passed:
        print(f"{passed} {'was' if passed == 1 else 'were'} passed over: nearly the same picture as one that is labelled or chosen, or of "
              "its patient or piece.")
    if len(places) < count:
        print(f"There are no more than {len(places)} such images.")
    print(f"List, sheet and links: {handing.said(folder)} ({handing.LIST}, {handing.TABLE}, {handing.SHEET}, {handing.LINKS}/)")


def without_masks(root: Path) -> bool:
    """Whether a folder of pictures has no mask yet, so that it is no data set."""
    return root.is_dir() and not FolderSource.fits(root) and ((root / "images").is_dir() or not any(
        place.is_dir() for place in entries(root))) or (
        (root / "images").is_dir() and (root / "masks").is_dir() and not entries(root / "masks"))


def place_of(question: Question | None, options: Advise) -> Path:
    return question.root if question is not None else options.root_path or Path()


if __name__ == "__main__":
    torch.manual_seed(0)
    sys.exit(finish_with(lambda: main(tyro.cli(Advise, use_underscores=True, description=__doc__))))
