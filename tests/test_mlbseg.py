"""MLB-Seg: what its page promises beside the golden files."""
import numpy as np
import pytest
import torch
import train_MLBSeg
from parity_tools import drive, golden_batch, gradient
from torch import nn

from dataloaders.augmentation.reversible import five_views, said_together, viewed, viewed_labels
from dataloaders.errors import UserError
from engine.schedules import Form, ScheduledOptimizer
from losses import cross_entropy
from losses.supervised import helpful, label_costs, meta_gradient
from networks import build, with_parameters


def sgd(network, rate=0.1, kind="sgd", **form):
    made = Form(kind, **form).build([{"params": list(network.parameters())}], rate, torch.device("cpu"))
    return ScheduledOptimizer(made, rate, "constant", [1.0])



class Slope(nn.Module):
    """Class 1 where a number times the pixel is above 0."""

    def __init__(self, slope=0.1):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope))

    def forward(self, images):
        return torch.cat([torch.zeros_like(images), self.slope * images], 1)


def test_a_pixel_with_a_wrong_label_weighs_nothing():
    """Bright is class 1 in the clean image; of two bright and two dark pixels one each has a wrong noisy label."""
    student, clean, labels = Slope(), torch.tensor([[[[1.0, -1.0]]]]), torch.tensor([[[1, 0]]])
    logits = student(torch.tensor([[[[1.0, 2.0, -1.0, -2.0]]]]))
    cost = label_costs(logits, torch.tensor([[[1, 0, 0, 1]]]), torch.full((1, 1, 4), 255))
    found, meta = meta_gradient(cost, logits.sum() * 0, list(student.parameters()), sgd(student).ahead, 0.1,
                                lambda ahead: cross_entropy(with_parameters(student, ahead, clean), labels))
    weights = helpful(found)
    assert (weights[0, 0, 0] > 0).tolist() == [True, False, True, False] and not weights[0, 1].any()
    assert weights.sum().item() == pytest.approx(1) and meta.item() == pytest.approx(cross_entropy(student(clean), labels).item(), rel=1e-4)
    assert not helpful(found.abs()).any(), "where no pixel helps, none counts"


def test_costs_that_help_share_one():
    """The constant of 1e-10 shows beside gradients as small: 2 / (2 + 3 + 1)."""
    found = helpful(torch.tensor([-2e-10, 5.0, -3e-10, 0.0], dtype=torch.float64))
    assert found.tolist() == pytest.approx([2 / 6, 0, 3 / 6, 0], rel=1e-9) and not helpful(torch.ones(3)).any()


def test_the_gradient_is_that_through_the_step():
    """The same by differentiating the step itself, in a network with batch norm, dropout off, momentum and weight decay."""
    torch.manual_seed(0)
    student = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.LeakyReLU(0.1, inplace=True), nn.Conv2d(4, 2, 1))
    optimizer = sgd(student, 0.3, weight_decay=0.01)
    for p in student.parameters():
        optimizer.optimizer.state[p]["momentum_buffer"] = torch.randn_like(p)
    images, clean, labels = torch.randn(2, 1, 6, 5), torch.randn(3, 1, 6, 5), torch.randint(0, 2, (3, 6, 5))
    own, noisy = list(student.parameters()), torch.randint(0, 2, (2, 6, 5))

    def parts():
        logits = student(images)
        return label_costs(logits, noisy, 1 - noisy), logits.square().mean()

    def clean_loss(ahead):
        return cross_entropy(with_parameters(student, ahead, clean), labels)

    found, _ = meta_gradient(*parts(), own, optimizer.ahead, optimizer.rate, clean_loss)
    cost, others = parts()
    e = torch.zeros_like(cost, requires_grad=True)
    slopes = torch.autograd.grad((e * cost).sum() + others, own, create_graph=True)
    moved = [p - 0.3 * (slope + 0.01 * p + 0.9 * optimizer.optimizer.state[p]["momentum_buffer"]) for p, slope in zip(own, slopes)]
    (expected,) = torch.autograd.grad(clean_loss(moved), e)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)


def test_a_step_ahead_is_the_step_that_follows():
    torch.manual_seed(0)
    network = nn.Linear(3, 2)
    optimizer = sgd(network, weight_decay=0.1)
    for _ in range(2):  # without momentum, then with
        slopes = [torch.randn_like(p) for p in network.parameters()]
        for p, slope in zip(network.parameters(), slopes):
            p.grad = slope.clone()
        expected, before = optimizer.ahead(slopes), [p.detach().clone() for p in network.parameters()]
        assert all(torch.equal(p, old) for p, old in zip(network.parameters(), before))
        optimizer.step()
        torch.testing.assert_close(list(network.parameters()), expected)
    with pytest.raises(TypeError, match="SGD alone"):
        sgd(network, kind="adam").ahead([])


@pytest.mark.parametrize("sides", [(24, 20), (12, 16, 20)])
def test_a_view_is_taken_back(sides):
    """Of a smooth image all views say the same of each position, and a prediction that moves with its view agrees with itself."""
    axes = torch.meshgrid(*[torch.linspace(-1, 1, side) for side in sides], indexing="ij")
    image = torch.stack(axes).unsqueeze(0)
    scales = five_views(np.random.default_rng(0), 1, len(sides), amounts=(0.15, 0.2))
    views = viewed(image, scales)
    assert torch.allclose(views[0], image[0], atol=1e-5) and torch.allclose(views[4], image[0].flip(-1), atol=1e-5)
    together, inside = said_together(views, scales)
    assert inside[[0, 1, 4]].all() and not inside[2].all() and not inside[3].all()
    middle = (..., *[slice(3, side - 3) for side in sides])  # interpolation knows no value beyond the border
    assert ((together - views) * inside)[middle].abs().max() < 0.05
    assert views[1][middle].abs().max() < views[0].abs().max() < 1.01


def test_labels_of_views_are_classes_and_nothing_is_known_beyond():
    labels = torch.full((1, 20, 20), 3)
    views = viewed_labels(labels, five_views(np.random.default_rng(0), 1, 2))
    assert (views[[0, 1, 4]] == 3).all() and set(views[2:4].unique().tolist()) == {3, 255}
    assert (views[2] == 255).any() and (views[2, 5:15, 5:15] == 3).all()


def test_images_have_views_of_their_own():
    scales = five_views(np.random.default_rng(0), 3, 2)
    assert scales.shape == (5, 3, 2) and (scales[1] < 1).all() and (scales[2:4] > 1).all()
    assert (1 - scales[1].max() >= 4 / 144) and len(set(scales[1:4].round(9).flatten().tolist())) == 9


def test_one_step_of_the_script():
    """Networks that say the same of all views: the agreement is 0; the terms add up; the teacher takes no gradient."""
    student, teacher = Slope(0.0), Slope(0.0)
    batch = golden_batch(torch.tensor([[[0, 1], [1, 0]]]).repeat_interleave(4, 1).repeat_interleave(4, 2), 1)
    batch.images = torch.randn(2, 1, 8, 8)
    batch.maps = {"noisy": torch.ones(2, 8, 8)}
    scales = {kind: five_views(batch.rng, 1, 2) for kind in "lu"}
    options = train_MLBSeg.Method(noise=0.0)
    terms = train_MLBSeg.losses(student, teacher, sgd(student), batch, scales, options)
    assert terms["agreement"].abs() < 1e-8 and terms["pseudo_labels"].shape == terms["mask"].shape == (5, 8, 8)
    torch.testing.assert_close(terms["total"], terms["bootstrapped"] + terms["agreement"])
    assert terms["bootstrapped"].item() == pytest.approx(np.log(2), rel=1e-4), "weights are together 1"
    clean = train_MLBSeg.clean_losses(student, teacher, batch, scales, options)
    assert clean["supervised"].item() == pytest.approx(np.log(2), rel=1e-4)
    for total in (terms["total"], clean["clean_total"]):
        assert gradient(total, student.slope)[0] != 0 and gradient(total, teacher.slope)[0] == 0


@pytest.mark.parametrize("name, sides", [("unet", (16, 32)), ("vnet", (16, 16, 32))])
def test_networks_have_second_derivatives_and_keep_their_statistics(name, sides, narrow):
    torch.manual_seed(0)
    student = build(name, in_channels=1, num_classes=2).train()
    images, labels = torch.randn(2, 1, *sides), torch.randint(0, 2, (2, *sides))
    logits = student(images)
    before = {key: value.clone() for key, value in student.named_buffers()}
    found, _ = meta_gradient(label_costs(logits, labels, 1 - labels), logits.mean(), list(student.parameters()), sgd(student).ahead, 0.1,
                             lambda ahead: cross_entropy(with_parameters(student, ahead, images), labels))
    assert found.isfinite().all() and (found < 0).any() and (found > 0).any()
    assert all(torch.equal(value, before[key]) for key, value in student.named_buffers())


@pytest.mark.parametrize("options", [{"compile": True}, {"precision": "bf16-mixed"}, {"sync_bn": True}, {"optimizer": "adam"}],
                         ids=lambda options: next(iter(options)))
def test_what_breaks_the_second_derivative_is_refused(options):
    with pytest.raises(UserError, match="second derivatives"):
        drive(train_MLBSeg, train_MLBSeg.Method(**options), {}, [])
