"""CRII-Net's ranked features, by hand; and what its page promises."""
from __future__ import annotations

import pytest
import torch
import train_CRIINet
from parity_tools import golden_batch, gradient

from dataloaders.augmentation.displacement import cut
from losses.contrast import centres, of_other_patches, rank_loss
from losses.overlap import one_hot

ALONG_X, ALONG_Y = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])


def pieces_of(features: list[torch.Tensor], labels: list[int], patches: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """One image of features a position, cut into so many patches of equal length; classes 0 and 1, 255 counts nowhere."""
    x, y = torch.stack(features, 1)[None, :, None], torch.tensor(labels)[None, None]
    return cut(x, (1, patches)), cut(one_hot(y, 2)[0], (1, patches))


def test_classes_at_right_angles_are_ranked_where_the_margin_is_one():
    pieces, classes = pieces_of([ALONG_X, 3 * ALONG_X, ALONG_Y], [0, 0, 1])
    own = centres(pieces, classes)
    torch.testing.assert_close(own[0][0, 0], torch.stack([ALONG_X, ALONG_Y]), atol=1e-5, rtol=0)
    torch.testing.assert_close(rank_loss(pieces, classes, *own, 1.0), torch.tensor(0.0), atol=1e-5, rtol=0)
    torch.testing.assert_close(rank_loss(pieces, classes, *own, 1.5), torch.tensor(0.5), atol=1e-5, rtol=0)


def test_equal_features_cost_the_margin():
    pieces, classes = pieces_of([ALONG_X] * 4, [0, 1, 0, 1])
    torch.testing.assert_close(rank_loss(pieces, classes, *centres(pieces, classes), 0.3), torch.tensor(0.3))


def test_a_patch_of_one_class_ranks_nothing_by_itself():
    """The second patch has pixels of one class, and one that does not count: no term within it, a term between patches."""
    features = [ALONG_X, ALONG_Y, ALONG_Y, ALONG_X]
    pieces, classes = pieces_of(features, [0, 1, 0, 255], patches=2)
    own = centres(pieces, classes)
    assert rank_loss(pieces[:, 1:], classes[:, 1:], own[0][:, 1:], own[1][:, 1:], 0.5) == 0
    others = of_other_patches(*own)
    assert others[1].tolist() == [[[True, False], [True, True]]]
    # Of the first patch the pixel of class 1 has no centre elsewhere; that of class 0 has no other class to be ranked against.
    assert rank_loss(pieces[:, :1], classes[:, :1], others[0][:, :1], others[1][:, :1], 0.5) == 0
    # In the second one the pixel along y is of the class that lies along x elsewhere: 0.5 - 0 + 1.
    torch.testing.assert_close(rank_loss(pieces, classes, *others, 0.5), torch.tensor(1.5), atol=1e-5, rtol=0)


def test_nothing_known_costs_nothing_and_dead_features_have_a_finite_gradient():
    features = torch.zeros(1, 2, 1, 4, requires_grad=True)
    classes = cut(one_hot(torch.tensor([[[0, 1, 0, 1]]]), 2)[0], (1, 1))
    pieces = cut(features, (1, 1))
    loss = rank_loss(pieces, classes, *centres(pieces, classes), 0.5)
    assert gradient(loss, features)[0].isfinite().all()
    assert rank_loss(pieces, 0 * classes, *centres(pieces, 0 * classes), 0.5) == 0


class Student:
    """Says what it was given, and has these features."""

    def __init__(self, logits: torch.Tensor, features: torch.Tensor):
        self.logits, self.features = logits, features

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        return images

    def decode(self, maps: torch.Tensor) -> torch.Tensor:
        return self.features

    def head(self, features: torch.Tensor) -> torch.Tensor:
        return self.logits


@pytest.mark.parametrize("refined", [0.0, 1.0])
def test_without_ranked_features_it_is_mean_teacher(refined: float):
    torch.manual_seed(0)
    logits, features, said = (torch.randn(3, 2, 4, 4, requires_grad=True) for _ in range(3))
    labels = torch.randint(0, 2, (1, 4, 4))
    options = train_CRIINet.Method(refined=refined, grid=(2, 2), threshold=0.0)
    terms = train_CRIINet.losses(Student(logits, features), lambda images: said[1:], golden_batch(labels, 2), 0.5, options)
    expected = terms["supervised"] + 0.5 * ((logits[1:].softmax(1) - said[1:].softmax(1)) ** 2).mean()
    assert (terms["total"] == expected) == (refined == 0)
    to_features, to_teacher = gradient(terms["total"], features, said)
    assert to_features.any() == (refined > 0) and not gradient(terms["intra"], said)[0].any()
    assert terms["intra"] > 0 and terms["inter"] > 0
