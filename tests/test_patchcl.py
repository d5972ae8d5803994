"""PatchCL: what its page promises beside the golden file."""
from unittest import mock

import numpy as np
import pytest
import torch
import train_PatchCL
from parity_tools import golden_batch, gradient
from torch import nn

from dataloaders.augmentation.patches import class_patches, patch_draws, patch_sides
from losses.correlation import Queues, gaussian_contrast, nearest
from networks import build, deepest, deepest_width
from networks.passes import statistics_kept

CONSTANTS = dict(temperature=0.5, spread=1.0, keys=3)


def test_the_exponent_is_the_mean_over_a_normal_distribution():
    """With s = 1: E of one class alone beside none is ln of the mean of e^(v x / T), less the positive."""
    torch.manual_seed(0)
    keys, v = torch.randn(200_000, 2) * torch.tensor([0.3, 0.6]) + 0.2, torch.tensor([[0.6, 0.8]])
    far = torch.full((5, 2), -50.0)
    found = gaussian_contrast(v, torch.zeros(1), [keys, far], [0, 1], **CONSTANTS)
    drawn = (v @ keys.T / 0.5).exp().mean().log() - (v @ keys.T).mean() / 0.5
    assert found.item() == pytest.approx(drawn.item(), abs=0.02)


def test_two_points_by_hand():
    """Both queues are one point: no variance. ln(e^(1/T) + k/2 e^0) - 1/T."""
    one, other = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    found = gaussian_contrast(one, torch.tensor([0]), [one, other], [0, 1], **CONSTANTS)
    assert found.item() == pytest.approx(np.log(np.exp(2.0) + 1.5) - 2)


def test_one_class_alone_has_nothing_to_be_told_from():
    v = torch.randn(3, 2, requires_grad=True)
    found = gaussian_contrast(v, torch.zeros(3), [torch.randn(4, 2), torch.randn(4, 2)], [0], **CONSTANTS)
    assert found == 0 and not gradient(found, v)[0].any()


def test_patches_of_no_class_do_not_count():
    torch.manual_seed(0)
    v, queues = torch.randn(4, 2), [torch.randn(6, 2), torch.randn(6, 2)]
    some = gaussian_contrast(v[:3], torch.tensor([0, 1, 1]), queues, [0, 1], **CONSTANTS)
    more = gaussian_contrast(v, torch.tensor([0, 1, 1, 255]), queues, [0, 1], **CONSTANTS)
    torch.testing.assert_close(some, more)


def test_hard_negatives_are_those_most_like_the_class():
    """By its own spread: what is far along an axis in which the class is wide is near."""
    torch.manual_seed(0)
    towards = torch.randn(500, 2) * torch.tensor([10.0, 0.1])
    keys = torch.tensor([[0.0, 2.0], [8.0, 0.0], [0.0, -1.0], [-5.0, 0.0]])
    assert torch.equal(nearest(keys, towards, 0.5), keys[[1, 3]])
    assert nearest(keys, towards, 1.0) is keys and len(nearest(keys, towards, 0.0)) <= 1
    assert torch.equal(nearest(keys, towards[:1], 0.25), nearest(keys, towards[:1], 0.25))  # one key has no covariance
    queues = [0.1 * torch.randn(50, 2) + torch.tensor([1.0, 0.0]), torch.tensor([[0.8, 0.6], [-1.0, 0.0]])]
    constants = CONSTANTS | dict(spread=0.0)
    easy, hard = (gaussian_contrast(torch.tensor([[1.0, 0.0]]), torch.tensor([0]), queues, [0, 1], **constants, hard=share)
                  for share in (1.0, 0.5))
    assert hard > easy


@pytest.mark.parametrize("spread, ratio", [(8e-6, 7.0), (1.0, 1500.0)])
def test_a_covariance_is_inverted_with_a_share_of_the_mean_variance_and_a_floor(spread, ratio):
    """Variances (v, 0) become (v + r, r), r = v / 2000 + 1e-6: of squared offsets (7, 0) and (0, 1) the first is nearer up to
    (v + r) / r = 8.97, of v = 1 up to 1997."""
    mean = torch.tensor([10.0, -0.5], dtype=torch.float64)
    offsets = torch.tensor([[ratio**0.5, 0.0], [0.0, 1.0]], dtype=torch.float64)
    towards = mean + torch.tensor([[spread**0.5, 0.0], [-(spread**0.5), 0.0]], dtype=torch.float64)
    assert torch.equal(nearest(mean + offsets, towards, 0.5), mean + offsets[:1])
    assert torch.equal(nearest(mean + offsets * torch.tensor([1.2, 1.0]), towards, 0.5), mean + offsets[1:])


def test_queues_keep_the_newest_of_each_class():
    with mock.patch("losses.correlation.gathered", lambda rows: torch.cat([rows, rows])):  # as of two processes
        shared = Queues(2, 3)
        assert shared.take(torch.tensor([[1.0], [2.0]]), torch.tensor([1, 0])) == [0, 1]
        assert [keys.flatten().tolist() for keys in shared.keys] == [[2, 2], [1, 1]]
    queues = Queues(3, 2)
    assert queues.take(torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([0, 2, 255])) == [0, 2]
    assert queues.take(torch.tensor([[4.0], [5.0]]), torch.tensor([0, 0])) == [0]
    assert [keys.flatten().tolist() for keys in queues.keys] == [[4, 5], [], [2]]
    again = Queues(3, 2)
    again.load_state_dict(queues.state_dict())
    assert [keys.flatten().tolist() for keys in again.keys] == [[4, 5], [], [2]]


@pytest.mark.parametrize("sides", [(24, 20), (12, 16, 8)])
def test_a_patch_shows_its_class_alone(sides):
    labels = torch.zeros(3, *sides, dtype=torch.int64)
    labels[0, 4:9, 3:7], labels[1, 2, 2] = 1, 2
    labels[2] = 255
    images = (labels + 1.0).unsqueeze(1).repeat(1, 2, *[1] * len(sides))
    draws = patch_draws(np.random.default_rng(0), 3, 40, len(sides))
    patches, classes = class_patches(images, labels, 3, draws, (8,) * len(sides), 0.25)
    assert patches.shape == (120, 2, *(8,) * len(sides))
    assert set(classes[:40].tolist()) == {0, 1} and set(classes[40:80].tolist()) <= {0, 2, 255} and set(classes[80:].tolist()) == {255}
    for patch, c in zip(patches, classes.tolist()):
        assert set(patch.unique().tolist()) <= ({0.0, c + 1.0} if c < 255 else {0.0}) and (c == 255 or patch.any())


def test_the_largest_patch_is_the_image_and_the_smallest_is_as_small_as_said():
    image = torch.arange(64.0).view(1, 1, 8, 8)
    draws = patch_draws(np.random.default_rng(0), 1, 1, 2)
    whole, _ = class_patches(image, torch.zeros(1, 8, 8, dtype=torch.int64), 2, draws, (8, 8), 1.0)
    assert torch.equal(whole, image)
    draws[..., 2] = 0
    part, _ = class_patches(image, torch.zeros(1, 8, 8, dtype=torch.int64), 2, draws, (4, 4), 0.5)
    assert (part[0, 0, 0, 1:] - part[0, 0, 0, :-1] == 1).all() and (part[0, 0, 1:] - part[0, 0, :-1] == 8).all()


def test_sides_that_a_network_takes():
    assert patch_sides((256, 256), 16, 0.25) == (64, 64) and patch_sides((64, 40), 16, 0.25) == (32, 32)
    assert patch_sides((96, 112, 80), (16, 16, 8), 0.25) == (32, 32, 24)


@pytest.mark.parametrize("name, sides, width", [("unet", (32, 32), 256), ("enet", (16, 24), 128)])
def test_vectors_of_patches_leave_the_statistics(name, sides, width):
    network = build(name, in_channels=1, num_classes=2).train()
    assert deepest_width(network, 1, sides) == width and network.training
    head, images = build("patch_projection", features=width), torch.randn(3, 1, *sides)
    before = {key: value.clone() for key, value in network.state_dict().items() if "running" in key}
    with statistics_kept(network):
        vectors = head(deepest(network, images))
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
    assert all(torch.equal(network.state_dict()[key], value) for key, value in before.items())
    network(images)
    assert not any(torch.equal(network.state_dict()[key], value) for key, value in before.items())


class Tiny(nn.Module):
    """Encoder, decoder and head in one convolution."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1)

    def encode(self, images):
        return [self.conv(images)]

    def forward(self, images):
        return self.conv(images)


def test_teachers_take_no_gradient_and_contrast_reaches_the_encoder():
    torch.manual_seed(0)
    students, teachers = ((Tiny(), build("patch_projection", features=2, width=3)) for _ in range(2))
    labels = torch.zeros(1, 16, 16, dtype=torch.int64)
    labels[0, :8] = 1
    batch = golden_batch(labels, 1)
    batch.images = torch.randn(2, 1, 16, 16)
    options = train_PatchCL.Method(confidence=0.0, patches=3)
    draws = patch_draws(batch.rng, 2, 3, 2)
    terms = train_PatchCL.losses(students, teachers, Queues(2, 50), batch, draws, (8, 8), options)
    assert terms["contrast"] > 0 and terms["cut"].shape == (6, 1, 8, 8)
    reached = [gradient(terms["contrast"], *network.parameters()) for network in (*students, *teachers)]
    assert [any(bool(slope.any()) for slope in slopes) for slopes in reached] == [True, True, False, False]
    torch.testing.assert_close(terms["total"], terms["supervised"] + 4 * terms["consistency"] + terms["contrast"] / 2)
