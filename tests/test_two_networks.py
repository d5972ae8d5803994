"""Entropy minimisation, CPS and R-Drop: what their pages promise."""
from math import log, prod, sqrt

import pytest
import torch
import train_CPS
import train_EntMin
import train_RDrop
from harness import Bench, metrics
from parity_tools import Stub, drive, golden_batch, gradient
from test_methods import batch_of, discs, hard_dice
from torch import nn

from dataloaders.errors import UserError
from engine import parse
from losses import entropy_map, supervised_loss, symmetric_kl
from networks import build
from networks.initial import start_apart

LABELS = torch.tensor([[[0, 1], [1, 1]]])
FOREGROUND = torch.tensor([[0.1, 0.8], [0.4, 0.9]])


def two_class(foreground):
    """Logits (1, 2, H, W) of these probabilities of the foreground."""
    return torch.stack([1 - foreground, foreground])[None].log()


def logits_of_pixel(*values):
    """One pixel with these logits, (1, C, 1, 1)."""
    return torch.tensor(values).view(1, -1, 1, 1)


def small_network():
    """Two convolutions with dropout between them."""
    return nn.Sequential(nn.Conv2d(1, 16, 5, padding=2), nn.BatchNorm2d(16), nn.ReLU(), nn.Dropout(0.1), nn.Conv2d(16, 2, 5, padding=2))


@pytest.mark.parametrize("script, options", [
    (train_EntMin, train_EntMin.Method(consistency_rampup=0.0)),
    (train_CPS, train_CPS.Method(consistency_rampup=0.0, init="kaiming_xavier")),
    (train_RDrop, train_RDrop.Method(consistency_rampup=0.0, patch_size=(32, 32))),
    (train_RDrop, train_RDrop.Method(consistency_rampup=0.0, rdrop_models=2)),
], ids=["EntMin", "CPS", "RDrop", "RDrop of two"])
def test_two_discs_are_learnt_in_fifty_steps(script, options):
    images, labels = discs()
    torch.manual_seed(0)
    networks = {role: small_network() for role in ("network", "model1", "model2")}
    both = torch.cat([images, images.flip(-1)])
    run = drive(script, options, networks, [batch_of(both, labels, step) for step in range(50)], rate=0.1)
    totals = [step.terms["total"].item() for step in run.steps]
    assert totals[-1] < totals[0] / 4
    for role, network in run.evaluated.items():
        if isinstance(network, nn.Module):
            network.train()
            for _ in range(20):  # settle the running statistics of batch norm on these images
                with torch.no_grad():
                    network(images)
            assert hard_dice(network, images, labels) > 0.95, role


# Entropy minimisation


def entropy_of(logits, n_labeled=1, **values):
    """The term of the script for a network that answers so."""
    labels = torch.zeros(n_labeled, *logits.shape[2:], dtype=torch.long)
    batch = golden_batch(labels, len(logits) - n_labeled)
    return train_EntMin.losses(Stub(logits), batch, 0.1, train_EntMin.Method(**values))["entropy"]


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_entropy_is_1_where_nothing_is_known_and_0_where_all_is(classes):
    torch.testing.assert_close(entropy_of(torch.zeros(2, classes, 3, 3)), torch.tensor(1.0), atol=1e-5, rtol=0)
    sure = 50.0 * nn.functional.one_hot(torch.arange(18).view(2, 3, 3) % classes, classes).movedim(-1, 1).float()
    assert abs(entropy_of(sure).item()) < 1e-5
    assert entropy_map(torch.full((1, classes, 2, 2), 1 / classes)).mean().item() == pytest.approx(log(classes), abs=1e-5)


def test_golden_entropy():
    assert entropy_of(two_class(FOREGROUND)).item() == pytest.approx(0.657715, abs=1e-6)


def test_descent_makes_the_likelier_class_likelier():
    for probability, wanted in ((0.9, -1), (0.1, 1), (0.5, 0), (1 - 1e-7, 0)):
        logits = two_class(torch.full((1, 1), probability)).requires_grad_()
        (found,) = gradient(entropy_of(logits), logits)
        assert torch.sign(found[0, 1]).item() == wanted if wanted else found.abs().max() < 1e-4, probability
    assert gradient(entropy_of(logits := two_class(torch.full((1, 1), 0.9)).requires_grad_()), logits)[0].abs().max() > 0.05


def test_rows_of_the_entropy():
    torch.manual_seed(0)
    logits = torch.randn(3, 3, 4, 4)
    changed = torch.cat([10 * logits[:1], logits[1:]])
    assert entropy_of(logits) != entropy_of(changed)
    assert entropy_of(logits, entropy_rows="unlabeled") == entropy_of(changed, entropy_rows="unlabeled") == entropy_of(logits[1:])


# CPS


def cps_terms(first, second, labels, weight=0.1, **values):
    batch = golden_batch(labels, len(first) - len(labels))
    return train_CPS.losses(Stub(first), Stub(second), batch, torch.tensor(weight), train_CPS.Method(**values))


def random_pair(rows=3, classes=3, side=4):
    torch.manual_seed(0)
    return [torch.randn(rows, classes, side, side, requires_grad=True) for _ in range(2)], torch.randint(0, classes, (1, side, side))


def test_golden_pseudo_losses():
    first, second = logits_of_pixel(2.0, 0.0), logits_of_pixel(0.0, 1.0)
    terms = cps_terms(torch.cat([first, first]), torch.cat([second, second]), torch.zeros(1, 1, 1, dtype=torch.long))
    assert terms["pseudo_labels"].flatten().tolist() == [0, 1] and terms["agreement"] == 0
    assert terms["pseudo_1"].item() == pytest.approx(2.126928, abs=1e-6) and terms["pseudo_2"].item() == pytest.approx(1.313262, abs=1e-6)


def test_networks_exchanged_have_the_same_loss():
    (first, second), labels = random_pair()
    for values in ({}, dict(cps_on_labelled=True, pseudo_loss="hybrid", dice="linear", passes="apart")):
        stubs = ([Stub(z[:1], z[1:]) for z in (first, second)] if values else [Stub(first), Stub(second)])
        batch, options = golden_batch(labels, 2), train_CPS.Method(**values)
        one, other = (train_CPS.losses(*pair, batch, torch.tensor(0.1), options) for pair in (stubs, stubs[::-1]))
        torch.testing.assert_close(one["total"], other["total"])
        assert torch.equal(one["pseudo_labels"], other["pseudo_labels"].flip(0)) and 0 < one["agreement"] < 1


def test_equal_networks_learn_the_same():
    images, labels = discs(16)
    torch.manual_seed(0)
    first, second = build("unet", num_classes=2, dropout=0.0), build("unet", num_classes=2, dropout=0.0)
    batch = batch_of(torch.cat([images, images.flip(-1)]), labels)
    apart = train_CPS.losses(first, second, batch, 0.1, train_CPS.Method())
    assert apart["agreement"] < 1, "networks of other weights must differ"
    second.load_state_dict(first.state_dict())
    terms = train_CPS.losses(first, second, batch, 0.1, train_CPS.Method())
    assert terms["agreement"] == 1 and torch.equal(*terms["pseudo_labels"])
    found = gradient(terms["total"], *first.parameters(), *second.parameters())
    assert all(torch.equal(a, b) for a, b in zip(found[: len(found) // 2], found[len(found) // 2 :]))
    assert any(g.any() for g in found)


def test_a_pseudo_label_teaches_the_other_network_alone():
    (first, second), labels = random_pair()
    terms = cps_terms(first, second, labels, cps_on_labelled=True)
    for name, mine in (("pseudo_1", 0), ("pseudo_2", 1), ("pseudo_labeled_1", 0), ("pseudo_labeled_2", 1)):
        found = gradient(terms[name], first, second)
        assert found[mine].any() and not found[1 - mine].any(), name
        rows = found[mine].flatten(1).any(1).tolist()
        assert rows == ([True, False, False] if "labeled" in name else [False, True, True]), name


def test_labelled_images_have_pseudo_labels_only_when_asked():
    (first, second), labels = random_pair()
    plain, asked = cps_terms(first, second, labels), cps_terms(first, second, labels, cps_on_labelled=True)
    assert set(asked) - set(plain) == {"pseudo_labeled_1", "pseudo_labeled_2"}
    more = 0.1 * (asked["pseudo_labeled_1"] + asked["pseudo_labeled_2"])
    assert more > 0
    torch.testing.assert_close(asked["total"], plain["total"] + more)


def test_hybrid_adds_the_dice_of_the_data_set():
    (first, second), labels = random_pair()
    for dice in ("squared", "linear"):
        terms = cps_terms(first, second, labels, pseudo_loss="hybrid", dice=dice)
        torch.testing.assert_close(terms["pseudo_1"], supervised_loss(first[1:], second[1:].argmax(1), dice))


def test_without_weight_each_network_learns_from_labels_alone():
    images, labels = discs(16)
    torch.manual_seed(0)
    networks = [build("unet", num_classes=2, dropout=0.0) for _ in range(2)]
    both = torch.cat([images, images.flip(-1)])
    total = train_CPS.losses(*networks, batch_of(both, labels), 0.0, train_CPS.Method())["total"]
    for network in networks:
        parameters = list(network.parameters())
        for found, wanted in zip(gradient(total, *parameters), gradient(supervised_loss(network(both)[:2], labels), *parameters)):
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", ["unet_3D", "unet"])
def test_initial_weights_of_kaiming_and_xavier(name):
    first, second = build(name, num_classes=2), build(name, num_classes=2)
    biases = [value.clone() for key, value in second.named_parameters() if key.endswith("bias")]
    pairs = [(one, two) for one, two in zip(first.modules(), second.modules()) if isinstance(one, nn.Conv2d | nn.Conv3d)]
    drawn = []
    for _ in range(2):
        torch.manual_seed(7)
        start_apart(first, second)
        drawn.append([two.weight.detach().clone() for _, two in pairs])
    assert len(pairs) > 10 and all(torch.equal(a, b) for a, b in zip(*drawn)), "the seed decides"
    assert all(torch.equal(a, b) for a, b in zip(biases, (value for key, value in second.named_parameters() if key.endswith("bias"))))
    for one, two in pairs:
        outside, inside, *window = one.weight.shape
        if one.weight.numel() > 5000:
            assert one.weight.std().item() == pytest.approx(sqrt(2 / (inside * prod(window))), rel=0.05)
            assert two.weight.std().item() == pytest.approx(sqrt(2 / ((inside + outside) * prod(window))), rel=0.05)
            together = torch.stack([one.weight.flatten(), two.weight.flatten()])
            assert torch.corrcoef(together)[0, 1].abs() < 0.1, "drawn apart, not one a multiple of the other"


# R-Drop


def rdrop_terms(first, second, labels, weight=0.1, **values):
    """The script's losses for two networks (or two passes) that answer so."""
    batch = golden_batch(labels, len(first) - len(labels))
    return train_RDrop.losses(Stub(first), Stub(second), batch, torch.tensor(weight), train_RDrop.Method(**values))


def test_golden_divergence():
    first, second = logits_of_pixel(2.0, 0.0), logits_of_pixel(0.0, 0.0)
    assert symmetric_kl(first, second).sum(1).item() == pytest.approx(0.380797, abs=1e-6)
    terms = rdrop_terms(torch.cat([first, first]), torch.cat([second, second]), torch.zeros(1, 1, 1, dtype=torch.long), weight=4.0)
    assert terms["divergence"].item() == pytest.approx(0.380797 / 2, abs=1e-6), "4/C times the divergence a pixel"
    p, q = first.softmax(1), second.softmax(1)
    assert (q * (q / p).log()).sum().item() == pytest.approx(0.433781, abs=1e-6)
    assert (p * (p / q).log()).sum().item() == pytest.approx(0.327813, abs=1e-6)


@pytest.mark.parametrize("axis", [1, -1])
def test_divergence_is_symmetric_and_0_for_equals_alone(axis):
    torch.manual_seed(0)
    first, second = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 5, 4)
    assert not symmetric_kl(first, first, axis).any() and (symmetric_kl(first, second, axis) >= 0).all()
    torch.testing.assert_close(symmetric_kl(first, second, axis), symmetric_kl(second, first, axis))
    torch.testing.assert_close(symmetric_kl(first + torch.randn(2, 1, 5, 4), second, 1).sum(1), symmetric_kl(first, second, 1).sum(1))


def test_the_last_axis_says_nothing_about_classes():
    """The published form: 0 for maps of width 1, and blind to a class that is likelier all over."""
    torch.manual_seed(0)
    first, second = torch.randn(2, 3, 4, 1), torch.randn(2, 3, 4, 1)
    labels = torch.zeros(1, 4, 1, dtype=torch.long)
    assert rdrop_terms(first, second, labels, rdrop_axis="last")["divergence"] == 0
    assert rdrop_terms(first, second, labels)["divergence"] > 0.01
    wide = torch.randn(2, 3, 4, 6)
    other = wide + torch.tensor([5.0, 0.0, -5.0]).view(1, 3, 1, 1)
    labels = torch.zeros(1, 4, 6, dtype=torch.long)
    assert rdrop_terms(wide, other, labels, rdrop_axis="last")["divergence"] < 1e-6 < rdrop_terms(wide, other, labels)["divergence"]


def test_rows_of_the_divergence():
    torch.manual_seed(0)
    first, second = (torch.randn(3, 3, 4, 4, requires_grad=True) for _ in range(2))
    labels = torch.zeros(1, 4, 4, dtype=torch.long)
    for rows, wanted in (("unlabeled", [False, True, True]), ("all", [True, True, True])):
        found = gradient(rdrop_terms(first, second, labels, rdrop_rows=rows)["divergence"], first, second)
        assert [g.flatten(1).any(1).tolist() for g in found] == [wanted] * 2


def test_one_network_counts_its_labels_once():
    torch.manual_seed(0)
    first, second = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    labels = torch.zeros(1, 4, 4, dtype=torch.long)
    one, two = (rdrop_terms(first, second, labels, weight=0.0, rdrop_models=count) for count in (1, 2))
    torch.testing.assert_close(one["total"], (one["supervised_1"] + one["supervised_2"]) / 2)
    torch.testing.assert_close(two["total"], 2 * one["total"])


def test_dropout_is_all_that_differs():
    images, labels = discs(16)
    batch = batch_of(torch.cat([images, images.flip(-1)]), labels)
    found = {}
    for dropout in (0.0, 1.0):
        torch.manual_seed(0)
        network = build("unet", num_classes=2, dropout=dropout)
        found[dropout] = train_RDrop.losses(network, network, batch, 0.1, train_RDrop.Method())
        assert train_RDrop.is_random(network, 1, (16, 32)) == bool(dropout)
    assert found[0.0]["divergence"] == 0 < found[1.0]["divergence"]
    assert found[0.0]["supervised_1"] == found[0.0]["supervised_2"] and found[1.0]["supervised_1"] != found[1.0]["supervised_2"]


def test_one_network_without_dropout_is_refused():
    networks = {role: build("unet", dropout=0.0) for role in ("network", "model1", "model2")}
    before = {key: value.clone() for key, value in networks["network"].state_dict().items()}
    with pytest.raises(UserError, match="--rdrop_models 2"):
        drive(train_RDrop, train_RDrop.Method(dropout=0.0, patch_size=(16, 32)), networks, [])
    assert all(torch.equal(value, before[key]) for key, value in networks["network"].state_dict().items())
    run = drive(train_RDrop, train_RDrop.Method(dropout=0.0, rdrop_models=2), networks, [])
    assert list(run.evaluated)[-3:] == ["model1", "model2", "ensemble"]


def test_published_code_is_a_set_of_options(tmp_path):
    words = ["--dataset", "BraTS2019", "--root_path", str(tmp_path)]
    published, default = (parse(train_RDrop.Method, train_RDrop.PRESETS, [*words, *more]) for more in (["--variant", "published_code"], []))
    assert (published.rdrop_models, published.rdrop_axis, published.init) == (2, "last", "kaiming_xavier")
    assert (default.rdrop_models, default.rdrop_axis, default.consistency, default.schedule) == (1, "class", 4.0, "poly_next")


def test_two_networks_quote_the_best_by_validation(bench: Bench) -> None:
    quoted = set()
    for seed in ("1", "2", "3"):
        end = bench.train("CPS", "--seed", seed, "--exp", seed, model=seed)
        assert end.code == 0, end.out + end.err
        folder = bench.run_folder(seed)
        best: dict[str, float] = {}
        for line in metrics(folder):
            if line["kind"].startswith("validation/"):
                name = line["kind"].removeprefix("validation/")
                best[name] = max(best.get(name, 0.0), line["dice/mean"])
        order = torch.load(folder / "best.pt", weights_only=True)["order"]
        assert sorted(order) == sorted(best) == ["ensemble", "model1", "model2"]
        assert best[order[0]] == max(best.values()) > min(best.values()), (order, best)
        quoted.add(order[0])
    assert quoted != {"model1"}, "a seed is needed at which the first named is not the best"
