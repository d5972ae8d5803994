"""The methods that simEps's authors ran beside their own: ReCo, UCC and its mixing, UAPS, and their forms of Mean Teacher, CCT and ICT."""
from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
import train_CCT
import train_ICT
import train_MeanTeacher
import train_ReCo
import train_UAPS
import train_UCC
from parity_tools import Computed, Golden, Parity, Stub, TappedStub, drive, golden_batch, gradient
from torch import Tensor, nn

from dataloaders.augmentation.copy_paste import half_box
from dataloaders.catalog import DATA_SETS
from losses.contrast import likeness, mean_of_class, regions

MAIN = ("main", "aux1", "aux2", "aux3")


def by_authors(script: Any, data: str = "NEU-Seg") -> Any:
    """The options that hold on a data set of theirs."""
    names, of = set(script.Method.__dataclass_fields__), DATA_SETS[data]
    values = {**of.defaults, **script.PRESETS.get("2D", {}), **script.PRESETS.get("defect", {}), **script.PRESETS.get(data, {})}
    return script.Method(**{name: value for name, value in values.items() if name in names})


def reco(golden: Golden) -> Computed:
    labels, teacher = golden.tensor("in_labels"), golden.tensor("in_logits_teacher")
    logits = {part: golden.leaf(f"in_logits_{part}") for part in ("labeled", "unlabeled")}
    vectors = {part: golden.leaf(f"in_representation_{part}") for part in logits}
    student = TappedStub(*((None, vectors[part], logits[part]) for part in logits))
    at, against = golden.tensor("in_query_pixels"), golden.tensor("in_negative_pixels")
    classes = (at[:, 0] >= 0).nonzero()[:, 0]
    seen: list[Any] = []

    def drawn(valid: Tensor, hard: Tensor, likely: Tensor, queries: int, negatives: int) -> Any:
        seen.append((valid, hard, likely))
        return classes, at[classes], against[classes]

    batch = golden_batch(labels, len(teacher), golden["par_iter"].item())
    networks = {"student": student, "projection": nn.Identity()}
    with mock.patch("losses.contrast.drawn", drawn), mock.patch.object(train_ReCo, "feature_channels", lambda *given: 6):
        (step,) = drive(train_ReCo, by_authors(train_ReCo), networks, [batch], {"teacher": Stub(teacher)}).steps
    ((valid, hard, likely),) = seen
    said = torch.cat([labels, teacher.argmax(1).masked_fill(teacher.softmax(1).amax(1) < 0.7, 255)])
    again = regions(said, torch.cat(list(logits.values())).softmax(1), 0.97)
    assert all(torch.equal(one, other) for one, other in zip(again, (valid, hard)))
    centres = mean_of_class(torch.cat(list(vectors.values())).movedim(1, -1).flatten(0, -2), valid).detach()
    torch.testing.assert_close(likeness(centres, valid.any(1), 0.5), likely, equal_nan=True)
    asked = torch.zeros(len(likely), dtype=torch.bool).index_fill(0, classes, True)
    known = asked.unsqueeze(1) & valid.any(1) & ~torch.eye(len(likely), dtype=torch.bool)
    assert not likely[asked.unsqueeze(1) & ~known].any(), "neither the class itself nor one that is absent is drawn"
    terms = step.terms
    to_logits = {part: gradient(terms["total"], z)[0] for part, z in logits.items()}
    to_vectors = {part: gradient(terms["contrast"], z)[0] for part, z in vectors.items()}
    return {
        "out_pseudo_labels": terms["pseudo_labels"], "out_valid_count": valid.sum(1), "out_hard_count": hard.sum(1),
        "out_prototypes": centres, "out_class_probability": likely.masked_fill(~known, torch.nan),
        "out_reco": terms["contrast"], "out_supervised": terms["supervised"], "out_unsupervised": terms["unsupervised"],
        "out_total": terms["total"], "out_weight": step.arguments["weight"],
        "grad_unsupervised_logits_unlabeled": gradient(terms["unsupervised"], logits["unlabeled"])[0],
        **{f"grad_total_logits_{part}": value for part, value in to_logits.items()},
        **{f"grad_reco_representation_{part}": value for part, value in to_vectors.items()},
        "grad_total_representation_unlabeled": gradient(terms["total"], vectors["unlabeled"])[0],
    }


def ports(golden: Golden) -> Computed:
    labels, teacher = golden.tensor("in_labels"), golden.tensor("in_logits_teacher")
    labeled, unlabeled = ([golden.leaf(f"in_logits_{part}_{k}") for k in range(4)] for part in ("labeled", "unlabeled"))
    out: Computed = {}
    for at in golden.endings("out_weight_"):
        batch = golden_batch(labels, len(teacher), int(at))
        student = {"student": Stub(labeled[0], unlabeled[0])}
        (step,) = drive(train_MeanTeacher, by_authors(train_MeanTeacher), student, [batch], {"teacher": Stub(teacher)}).steps
        out |= {f"out_weight_{at}": step.arguments["weight"], f"out_mt_consistency_{at}": step.terms["consistency"],
                f"out_mt_total_{at}": step.terms["total"], "out_mt_supervised": step.terms["supervised"]}
        if at == "12000":
            to_both = gradient(step.terms["total"], labeled[0], unlabeled[0])
            out |= dict(zip(("grad_mt_total_labeled", "grad_mt_total_unlabeled"), to_both))

    batch = golden_batch(labels, len(teacher), 12000)
    (step,) = drive(train_CCT, by_authors(train_CCT), {"network": Stub(tuple(labeled), tuple(unlabeled))}, [batch]).steps
    out |= {f"out_cct_{name}": step.terms[name] for name in ("supervised", "consistency", "total")}
    out |= {f"grad_cct_total_unlabeled_{k}": value for k, value in enumerate(gradient(step.terms["total"], *unlabeled))}
    (out["grad_cct_total_labeled_1"],) = gradient(step.terms["total"], labeled[1])

    images, half = golden.tensor("in_images"), len(golden["in_lambda"])
    batch = golden_batch(labels, len(images), 12000)
    batch.images = torch.cat([torch.zeros(len(labels), *images.shape[1:]), images])
    batch.rng = SimpleNamespace(beta=lambda *drawn: golden["in_lambda"])  # type: ignore[assignment]
    targets = [unlabeled[k][:half].detach() for k in (1, 2)]
    first = unlabeled[0].detach()[:half].clone().requires_grad_()
    student = Stub(labeled[0], first)
    (step,) = drive(train_ICT, by_authors(train_ICT), {"student": student}, [batch], {"teacher": Stub(*targets)}).steps
    mix = torch.from_numpy(golden["in_lambda"].astype(np.float32))
    out |= {
        "out_ict_images": student.seen[1], "out_ict_targets": train_ICT.mixed(*(z.softmax(1) for z in targets), mix),
        "out_ict_consistency": step.terms["consistency"], "out_ict_total": step.terms["total"],
        "grad_ict_total_unlabeled": gradient(step.terms["total"], first)[0],
    }
    return out


def cutmix(golden: Golden) -> Computed:
    out: Computed = {}
    for kind in golden.endings("par_size_"):
        found = []
        for seed in golden[f"in_seeds_{kind}"]:
            legacy = np.random.RandomState(seed)
            (top, left), (bottom, right) = half_box(SimpleNamespace(integers=legacy.randint), *golden[f"par_size_{kind}"])  # type: ignore[arg-type]
            found.append([top, bottom, left, right])
        out[f"out_box_{kind}"] = np.array(found)
    labels, n = golden.tensor("in_labels"), len(golden["in_labels"])
    weak = golden.tensor("in_weak")
    batch = golden_batch(labels, len(weak))
    batch.images = torch.cat([golden.tensor("in_images"), weak])
    boxes = (golden.tensor("in_masks") == 0).unsqueeze(1)
    shares = torch.tensor([0.2] * n + [0.3] * n, dtype=torch.float64)
    boxes = boxes & (golden.tensor("in_draws") < shares).view(-1, 1, 1, 1)
    mixed = train_UCC.cut_mixed(batch, golden.tensor("in_strong"), boxes[:n], boxes[n:])
    return out | dict(zip(("out_images", "out_labels", "out_weak", "out_strong"), mixed))


def uaps(golden: Golden) -> Computed:
    labels, shares = golden.tensor("in_labels"), golden["in_mixing_weights"]
    labeled, unlabeled = ([golden.leaf(f"in_logits_{part}_{name}") for name in MAIN] for part in ("labeled", "unlabeled"))
    out: Computed = {}
    kosdd2 = dict(rampup_unit=40, consistency_rampup=150.0)
    for name in golden.endings("out_weight_"):
        options = by_authors(train_UAPS, {"mtiles": "MT", "dagm": "DAGM"}.get(name, "NEU-Seg"))
        for option, value in (kosdd2 if name == "kosdd2" else {}).items():
            setattr(options, option, value)
        batch = golden_batch(labels, len(unlabeled[0]), golden["par_iter"].item())
        batch.shared_rng = SimpleNamespace(dirichlet=lambda ones: shares)  # type: ignore[assignment]
        (step,) = drive(train_UAPS, options, {"network": Stub(tuple(labeled), tuple(unlabeled))}, [batch]).steps
        out |= {f"out_total_{name}": step.terms["total"], f"out_weight_{name}": step.arguments["weight"]}
        if name == "neu":
            terms = step.terms
            out |= {f"out_{term}": terms[term] for term in ("supervised", "pseudo", "uncertainty", "pseudo_labels")}
            for term, to in (("pseudo", "pseudo"), ("uncertainty", "uncertainty"), ("total", "total_unlabeled")):
                out |= {f"grad_{to}_{head}": value for head, value in zip(MAIN, gradient(terms[term], *unlabeled))}
            out |= {f"grad_total_labeled_{head}": value for head, value in zip(MAIN, gradient(terms["total"], *labeled))}
            out |= {f"out_pseudo_{head}": terms[f"pseudo_{k}"] for k, head in enumerate(MAIN) if f"out_pseudo_{head}" in golden.arrays}
            out |= {f"out_variance_mean_{head}": terms[f"divergence_{k}"] for k, head in enumerate(MAIN)
                    if f"out_variance_mean_{head}" in golden.arrays}
    return out


def ucc(golden: Golden) -> Computed:
    """UCC's part of `simeps_baselines`: boxes nowhere, and views that are told apart by the order of calls alone."""
    logits = {part: [golden.leaf(f"in_logits_{part}_{k}") for k in ks] for part, ks in (("labeled", (1, 2)), ("unlabeled", (1, 2, 3, 4)))}
    weak, strong = logits["unlabeled"][:2], logits["unlabeled"][2:]
    batch = golden_batch(golden.tensor("in_labels"), len(weak[0]), golden["par_iter"].item())
    network = Stub(tuple(logits["labeled"]), tuple(weak), tuple(strong))
    options = by_authors(train_UCC)
    options.own_mix = options.cross_mix = 0.0
    (step,) = drive(train_UCC, options, {"network": network}, [batch]).steps
    terms, pseudo = step.terms, step.terms["pseudo_1"] + step.terms["pseudo_2"]
    return {
        "out_ucc_supervised": terms["supervised"], "out_ucc_total": terms["total"],
        **{f"out_ucc_pseudo_{k}": terms[f"pseudo_{k}"] for k in (1, 2)},
        **{f"out_ucc_variance_mean_{k}": terms[f"divergence_{k}"] for k in (1, 2)},
        **{f"grad_ucc_weak_{k}": value for k, value in enumerate(gradient(pseudo, *weak), 1)},
        **{f"grad_ucc_strong_{k}": value for k, value in enumerate(gradient(pseudo, *strong), 1)},
    }


FILES = {
    "simeps_reco": Parity(reco, tolerances={"out_prototypes": (1e-5, 1e-6), "out_class_probability": (1e-5, 1e-6)}),
    "simeps_ports": Parity(ports, tolerances={"out_ict_images": (1e-5, 1e-6), "out_ict_targets": (1e-5, 1e-6)}),
    "simeps_cutmix": Parity(cutmix),
    "uaps": Parity(uaps, tolerances={"grad_uncertainty_*": 2e-5}),
}
