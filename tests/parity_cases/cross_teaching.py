"""Cross teaching on one labelled and unlabelled batch: the script's own `main`, with stub networks."""
from __future__ import annotations

import train_CrossTeaching
from parity_tools import Computed, Golden, Parity, Stub, drive, golden_batch, gradient


def cross_teaching(golden: Golden) -> Computed:
    first, second = golden.leaf("in_logits_1"), golden.leaf("in_logits_2")
    labels = golden.tensor("in_labels")[: golden["par_labeled_bs"].item()]
    batch = golden_batch(labels, len(first) - len(labels), golden["par_iter"].item())
    options = train_CrossTeaching.Method(**train_CrossTeaching.PRESETS["ACDC"])
    (step,) = drive(train_CrossTeaching, options, {"model1": Stub(first), "model2": Stub(second)}, [batch]).steps
    terms, crossed = step.terms, []
    out: Computed = {"out_weight": step.arguments["weight"], "out_total": terms["total"]}
    for k, own, other in (("1", first, second), ("2", second, first)):
        out[f"grad_pseudo_{k}"], cross = gradient(terms[f"pseudo_{k}"], own, other)
        (out[f"grad_total_{k}"],) = gradient(terms["total"], own)
        out |= {f"out_{name}_{k}": terms[f"{name}_{k}"] for name in ("supervised", "pseudo")}
        crossed.append(cross.abs().max())
    out["out_pseudo_labels_1"], out["out_pseudo_labels_2"] = terms["pseudo_labels"]
    return out | {"out_cross_grad_max": max(crossed)}


FILES = {"cross_teaching_2d": Parity(cross_teaching)}
