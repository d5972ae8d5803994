"""FixMatch's two published forms on one labelled and unlabelled batch: the script's own `main`, with stub networks."""
from __future__ import annotations

from typing import Any
from unittest import mock

import torch
import train_FixMatchCTA
import train_FixMatchStandardAugs
from parity_tools import Computed, Golden, Parity, ScriptedRun, Stub, drive, golden_batch, gradient

from losses.pseudo_labels import concentration, hard_labels, relative_confidence


def step_of(golden: Golden, script: Any, options: Any, teacher: Stub) -> tuple[ScriptedRun, torch.Tensor, torch.Tensor, Computed]:
    """The script at the file's step: weak logits of the student, then strong ones; what both files have in common."""
    weak, strong = golden.leaf("in_weak_logits"), golden.leaf("in_strong_logits")
    labels = golden.tensor("in_labels")[: golden["par_labeled_bs"].item()]
    batch = golden_batch(labels, len(weak) - len(labels), golden["par_iter"].item())
    batch.strong = torch.full_like(batch.images, 2.0)
    student = Stub(weak, strong)
    run = drive(script, options, {"student": student}, [batch], {"teacher": teacher})
    assert [seen.amax().item() for seen in student.seen] == [1, 2], "the weak views, then the strong ones"
    terms = run.steps[0].terms
    by_weak, by_strong = gradient(terms["unsupervised"], weak, strong)
    out: Computed = {f"out_{term}": terms[term] for term in ("supervised", "unsupervised", "total")}
    out |= {"out_weight": run.steps[0].arguments["weight"], "out_unsupervised_weak_grad_max": by_weak.abs().max(),
            "grad_unsupervised_strong": by_strong}
    return run, weak, strong, out


def standard(golden: Golden) -> Computed:
    teacher = Stub()
    with mock.patch.object(train_FixMatchStandardAugs, "recoloured", lambda images, *drawn: torch.full_like(images, 2.0)):
        run, weak, strong, out = step_of(golden, train_FixMatchStandardAugs, train_FixMatchStandardAugs.Method(), teacher)
    terms = run.steps[0].terms
    assert not teacher.seen, "the moving average is made and never asked"
    out |= {"out_normalized": relative_confidence(weak), "out_pseudo_labels": terms["pseudo_labels"]}
    out |= {"out_as_weight": concentration(strong), "out_comp_loss": terms["complementary"]}
    out["grad_comp_strong"] = gradient(terms["complementary"], strong)[0]
    return out


def cta(golden: Golden) -> Computed:
    teacher = Stub(golden.tensor("in_teacher_weak_logits"))
    run, weak, _, out = step_of(golden, train_FixMatchCTA, train_FixMatchCTA.Method(), teacher)
    terms = run.steps[0].terms
    labels = hard_labels(golden.tensor("in_teacher_weak_logits"), train_FixMatchCTA.Method().confidence)
    assert torch.equal(labels[golden["par_labeled_bs"].item() :], terms["pseudo_labels"]) and terms["mask"].all()
    return out | {"out_pseudo_labels": labels, "grad_supervised_weak": gradient(terms["supervised"], weak)[0]}


FILES = {
    "fixmatch_standard_2d": Parity(standard, tolerances={"out_normalized": (1e-5, 1e-6)}),
    "fixmatch_cta_2d": Parity(cta),
}
