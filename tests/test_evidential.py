"""DC-Net's evidential classifier, by hand; and what its page promises."""
from __future__ import annotations

from math import log

import pytest
import torch
import torch.nn.functional as F
import train_DCNet
from parity_tools import Stub, golden_batch, gradient

from losses.evidential import dirichlet, expected_cross_entropy, misleading_evidence, vacuity, weighted_by_position

LABELS = torch.tensor([[[0, 1], [1, 255]]])
NOTHING = torch.full((1, 2, 2, 2), -200.0)
"""Logits without any evidence."""


def answers(seed: int, rows: int = 3) -> torch.Tensor:
    torch.manual_seed(seed)
    return torch.randn(rows, 2, 2, 2, requires_grad=True)


def test_without_evidence_all_is_open():
    alpha = dirichlet(NOTHING)
    assert torch.equal(alpha, torch.ones_like(alpha)) and torch.equal(vacuity(alpha), torch.ones(1, 2, 2))
    torch.testing.assert_close(alpha.log().softmax(1), torch.full_like(alpha, 0.5))
    assert misleading_evidence(alpha, LABELS) == 0


def test_probabilities_are_shares_of_the_evidence():
    alpha = dirichlet(answers(0))
    p = alpha.log().softmax(1)
    torch.testing.assert_close(p, alpha / alpha.sum(1, keepdim=True))
    torch.testing.assert_close(p.sum(1), torch.ones(3, 2, 2))


def test_expected_cross_entropy_by_hand():
    """psi(3) - psi(1) = 1 + 1/2, psi(3) - psi(2) = 1/2; the ignored pixel does not count."""
    alpha = torch.tensor([1.0, 2.0]).view(1, 2, 1, 1).expand(1, 2, 2, 2)
    torch.testing.assert_close(expected_cross_entropy(alpha, LABELS), torch.tensor((1.5 + 0.5 + 0.5) / 3))
    assert expected_cross_entropy(alpha, torch.full_like(LABELS, 255)) == 0


def test_misleading_evidence_by_hand():
    """KL(Beta(1, 2) || Beta(1, 1)) = ln 2 - 1/2 where the second class has evidence and the label is the first; 0 for the other pixels."""
    alpha = torch.tensor([1.0, 2.0]).view(1, 2, 1, 1).expand(1, 2, 2, 2)
    torch.testing.assert_close(misleading_evidence(alpha, LABELS), torch.tensor((log(2) - 0.5) / 3))
    one = torch.tensor([[[0, 255], [255, 255]]])
    torch.testing.assert_close(misleading_evidence(alpha, one), torch.tensor(log(2) - 0.5))
    torch.testing.assert_close(expected_cross_entropy(alpha, one), torch.tensor(1.5))
    twice = torch.cat([LABELS, torch.full_like(LABELS, 255)])
    torch.testing.assert_close(misleading_evidence(alpha.expand(2, 2, 2, 2), twice), torch.tensor((log(2) - 0.5) / 3))


def test_unsure_pixels_do_not_teach():
    logits, labels = answers(0), torch.zeros(3, 2, 2, dtype=torch.long)
    assert weighted_by_position(logits, labels, torch.zeros(3, 2, 2)) == 0
    torch.testing.assert_close(weighted_by_position(logits, labels, torch.ones(3, 2, 2)), F.cross_entropy(logits, labels))


def terms_of(first: torch.Tensor, other: torch.Tensor, **words: object) -> dict[str, torch.Tensor]:
    return train_DCNet.losses(Stub((first, other)), golden_batch(LABELS, 2), 0.5, 1.0, train_DCNet.Method(**words))


def test_where_there_is_no_evidence_the_plain_classifier_learns_from_labels_alone():
    plain, nothing = answers(0), NOTHING.expand(3, 2, 2, 2).clone().requires_grad_()
    terms = terms_of(plain, nothing)
    assert terms["pseudo_1"] == 0 and terms["pseudo_2"] > 0
    assert not gradient(terms["total"], plain)[0][1:].any()


def test_neither_pseudo_labels_nor_weights_take_a_gradient():
    plain, second = answers(0), answers(1)
    terms = terms_of(plain, second)
    to_plain, to_second = gradient(terms["pseudo_1"], plain, second)
    assert to_plain[1:].any() and not to_second.any()
    to_plain, to_second = gradient(terms["pseudo_2"], plain, second)
    assert to_second[1:].any() and not to_plain.any()


@pytest.mark.parametrize("pair", ["supervised", "pseudo"])
def test_two_plain_classifiers_are_cross_pseudo_supervision(pair: str):
    """Equal heads say and learn the same, and their pseudo-labels count everywhere."""
    terms = terms_of(answers(0), answers(0), second="plain")
    first = terms["supervised"] if pair == "supervised" else terms["pseudo_1"]
    assert first == terms[f"{pair}_2"] and terms["misleading"] == 0 and not terms["unsure"].any()
