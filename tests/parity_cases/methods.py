"""Methods on one labelled and unlabelled batch: each script's own `main`, with stub networks that return golden logits."""
from __future__ import annotations

import numpy as np
import torch
import train_MeanTeacher
import train_UAMT
from parity_tools import Computed, Golden, Parity, ScriptedRun, Stub, drive, golden_batch, gradient
from torch import Tensor

from dataloaders.catalog import DATA_SETS
from networks import entropy_over_passes


def mean_teacher(golden: Golden, dimensions: str) -> Computed:
    student = golden.leaf("in_student_logits")
    labels = golden.tensor("in_labels")[: golden["par_labeled_bs"].item()]
    options = train_MeanTeacher.Method(**train_MeanTeacher.PRESETS.get(dimensions, {}))
    batches = [golden_batch(labels, len(student) - len(labels), step) for step in golden["par_iters"].tolist()]
    kept = {"teacher": Stub(golden.tensor("in_teacher_logits"))}
    run = drive(train_MeanTeacher, options, {"student": Stub(student)}, batches, kept)
    out: Computed = {}
    for step in run.steps:
        terms = {"supervised": step.terms["supervised"], "unsupervised": step.terms["consistency"], "total": step.terms["total"]}
        out |= {f"out_{name}_{step.step}": value for name, value in terms.items()}
        out[f"out_weight_{step.step}"] = step.arguments["weight"]
        if step is run.steps[-2]:  # gradients are given for the last step but one
            out |= {f"grad_{name}": gradient(value, student)[0] for name, value in terms.items()}
    return out


def uamt_terms(golden: Golden, options: train_UAMT.Method, prefix: str, steps: list[int]) -> tuple[ScriptedRun, Tensor]:
    """The script over `steps` with a student and a teacher that answer as the file has it: one pass for the target, then four of two."""
    student = golden.leaf("in_student_logits")
    labels = golden.tensor("in_labels")[: golden["par_labeled_bs"].item()]
    passes = golden.tensor(f"{prefix}noisy_teacher_logits")
    teacher = Stub(golden.tensor(f"{prefix}teacher_logits"), *(passes[k : k + 2].flatten(0, 1) for k in range(0, len(passes), 2)))
    batches = [golden_batch(labels, len(student) - len(labels), step) for step in steps]
    return drive(train_UAMT, options, {"student": Stub(student)}, batches, {"teacher": teacher}), student


def uamt(golden: Golden, preset: str) -> Computed:
    of_the_data = {name: DATA_SETS[preset].defaults[name] for name in ("dice", "consistency_rampup") if name in DATA_SETS[preset].defaults}
    values = {**of_the_data, **train_UAMT.PRESETS.get(preset, {}), "max_iterations": golden["par_max_iterations"].item()}
    options = train_UAMT.Method(**values)
    steps = golden["par_iters"].tolist()
    run, student = uamt_terms(golden, options, "in_", steps)
    teacher = Stub(*(golden.tensor("in_noisy_teacher_logits")[k : k + 2].flatten(0, 1) for k in range(0, 8, 2)))
    passes = entropy_over_passes(teacher, golden.tensor("in_teacher_logits"), options.teacher_passes, options.noise)
    out: Computed = {"out_uncertainty": passes}
    for step in run.steps:
        terms = {"supervised": step.terms["supervised"], "unsupervised": step.terms["consistency"], "total": step.terms["total"]}
        out |= {f"out_{name}_{step.step}": value for name, value in terms.items()}
        out |= {f"out_{name}_{step.step}": step.arguments[name] for name in ("weight", "threshold")}
        out[f"out_mask_{step.step}"] = step.terms["mask"].to(torch.uint8)
        if step is run.steps[-2]:
            out |= {f"grad_{name}": gradient(value, student)[0] for name, value in terms.items()}
    if "in_all_noisy_teacher_logits" in golden.arrays:
        run, student = uamt_terms(golden, train_UAMT.Method(**values, consistency_rows="all"), "in_all_", [steps[1]])
        terms = run.steps[0].terms
        out |= {f"out_all_unsupervised_{steps[1]}": terms["consistency"], f"out_all_total_{steps[1]}": terms["total"]}
        out["grad_all_unsupervised"] = gradient(terms["consistency"], student)[0]
    return out


def uamt_threshold(golden: Golden) -> Computed:
    out: Computed = {}
    for name in ("acdc", "la"):
        options = train_UAMT.Method(max_iterations=golden[f"par_max_iterations_{name}"].item())
        out[f"out_threshold_{name}"] = np.array([train_UAMT.admitted(step, options, 4) for step in golden[f"in_iter_{name}"].tolist()])
    return out


LOG = {"out_uncertainty": (1e-5, 1e-6)}

FILES = {
    "mean_teacher_2d": Parity(lambda golden: mean_teacher(golden, "2D")),
    "mean_teacher_3d": Parity(lambda golden: mean_teacher(golden, "3D")),
    "uamt_2d": Parity(lambda golden: uamt(golden, "ACDC"), tolerances=LOG),
    "uamt_3d": Parity(lambda golden: uamt(golden, "BraTS2019"), tolerances=LOG),
    "uamt_la": Parity(lambda golden: uamt(golden, "LA"), tolerances=LOG),
    "uamt_threshold": Parity(uamt_threshold),
}
