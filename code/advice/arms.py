"""The methods that an adviser tries, each with the reason why it is there, and what its step costs.

Few, since every one takes time from the others; of different kinds, so that where one idea fails another may not; of one network at the
usual settings, so that nothing has to be tuned; and none that needs a first stage, weights from elsewhere or a data set's own values.

| arm | why it is tried |
|---|---|
| Supervised | the question itself: what the labelled images give alone |
| Supervised, strong | the cheapest rival: much of what unlabelled data give may be had by nnU-Net's augmentation |
| MeanTeacher | consistency under noise, the mildest and cheapest: it seldom harms |
| FixMatch | sure pseudo-labels under changes of colour; much stronger where it works |
| CPS | two networks teach each other: needs no threshold, and two starts even out the luck of few labels |
| UniMatch | several strong views, CutMix and dropped features: the strongest of the flat methods on photographs, and the dearest |
| simEps | an ensemble of three with similarity maps; made for surface defects |

Volumes: FixMatch and UniMatch take images alone; UA-MT stands in their place. The first are tried always; when time is short,
the last are left out.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dataloaders.errors import UserError


@dataclass(frozen=True)
class Arm:
    """A method as it is tried."""

    name: str
    """In folders and tables."""
    method: str
    """code/train_<method>.py."""
    cost: float
    """Of a step, that of Supervised being 1, with the same rows: counted by its passes through the network, not measured. What runs take
    replaces it."""
    words: tuple[str, ...] = ()
    """Options of the script."""
    scaled: tuple[str, ...] = ()
    """Options for a trial that is shorter than the published training: ramps last a whole training of 30,000 steps, and are given the
    length of the trial, in twenty stairs."""
    unlabeled: bool = True


SUPERVISED = Arm("Supervised", "Supervised", 1.0, unlabeled=False)
STRONG = Arm("Supervised-strong", "Supervised", 1.2, ("--augment", "strong"), unlabeled=False)
RAMP = ("--ramp", "whole", "--consistency_rampup", "20")
MEAN_TEACHER = Arm("MeanTeacher", "MeanTeacher", 1.3, scaled=(*RAMP, "--consistency_start", "0"))
CPS, SIMEPS = Arm("CPS", "CPS", 2.0, scaled=RAMP), Arm("simEps", "simEps", 3.2, scaled=RAMP)
ARMS: dict[int, tuple[Arm, ...]] = {
    2: (SUPERVISED, STRONG, MEAN_TEACHER, Arm("FixMatch", "FixMatch", 1.5, scaled=RAMP), CPS, Arm("UniMatch", "UniMatch", 2.8), SIMEPS),
    3: (SUPERVISED, STRONG, MEAN_TEACHER, CPS, Arm("UAMT", "UAMT", 2.5, scaled=RAMP), SIMEPS),
}
"""By dimensions of the images."""


def arms_of(dimensions: int, wanted: Sequence[str]) -> tuple[Arm, ...]:
    """All arms for images of these dimensions, or both supervised ones and those that are wanted. Raises `UserError` for unknown names."""
    there = ARMS[dimensions]
    if unknown := [name for name in wanted if name not in {arm.name for arm in there}]:
        raise UserError(f"--methods {unknown[0]}: the adviser tries {', '.join(arm.name for arm in there if arm.unlabeled)} "
                        f"{'here' if dimensions == 2 else 'on volumes'}, beside supervised training.")
    return tuple(arm for arm in there if not wanted or not arm.unlabeled or arm.name in wanted)
