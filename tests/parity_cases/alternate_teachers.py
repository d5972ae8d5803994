"""AD-MT on one labelled and unlabelled batch, in the turn of either teacher: the script's own `main`, with stub networks."""
from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import torch
import train_ADMT
from parity_tools import Computed, Golden, Parity, Step, Stub, drive, golden_batch, gradient
from torch import Tensor, nn

from dataloaders.augmentation.strong_views import beta_boxes, inside
from engine.schedules import ramp
from losses import entropy_bits


class Legacy:
    """numpy's legacy generator under the names of the new one."""

    def __init__(self, seed: int):
        state = np.random.RandomState(seed)
        self.integers, self.beta = state.randint, state.beta


def options_of(golden: Golden, **values: Any) -> train_ADMT.Method:
    consistency, rampup = golden["par_consistency"].tolist()
    found = train_ADMT.PRESETS.get("3D", {}) if golden["in_labels"].ndim == 4 else {}
    return train_ADMT.Method(**{**found, "consistency": consistency, "consistency_rampup": rampup, "dice": "squared",
                              "confidence": golden["par_conf_threshold"].item(), **values})


def step_of(golden: Golden, turn: int, **values: Any) -> tuple[Step, Tensor, Stub]:
    """The script at the file's step, in the turn of a teacher: the step, the student's logits, the student."""
    logits = golden.leaf(f"in_student_logits_turn{turn}")
    student, batch = Stub(logits), golden_batch(golden.tensor("in_labels"), len(golden["in_images_unlabeled"]), golden["par_iter"].item())
    batch.images = torch.cat([golden.tensor("in_images_labeled"), golden.tensor("in_images_unlabeled")])
    starts, stops = golden["in_boxes"].reshape(len(batch.unlabeled), 2, -1).transpose(1, 0, 2)
    box, partner = inside(starts, stops, batch.images.shape[2:]), golden.tensor("in_partner")
    views = {1: (golden.tensor("in_images_strong"), None), 2: (torch.where(box, batch.unlabeled[partner], batch.unlabeled), (box, partner))}
    teachers = {f"teacher{k}": Stub(golden.tensor(f"in_teacher{k}_logits")) for k in (1, 2)}
    with mock.patch.object(train_ADMT, "strong_view", lambda *drawn: views[turn]), \
            mock.patch.object(train_ADMT, "turns", lambda *drawn: [turn] * (batch.step + 1)):
        run = drive(train_ADMT, options_of(golden, **values), {"student": student}, [batch], teachers)
    return run.steps[0], logits, student


def alternate(golden: Golden) -> Computed:
    p1, p2 = (golden.tensor(f"in_teacher{k}_logits").softmax(1) for k in (1, 2))
    entropies = [entropy_bits(p) for p in (p1, p2)]
    confidence, labels = train_ADMT.fused(p1, p2).max(1)
    out: Computed = {f"out_entropy_{k}": entropy[:, 0] for k, entropy in enumerate(entropies, 1)}
    out |= {"out_fusion_weight_1": (entropies[1] - entropies[0]).sigmoid()[:, 0], "out_fused": train_ADMT.fused(p1, p2),
            "out_fused_confidence": confidence, "out_fused_labels": labels.to(torch.uint8)}
    released = train_ADMT.PRESETS["published_code"]
    for ending, turn, values in (("_turn1", 1, {}), ("_turn2", 2, released), ("_repaired_turn2", 2, {})):
        step, logits, student = step_of(golden, turn, **values)
        terms, n = step.terms, len(golden["in_labels"])
        # Everything below the threshold is kept where it is -1, so that the labels themselves are seen.
        all_kept = step_of(golden, turn, **values, confidence=-1.0)[0].terms
        kept, own = terms["mask"].to(torch.uint8), all_kept["pseudo_labels"].to(torch.uint8)
        if ending == "_repaired_turn2":
            out |= {"out_repaired_labels_turn2": own, "out_repaired_unsupervised_turn2": terms["unsupervised"],
                    "grad_repaired_unsupervised_turn2": gradient(terms["unsupervised"], logits)[0],
                    "out_repaired_confidence_turn2": terms["confidence"][:, 0]}
            continue
        out |= {f"out_{name}{ending}": terms[name] for name in ("supervised", "unsupervised", "total")}
        out |= {f"grad_{name}{ending}": gradient(terms[name], logits)[0] for name in ("unsupervised", "total")}
        out |= {f"out_kept{ending}": kept, f"out_labels{ending}": own, f"out_confidence{ending}": terms["confidence"][:, 0]}
        conflict = terms["conflict"][:, 0].to(torch.uint8)
        if turn == 1:
            out |= {"out_conflict": conflict, "out_weight": step.arguments["weight"]}
            out["out_student_input_shape"] = np.array(student.seen[0].shape)
        else:
            box, partner = step.arguments["mix"]
            out |= {"out_mixed_conflict": conflict, "out_mixed_images": student.seen[0][-n:],
                    "out_mixed_labels": torch.where(box[:, 0], labels[partner], labels).to(torch.uint8),
                    "out_mixed_confidence": torch.where(box[:, 0], confidence[partner], confidence)}
    return out


class Small(nn.Module):
    """A weight, a scale and the statistics of batch norm, its counter a float as the released average makes it. It predicts nothing."""

    def __init__(self, values: dict[str, Tensor]):
        super().__init__()
        for name, value in values.items():
            if name in ("weight", "scale"):
                self.register_parameter(name, nn.Parameter(value.clone()))
            else:
                self.register_buffer(name, value.clone().float())

    def forward(self, images: Tensor) -> Tensor:
        return images.new_zeros(len(images), 2, *images.shape[2:])


def average(golden: Golden) -> Computed:
    """Teacher 1, always in its turn, after the steps of the file."""
    names, steps = ("weight", "scale", "running_mean", "running_var", "num_batches"), golden["in_iter"].tolist()
    students = [{name: golden.tensor(f"in_student_{name}")[row] for name in names} for row in range(len(steps))]
    student, teacher = Small(students[0]), Small({name: golden.tensor(f"in_teacher0_{name}") for name in names})
    found: list[dict[str, Tensor]] = []

    def after(step: int) -> None:
        found.append({name: value.clone() for name, value in teacher.state_dict().items()})
        if len(found) < len(steps):
            student.load_state_dict(students[len(found)])

    options = train_ADMT.Method(consistency_rampup=float(golden["par_consistency_rampup"]), ema_decay=golden["par_decay"].item())
    batches = [golden_batch(torch.zeros(1, 4, 4, dtype=torch.long), 1, step) for step in steps]
    with mock.patch.object(train_ADMT, "turns", lambda *drawn: [1] * (max(steps) + 1)):
        drive(train_ADMT, options, {"student": student}, batches, {"teacher1": teacher, "teacher2": Small(students[0])}, after=after)
    out: Computed = {f"out_teacher_{name}": torch.stack([state[name] for state in found]) for name in names}
    return out | {"out_counter_is_float": np.array(teacher.num_batches.is_floating_point())}


def schedules(golden: Golden) -> Computed:
    out: Computed = {}
    for name in ("acdc", "la"):
        consistency, rampup, unit = golden[f"par_{name}"].tolist()
        out[f"out_weight_{name}"] = np.array([consistency * ramp(step, rampup, int(unit)) for step in golden[f"in_iter_{name}"].tolist()])
    for name in golden.endings("out_turn_"):
        seed, longest = golden[f"par_turn_seed_{name}"].item(), golden[f"par_turn_period_{name}"].item()
        out[f"out_turn_{name}"] = np.array(train_ADMT.turns(longest, 300, Legacy(seed))[:300], np.uint8)
    for name in golden.endings("out_boxes_"):
        n, _, *sides = golden[f"par_box_shape_{name}"].tolist()
        drawn = [np.concatenate(beta_boxes(Legacy(seed), n, sides), 1) for seed in golden[f"par_box_seeds_{name}"].tolist()]
        out[f"out_boxes_{name}"] = np.stack(drawn)
    return out


LOG = {"out_entropy_*": (1e-5, 1e-6), "out_fusion_weight_1": (1e-5, 1e-6), "out_fused": (1e-5, 1e-6)}

FILES = {
    "admt_2d": Parity(alternate, tolerances=LOG),
    "admt_3d": Parity(alternate, tolerances=LOG),
    "admt_ema": Parity(average, tolerances={"*": (1e-5, 1e-6)}),
    "admt_schedules": Parity(schedules),
}
