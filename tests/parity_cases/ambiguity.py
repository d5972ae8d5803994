"""AC-MT, by each of its kinds of ambiguity, on one labelled and unlabelled batch: the script's own `main`, with stub networks."""
from __future__ import annotations

from math import log
from typing import Any

import numpy as np
import torch
import train_ACMT
from parity_tools import Computed, Golden, Parity, Step, Stub, drive, golden_batch, gradient
from torch import Tensor, nn

from dataloaders.batches.loader import Batch
from losses import entropy_map
from losses.ambiguity import distances, prototypes, rectified_labels


class FeatureStub(Stub):
    """Predicts `outputs` when called; encoded and decoded it gives, pass after pass, logits of all maps and features of all but the finest.

    `passes`: (features, logits) of each.
    """

    def __init__(self, passes: list[tuple[Tensor, Tensor]], *outputs: Tensor):
        super().__init__(*outputs)
        self.passes, self.encoded = passes, 0

    def encode(self, images: Tensor) -> list[Any]:
        self.encoded += 1
        features, logits = self.passes[(self.encoded - 1) % len(self.passes)]
        return [logits, features]

    def decode(self, maps: list[Any]) -> Tensor:
        return maps[0]

    def head(self, features: Tensor) -> Tensor:
        return features


def options_of(golden: Golden, **values: Any) -> train_ACMT.Method:
    steps = golden["par_max_iterations"].item()
    return train_ACMT.Method(**{**train_ACMT.PRESETS["LA"], "consistency_rampup": 40.0, "max_iterations": steps, **values})


def batches_of(golden: Golden, students: Tensor, steps: list[int]) -> list[Batch]:
    labels = golden.tensor("in_labels")[: golden["par_labeled_bs"].item()]
    return [golden_batch(labels, len(students) - len(labels), step) for step in steps]


def terms_of(step: Step, student: Tensor, with_gradients: bool) -> Computed:
    """What all files have of a step."""
    terms = step.terms
    unsupervised = terms["consistency"] + terms.get("entropy", 0)
    out: Computed = {f"out_supervised_{step.step}": terms["supervised"], f"out_unsupervised_{step.step}": unsupervised,
                     f"out_total_{step.step}": terms["total"], f"out_weight_{step.step}": step.arguments["weight"]}
    if with_gradients:
        values = {"supervised": terms["supervised"], "unsupervised": unsupervised, "total": terms["total"]}
        out |= {f"grad_{name}": gradient(value, student)[0] for name, value in values.items()}
    return out


def by_entropy(golden: Golden) -> Computed:
    student, teacher = golden.leaf("in_student_logits"), Stub(golden.tensor("in_teacher_logits"))
    steps, options = golden["par_iters"].tolist(), options_of(golden)
    run = drive(train_ACMT, options, {"student": Stub(student)}, batches_of(golden, student, steps), {"teacher": teacher})
    out: Computed = {"out_entropy": train_ACMT.entropy(student[golden["par_labeled_bs"].item() :].softmax(1))[:, 0]}
    for step in run.steps:
        out |= terms_of(step, student, step.step == 4000)
        out |= {f"out_mask_{step.step}": step.terms["mask"].to(torch.uint8), f"out_threshold_{step.step}": step.arguments["threshold"]}
    confident = Stub(golden.tensor("in_confident_student_logits"))
    run = drive(train_ACMT, options, {"student": confident}, batches_of(golden, student, [4000]), {"teacher": teacher})
    return out | {"out_confident_unsupervised_4000": run.steps[0].terms["consistency"]}


def by_model_uncertainty(golden: Golden) -> Computed:
    student, teacher = golden.leaf("in_student_logits"), Stub(golden.tensor("in_teacher_logits"))
    passes, steps = golden.tensor("in_noisy_student_logits"), golden["par_iters"].tolist()
    networks = {"student": Stub(student, *passes)}
    options = options_of(golden, ambiguity="model_uncertainty")
    run = drive(train_ACMT, options, networks, batches_of(golden, student, steps), {"teacher": teacher})
    out: Computed = {"out_uncertainty": entropy_map(passes.softmax(2).mean(0))}
    for step in run.steps:
        out |= terms_of(step, student, step.step == 4000)
        out[f"out_mask_{step.step}"] = step.terms["mask"].to(torch.uint8)
        out[f"out_threshold_{step.step}"] = step.arguments["threshold"] * log(2)
    return out


def by_prototypes(golden: Golden) -> Computed:
    """As released, where an entropy is masked by the maps of all volumes; and one volume by itself, where both forms are the same."""
    student, n, step = golden.leaf("in_student_logits"), golden["par_labeled_bs"].item(), golden["par_iter"].item()
    clean, passes = golden.tensor("in_clean_teacher_logits"), golden.tensor("in_dropout_teacher_logits")
    features = golden.tensor("in_dropout_teacher_features")

    def steps_of(students: Tensor, rows: slice, **values: Any) -> Step:
        """The script on these unlabelled rows."""
        teacher = FeatureStub([(f[rows], z[rows]) for f, z in zip(features, passes)], golden.tensor("in_teacher_logits")[rows], clean[rows])
        options = options_of(golden, ambiguity="prototypes", certainty=golden["par_certainty"].item(), **values)
        batches = batches_of(golden, students, [step])
        return drive(train_ACMT, options, {"student": Stub(students)}, batches, {"teacher": teacher}).steps[0]

    released = steps_of(student, slice(None), **train_ACMT.PRESETS["published_code"])
    out = terms_of(released, student, True)
    out |= {"out_masked_mse": released.terms["consistency"], "out_entropy_term": released.terms["entropy"],
            "grad_entropy_term": gradient(released.terms["entropy"], student)[0], "out_mask": released.terms["mask"].to(torch.uint8)}
    pairs = [torch.cat([student[:n], student[n + k, None]]).detach() for k in range(len(student) - n)]
    own = [steps_of(pair, slice(k, k + 1)).terms["entropy"] for k, pair in enumerate(pairs)]
    both = steps_of(student, slice(None)).terms["entropy"]
    torch.testing.assert_close(both, torch.stack(own).mean(), rtol=1e-6, atol=0)
    out["out_entropy_term_single"] = torch.stack(own)

    deviation = (passes / 2).sigmoid().std(0)
    certain, p = deviation < golden["par_certainty"].item(), clean.softmax(1)
    labels = rectified_labels(p, certain)
    resized = nn.functional.interpolate(features.mean(0), size=labels.shape[1:], mode="trilinear")
    centres = prototypes(resized, labels, p)
    far = distances(resized, centres)
    out |= {"out_uncertainty": deviation, "out_certain": certain.to(torch.uint8), "out_rectified_labels": labels.to(torch.uint8)}
    for c, name in enumerate(("background", "object")):
        out |= {f"out_prototype_{name}": centres[:, c], f"out_distance_{name}": far[:, c, None]}
    return out


def by_label_errors(golden: Golden) -> Computed:
    student, n, step = golden.leaf("in_student_logits"), golden["par_labeled_bs"].item(), golden["par_iter"].item()
    clean, target = golden.tensor("in_clean_teacher_logits"), golden.tensor("in_teacher_logits")

    def step_of(students: Tensor, **values: Any) -> Step:
        options = options_of(golden, **{"ambiguity": "label_errors", **values})
        batches = batches_of(golden, students, [step])
        return drive(train_ACMT, options, {"student": Stub(students)}, batches, {"teacher": Stub(target, clean)}).steps[0]

    found = step_of(student)
    out = terms_of(found, student, True) | {"out_mask": found.terms["mask"].to(torch.uint8)}
    labels = student[n:].argmax(1)
    out["out_issues_per_class"] = torch.bincount(labels[found.terms["mask"][:, 0]], minlength=2)
    background = step_of(golden.tensor("in_background_student_logits"))
    out |= {"out_background_unsupervised": background.terms["consistency"], "out_background_mask": background.terms["mask"].to(torch.uint8)}
    # The fall-back of the released script is the mean over all voxels, as with entropy where all is ambiguous.
    whole = step_of(student, ambiguity="entropy", entropy_start=-1.0, entropy_end=-1.0).terms["consistency"]
    return out | {"out_failed_unsupervised": whole, "grad_failed_unsupervised": gradient(whole, student)[0]}


def thresholds(golden: Golden) -> Computed:
    steps, out = golden["in_iter"].tolist(), {}
    for name, kind, unit in (("entropy", "entropy", 1.0), ("model_uncertainty", "model_uncertainty", log(2))):
        for ending, end in (("", None), ("_loosening", 0.6)):
            options = options_of(golden, ambiguity=kind, entropy_end=end)
            out[f"out_{name}{ending}"] = np.array([unit * train_ACMT.admitted(step, options) for step in steps])
    return out


LOG = {"out_entropy": (1e-5, 1e-6), "out_uncertainty": (1e-5, 1e-6), "out_prototype_*": (1e-5, 1e-6), "out_distance_*": (1e-5, 1e-5)}

FILES = {
    "acmt_entropy_3d": Parity(by_entropy, tolerances=LOG),
    "acmt_model_uncertainty_3d": Parity(by_model_uncertainty, tolerances=LOG),
    "acmt_prototype_3d": Parity(by_prototypes, tolerances=LOG),
    "acmt_label_errors_3d": Parity(by_label_errors),
    "acmt_thresholds": Parity(thresholds),
}
