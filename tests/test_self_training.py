"""ST++, CISC-R and STI: what is learned from when, who labels it, and that a kill anywhere changes no bit."""
from __future__ import annotations

import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from harness import Bench, metrics, outcome, together
from torch import nn

from dataloaders.augmentation.copy_paste import cut_in, salience
from dataloaders.augmentation.pairs import Search, better_half, without
from dataloaders.augmentation.strong_views import with_strong_rows
from dataloaders.batches.loader import Batch
from dataloaders.batches.sampling import LabeledOnly
from dataloaders.catalog import DATA_SETS
from dataloaders.splits.self_training import by_score, first_steps, retraining_list, supervised_list, thirds
from inference import inference_of
from losses import cross_entropy, supervised_loss
from losses.class_similarity import pairs_loss, present, prototype, similarity, similarity_errors, weighted_loss
from losses.pseudo_labels import stability
from networks.scales import AtScales

SMALL = ("--dataset", "ACDC", "--pre_iterations", "4", "--max_iterations", "4", "--val_every", "4", "--save_every", "2", "--log_every", "1",
         "--scales", "1")


@pytest.mark.parametrize("method, faults", [
    ("STPlusPlus", ("kill@step-supervised:4", "kill@pseudo_mask:2", "kill@step-stable:2")),
    ("STI", ("kill@rename-agreement.json:1", "kill@step-agreeing:2")),
])
def test_a_kill_in_any_stage_and_between_them_changes_no_bit(method: str, faults: tuple[str, ...], bench: Bench) -> None:
    def whole():
        return bench.train(method, *SMALL)

    def killed():
        ends = [bench.train(method, *SMALL, model="killed", fault=fault).code for fault in faults]
        return ends, bench.train(method, *SMALL, model="killed")

    end, (codes, last) = together([whole, killed])
    assert codes == [-signal.SIGKILL] * len(faults), dict(zip(faults, codes))
    assert end.code == last.code == 0, end.out + end.err + last.out + last.err
    folders = [bench.run_folder(), bench.run_folder("killed")]
    assert outcome(folders[0]) == outcome(folders[1])
    masks = [{file.relative_to(folder): file.read_bytes() for file in sorted(folder.glob("pseudo_masks/*/*"))} for folder in folders]
    assert masks[0] == masks[1]
    stages = dict.fromkeys(line.get("stage", "") for line in metrics(folders[0]) if line["kind"] == "train")
    assert [*stages] == ["supervised", "stable" if method == "STPlusPlus" else "agreeing", ""]


@pytest.mark.parametrize("method, sentence", [("STPlusPlus", "there are none: choose a smaller --labeled_num"), ("STI", "two unlabelled")])
def test_without_unlabelled_images_there_is_nothing_to_label(method: str, sentence: str, bench: Bench) -> None:
    end = bench.train(method, "--dataset", "ACDC", "--labeled_num", "all")
    assert end.code == 2 and sentence in end.err, end


def test_a_first_stage_that_is_too_short_to_learn_is_announced() -> None:
    said: list[str] = []
    assert first_steps(None, 36, said.append) == 36 and first_steps(7, 36, said.append) == 7
    assert ["as many epochs" in one for one in said] == [True, False] and all("--pre_iterations" in one for one in said)
    assert first_steps(300, 36, said.append) == 300 and first_steps(None, 2000, said.append) == 2000 and len(said) == 2


# Lists


def test_labelled_images_are_repeated_until_they_are_no_fewer() -> None:
    assert supervised_list([4, 5]) == [4, 5, 4, 5] and len(supervised_list(range(199))) == 398 and len(supervised_list(range(200))) == 200
    assert len(retraining_list(range(3), range(7))) == 9 + 7
    assert retraining_list([0, 1], [2, 3, 4]) == [0, 1, 0, 1, 2, 3, 4]
    assert thirds(80) == [26, 53, 80] and thirds(5) == [1, 3, 5] and thirds(1) == [1]


def test_equal_scores_keep_their_order() -> None:
    assert by_score("abcde", [-0.5, -1.0, -0.5, -0.2, -1.0]) == ["b", "e", "a", "c", "d"]


def test_stability_is_the_mean_iou_with_the_last_map() -> None:
    """IoU 1/2 of class 0 and 2/3 of class 1: 7/12; classes that neither has do not count."""
    one, last = np.array([[0, 0], [1, 1]]), np.array([[0, 1], [1, 1]])
    assert stability([one, last], 21) == pytest.approx(7 / 12)
    assert stability([one, last, last], 21) == pytest.approx((7 / 12 + 1) / 2)
    assert stability([one, one, one], 21) == stability([one], 21) == 1


def test_an_epoch_may_leave_its_smaller_batch_out() -> None:
    whole, kept = LabeledOnly(7, 3, 0, drop_last=True), LabeledOnly(7, 3, 0)
    assert (whole.length, whole.fewest, kept.length, kept.fewest) == (2, 3, 3, 1)
    assert [len(whole.at(t)[0]) for t in range(4)] == [3] * 4
    assert (LabeledOnly(2, 3, 0, drop_last=True).length, LabeledOnly(2, 3, 0, drop_last=True).fewest) == (1, 2)


# Views and labels


def test_strong_views_are_of_the_named_images_alone() -> None:
    images, labels = torch.rand(4, 3, 24, 24), torch.randint(0, 3, (4, 24, 24))
    batch = Batch(images.clone(), labels.clone(), 0, 0, False, tuple("abcd"), np.random.default_rng(0))
    made = with_strong_rows(batch, {"b", "d"}, (0.0,) * 4, 0.0, 0.0, 1.0, DATA_SETS["ACDC"])
    for row in (0, 2):
        assert torch.equal(made.images[row], images[row]) and torch.equal(made.labels[row], labels[row])
    for row in (1, 3):
        box = made.labels[row] == 255
        assert 0 < box.float().mean() <= 0.4 and torch.equal(made.labels[row][~box], labels[row][~box])
        assert torch.equal(made.images[row][:, ~box], images[row][:, ~box]) and (made.images[row] != images[row]).any(0)[box].all()


def test_cutin_shows_an_image_in_itself_and_its_label_with_it() -> None:
    """The label is the image's own red, so it stays so; a patch that is bright is where the box is."""
    labels = torch.zeros(3, 40, 60, dtype=torch.long)
    labels[:, 8:14, 40:50] = 2
    images = torch.stack([labels.float(), torch.rand(3, 40, 60)], 1)
    made, ids = cut_in(images, labels, np.random.default_rng(1), 1.0)
    edges = (ids != made[:, 0].round().long()).float().mean()
    assert edges < 0.02 and ids.unique().tolist() == [0, 2] and not torch.equal(ids, labels.flip(1, 2))
    same, untouched = cut_in(images, labels, np.random.default_rng(1), 0.0)
    assert same is images and untouched is labels
    row, column = divmod(int(salience(labels[:1].float()).argmax()), 60)
    assert 8 <= row < 14 and 40 <= column < 50, "salient is what differs from the image's mean"


class Constant(nn.Module):
    """Logits that are the same everywhere; asks for sides of a multiple of 8."""

    multiple = 8

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert not any(side % 8 for side in images.shape[2:])
        return torch.tensor([0.3, 1.0, -2.0]).view(1, 3, 1, 1).expand(len(images), 3, *images.shape[2:])


def test_over_scales_a_network_that_is_constant_in_space_says_what_it_says_once() -> None:
    network, image = Constant(), torch.rand(2, 1, 24, 40)
    found = AtScales(network, (0.5, 0.75, 1.0, 1.5, 2.0))(image)
    assert torch.allclose(found.softmax(1), network(image).softmax(1), atol=1e-6) and found.shape == (2, 3, 24, 40)


@pytest.mark.parametrize("name, sides", [("PhantomScenes", (16, 24)), ("NEU-Seg", (32, 32))])
def test_images_are_handed_to_a_network_as_in_a_test(name: str, sides: tuple[int, int]) -> None:
    """Whole, and filled up where nothing is learned; or resized, with their labels."""
    data = DATA_SETS[name]
    pixels, label = np.random.default_rng(0).integers(0, 256, (3, 1, 10, 17), np.uint8)[: data.channels], np.full((10, 17), 2, np.uint8)
    image, ids = inference_of(data, (32, 32), None, torch.device("cpu")).handed(Constant(), pixels, label)
    assert image.shape == (1, data.channels, *sides) and ids.shape == (1, *sides)
    if name == "PhantomScenes":
        assert (ids[0, :10, :17] == 2).all() and (ids == 255).sum() == 16 * 24 - 10 * 17
        assert torch.equal(image[..., 17:], image[..., 16:17].expand_as(image[..., 17:]))
    else:
        assert (ids == 2).all()


# Partners and prototypes


def search(labels: list[np.ndarray], how: str = "class") -> Search:
    return Search({f"image {k}": label for k, label in enumerate(labels)}, DATA_SETS["ACDC"], 0.03, how)


def filled(*classes: int) -> np.ndarray:
    """A label map 10x10 in stripes of these classes."""
    return np.repeat(np.array(classes, np.uint8), 10 // len(classes) * 10)[:100].reshape(10, 10)


def test_a_partner_shows_a_class_of_the_image_and_is_never_the_image_itself() -> None:
    labels = [filled(0, 1), filled(0, 2), filled(0, 1), filled(0, 3)]
    found = search(labels)
    asked: list[np.ndarray] = []

    def augmented(places: np.ndarray, rng: np.random.Generator):
        asked.append(places)
        chosen = torch.from_numpy(np.stack([labels[place] for place in places])).long()
        return chosen.unsqueeze(1).float(), chosen

    seen = torch.from_numpy(np.stack([labels[0], labels[1], filled(0, 3), filled(0)])).long()
    pairs = found.partners(["image 0", "image 1", "u", "v"], seen, np.random.default_rng(0), augmented)
    assert asked[0][0] == 2 and asked[0][1] != 1 and asked[0][2] == 3 and len(asked) == 1
    assert torch.equal(pairs.own[0], seen[0] == 1) and torch.equal(pairs.theirs[2], torch.from_numpy(labels[3]) == 3)
    assert not pairs.own[1].any() and not pairs.theirs[1].any() and not pairs.own[3].any(), "no class in common: nowhere"
    drawn = {int(search(labels, "random").partners(["u"], seen[2:3], np.random.default_rng(k), augmented).labels.max()) for k in range(30)}
    assert drawn == {1, 2, 3}


def test_a_partner_is_cropped_anew_until_it_shows_the_class() -> None:
    crops = iter([filled(0), filled(0), filled(0, 1)])

    def augmented(places: np.ndarray, rng: np.random.Generator):
        chosen = torch.from_numpy(next(crops)[None]).long()
        return chosen.unsqueeze(1).float(), chosen

    pairs = search([filled(0, 1)]).partners(["u"], torch.from_numpy(filled(1)[None]).long(), np.random.default_rng(0), augmented)
    assert pairs.theirs.any() and next(crops, None) is None


def test_the_only_image_may_be_its_own_partner() -> None:
    assert without(np.array([1]), 0).tolist() == [1] and without(np.array([0, 2, 0]), 1).tolist() == [1, 0, 1]
    assert without(np.array([2, 2, 0]), 1).tolist() == [2, 0, 0]


def test_the_better_half_of_a_list_is_one_image_at_least() -> None:
    lists = np.array([[1, 0, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]], bool)
    errors = np.array([[9.0, 1, 1, 1], [0.3, 0.1, 0.2, 0.0], [0.0, 0, 0, 0]])
    assert better_half(lists, errors).astype(int).tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("pooling", ["soft", "mean"])
def test_a_prototype_points_to_what_the_mask_covers(pooling: str) -> None:
    mask = torch.zeros(1, 8, 8)
    mask[:, :3] = 1
    features = torch.ones(1, 5, 8, 8)
    features[:, :, :3] = torch.tensor([1.0, 2.0, 0.0, 4.0, 1.0]).view(1, 5, 1, 1)
    v = prototype(features, mask, pooling)
    assert torch.cosine_similarity(v, features[:, :, 0, 0]).item() == pytest.approx(1, abs=1e-6)
    assert not prototype(features, torch.zeros_like(mask), pooling).any()
    s = similarity(features, torch.zeros_like(v), mask.shape[1:], pooling)
    assert s.max() == (1e-7 if pooling == "soft" else 0)


def test_soft_pooling_leans_to_large_features() -> None:
    features = torch.zeros(1, 2, 1, 2)
    features[0, 0, 0, 0], features[0, 1, 0, 1] = 1.0, 3.0
    mask = torch.ones(1, 1, 2)
    soft, mean = (prototype(features, mask, pooling)[0] for pooling in ("soft", "mean"))
    e = np.e
    assert (soft[1] / soft[0]).item() == pytest.approx(3 * (1 + e**3) / (e + 1), rel=1e-4) and mean[1] / mean[0] == pytest.approx(3)
    # The whole image is covered: the length is that of the mean, in which e^300, of no float, outweighs e^100.
    assert prototype(100 * features, mask, "soft").tolist() == [pytest.approx([0, 300 / (1 + 1e-4 / 2)])]


def test_pairs_are_learned_from_what_the_network_decodes() -> None:
    """Each image's feature map must be like the prototype of the other one of its pair."""
    network = SimpleNamespace(encode=lambda x: 2 * x, decode=lambda x: x + torch.tensor([1.0, 0.0]).view(1, 2, 1, 1), head=lambda x: -x)
    rng = torch.Generator().manual_seed(0)
    images, others = torch.rand(2, 1, 2, 4, 4, generator=rng)
    labels, masks = torch.randint(0, 2, (2, 1, 4, 4), generator=rng), torch.randint(0, 2, (2, 1, 4, 4), generator=rng).bool()
    pairs = SimpleNamespace(images=others, labels=labels[1], own=masks[0], theirs=masks[1])
    found = pairs_loss(network, images, labels[0], pairs, SimpleNamespace(pooling="mean", dice="squared"))
    maps = [network.decode(2 * x) for x in (images, others)]
    likeness = [similarity(maps[k], prototype(maps[1 - k], masks[1 - k], "mean"), (4, 4), "mean") for k in (0, 1)]
    torch.testing.assert_close(found["supervised"], sum(supervised_loss(-maps[k], labels[k]) for k in (0, 1)))
    torch.testing.assert_close(found["consistency"], sum(similarity_errors(likeness[k], masks[k], labels[k]) for k in (0, 1)))
    torch.testing.assert_close(found["total"], found["supervised"] + found["consistency"])
    assert present(torch.tensor([[0, 1], [0, 255]]), 3).tolist() == [True, True, False], "one pixel is enough"


def test_similarity_errors_of_one_counted_pixel() -> None:
    similar, labels = torch.tensor([[[0.25, 0.5]]]), torch.tensor([[[1, 255]]])
    for mask, p in ((1, 0.25), (0, 0.75)):
        assert similarity_errors(similar, torch.full_like(labels, mask), labels).item() == pytest.approx(-np.log(p))
    assert similarity_errors(similar, labels > 0, torch.full_like(labels, 255)) == 0


def test_what_is_as_similar_as_it_is_said_to_be_counts_fully() -> None:
    logits, labels = torch.randn(2, 3, 6, 6), torch.randint(0, 3, (2, 6, 6))
    mask = torch.randint(0, 2, (2, 6, 6)).bool()
    assert weighted_loss(logits, labels, mask, mask.float()).item() == pytest.approx(cross_entropy(logits, labels).item())
    assert weighted_loss(logits, labels, torch.ones_like(mask), torch.zeros(2, 6, 6)) == 0
    labels[0] = 255
    assert weighted_loss(logits, labels, mask, mask.float()).item() == pytest.approx(cross_entropy(logits, labels).item() / 2, rel=1e-5)


def test_an_image_that_stands_several_times_is_read_once(bench: Bench) -> None:
    end = bench.train("STPlusPlus", *SMALL[:-2], "--scales", "1", "--pre_iterations", "1", "--max_iterations", "2", "--variant", "st")
    assert end.code == 0, end.err
    told = [line for line in end.out.splitlines() if "labelled and 0 unlabelled" in line]
    counts = [int(line.split("labelled and")[0].split()[-1]) for line in told]
    masks = len(list((bench.run_folder() / "pseudo_masks/supervised").glob("*.png")))
    assert len(counts) == 2 and counts[1] == counts[0] + masks
