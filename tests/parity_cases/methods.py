"""Methods on one labelled and unlabelled batch: each script's own `main`, with stub networks that return golden logits."""
from __future__ import annotations

import train_MeanTeacher
from parity_tools import Computed, Golden, Parity, Stub, drive, golden_batch, gradient


def mean_teacher(golden: Golden, dimensions: str) -> Computed:
    student = golden.leaf("in_student_logits")
    labels = golden.tensor("in_labels")[: golden["par_labeled_bs"].item()]
    options = train_MeanTeacher.MeanTeacher(**train_MeanTeacher.PRESETS.get(dimensions, {}))
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


FILES = {
    "mean_teacher_2d": Parity(lambda golden: mean_teacher(golden, "2D")),
    "mean_teacher_3d": Parity(lambda golden: mean_teacher(golden, "3D")),
}
