"""Cases predicted and scored: resized, whole and by window; by case, image and matrix; streamed, in order, with everything dropped."""
from __future__ import annotations

import threading
import time
import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import networks
from dataloaders.description import Case, DataSet, Evaluation, Source
from dataloaders.errors import UserError
from dataloaders.zoom import resize_nearest
from inference import Validator, inference_of, score_of, validation
from inference.scoring import case_scores, counts_of, of_matrix
from inference.threads import in_threads
from inference.windows import sliding_window_scores
from metrics import confusion_matrix, score_case, score_counts, simeps_metrics, summarize
from networks.ensembles import MeanLogits

CPU = torch.device("cpu")
PATCH = (16, 16)
COLOURS = torch.tensor([[1.0, 0.1, 0.1], [0.1, 1.0, 0.1], [0.1, 0.1, 1.0]])


def described(predicted="resized", scored="case") -> DataSet:
    return DataSet("colours", Source, ("background", "green", "blue"), channels=3, resizing="floor", intensities="8-bit", mean=(0.5,) * 3,
                   std=(0.25,) * 3, ignored=255, evaluation=Evaluation(predicted, scored, "miou" if scored == "matrix" else "dice"))


def by_colour(images: torch.Tensor) -> torch.Tensor:
    """A network that calls a pixel by its strongest channel, and looks at its neighbours a little."""
    return torch.einsum("kc,bchw->bkhw", COLOURS, images) + 0.1 * F.avg_pool2d(images, 3, 1, 1)


class Pictures:
    """A source in memory: noisy pictures of several sizes; `broken` ones cannot be read. It knows what of it is still alive."""

    def __init__(self, data: DataSet, count: int = 6, broken: tuple[int, ...] = (), sides: tuple[int, ...] = (20, 31, 16)):
        self.data, self.root, self.broken, self.sides = data, Path("pictures"), broken, sides
        self.reads: list[int] = []
        self.alive: list[weakref.ref] = []
        self.most = 0
        self._lock = threading.Lock()

    def cases(self, count: int = 6) -> list[Case]:
        return [Case(f"picture {k}", Path(f"{k}.png"), Path(f"{k}.png"), f"{k}") for k in range(count)]

    def _drawn(self, case: Case) -> tuple[np.ndarray, np.ndarray]:
        k = int(case.group)
        rng = np.random.default_rng(k)
        size = (self.sides[k % len(self.sides)], self.sides[(k + 1) % len(self.sides)])
        reference = rng.integers(0, 3, (4, 4)).repeat(8, 0).repeat(8, 1)[: size[0], : size[1]].astype(np.uint8)
        pixels = (60 + 120 * np.stack([reference == c for c in range(3)]) + rng.normal(0, 55, (3, *size))).clip(0, 255).astype(np.uint8)
        reference[0, :3] = 255
        return pixels, reference

    def image(self, case: Case) -> np.ndarray:
        if int(case.group) in self.broken:
            raise UserError(f"{case.image}: it is broken")
        pixels = self._drawn(case)[0]
        with self._lock:
            self.reads.append(int(case.group))
            self.alive = [one for one in self.alive if one() is not None] + [weakref.ref(pixels)]
            self.most = max(self.most, len(self.alive))
        return pixels

    def label(self, case: Case) -> np.ndarray:
        return self._drawn(case)[1]

    def spacing(self, case: Case) -> None:
        return None

    def affine(self, case: Case) -> None:
        return None

    def header(self, case: Case) -> None:
        return None


def validator(data: DataSet, count: int = 6, keep: int = 2**29, **how) -> tuple[Validator, Pictures]:
    source = Pictures(data)
    return Validator(source, source.cases(count), inference_of(data, PATCH, None, CPU, **how), keep), source


def scaled(pixels: np.ndarray) -> torch.Tensor:
    return (torch.from_numpy(pixels[None].astype(np.float32)) / 255 - 0.5) / 0.25


# How a case is predicted


def test_whole_images_pass_at_their_own_size():
    data, source = described("whole"), Pictures(described("whole"))
    pixels = source.image(source.cases()[1])
    logits = by_colour(scaled(pixels))
    inference = inference_of(data, PATCH, None, CPU)

    def predictor(images: torch.Tensor) -> torch.Tensor:
        return by_colour(images)

    predictor.multiple = 1  # type: ignore[attr-defined]
    assert np.array_equal(inference.labels(predictor, pixels[:, None]), logits.argmax(1).numpy())
    assert np.allclose(inference.probabilities(predictor, pixels[:, None])[:, 0], logits.softmax(1)[0].numpy(), atol=1e-6)


def test_whole_images_are_filled_up_to_what_the_network_takes():
    torch.manual_seed(0)
    network = networks.build("unet", in_channels=3, num_classes=3).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (3, 1, 40, 57), np.uint8)
    filled = F.pad(scaled(pixels[:, 0]), (0, 7, 0, 8), mode="replicate")
    with torch.no_grad():
        want = network(filled)[..., :40, :57].argmax(1)
    assert np.array_equal(inference_of(described("whole"), PATCH, None, CPU).labels(network, pixels), want.numpy())


def test_an_ensemble_is_filled_up_to_what_all_its_members_take():
    members = [networks.build(name, in_channels=1, num_classes=2) for name in ("unet", "enet", "nnunet_2D")]
    assert MeanLogits(members[:2]).multiple == 16 and MeanLogits(members).multiple == 64
    assert MeanLogits([networks.build("nnunet", in_channels=1, num_classes=2), networks.build("vnet", in_channels=1, num_classes=2)]
                      ).multiple == (16, 64, 64)


def test_images_by_window_are_the_mean_over_windows():
    data = described("window")
    pixels = Pictures(data).image(Pictures(data).cases()[1])
    inference = inference_of(data, PATCH, (8, 8), CPU)

    def predictor(images: torch.Tensor) -> torch.Tensor:
        return by_colour(images)

    predictor.multiple = 1  # type: ignore[attr-defined]
    want = sliding_window_scores(predictor, scaled(pixels)[0], 3, PATCH, (8, 8))
    got = inference.probabilities(predictor, pixels[:, None])
    assert np.array_equal(got[:, 0], want.numpy())
    assert np.array_equal(inference.labels(predictor, pixels[:, None])[0], want.argmax(0).numpy())


@pytest.mark.parametrize("how", ["resized", "whole"])
def test_mirroring_averages_four_flips(how):
    def leaning(images: torch.Tensor) -> torch.Tensor:
        return by_colour(images) * torch.linspace(0, 2, images.shape[-1]) * torch.linspace(0.5, 1, images.shape[-2])[:, None]

    pixels = np.random.default_rng(0).integers(0, 256, (3, 2, 16, 16), np.uint8)
    images = scaled(pixels.transpose(1, 0, 2, 3)[0]), scaled(pixels.transpose(1, 0, 2, 3)[1])
    want = [sum(leaning(image.flip(axes)).softmax(1).flip(axes) for axes in ((), (2,), (3,), (2, 3)))[0] / 4 for image in images]
    inference = inference_of(described(how), PATCH, None, CPU, mirror=True)
    leaning.multiple = 1  # type: ignore[attr-defined]
    assert np.allclose(inference.probabilities(leaning, pixels), torch.stack(want, 1).numpy(), atol=1e-6)
    assert np.array_equal(inference.labels(leaning, pixels), torch.stack(want).argmax(1).numpy())


def test_an_empty_row_of_the_resizing_is_background():
    """scipy's mapping fills no last row from 256 to 216."""
    inference = inference_of(DataSet("x", Source, ("a", "b")), (256, 256), None, CPU)
    maps = inference.native(np.full((2, 1, 256, 256), 0.5, np.float32), (1, 216, 216))
    assert maps.shape == (2, 1, 216, 216) and (maps.sum(0) == 1).all() and (maps[0, 0, -1] == 1).all()
    deep = inference.native(np.full((2, 1, 256, 256), 9, np.uint16), (1, 216, 216))
    assert (deep[0, 0, -1] == 65535).all() and (deep[0, 0, :-1] == 9).any()


def test_volumes_are_never_resized():
    with pytest.raises(ValueError, match="never resized"):
        inference_of(DataSet("x", Source, ("a", "b"), dimensions=3), (8, 8, 8), None, CPU)


@pytest.mark.parametrize("how", ["resized", "whole", "window"])
def test_what_is_not_finite_is_no_prediction(how):
    checked, _ = validator(described(how))
    with pytest.raises(FloatingPointError, match="not finite"):
        checked(lambda images: by_colour(images) / 0)


# How it is scored


@pytest.mark.parametrize("how", ["resized", "whole", "window"])
def test_case_by_case_the_native_size_is_scored(how):
    data = described(how)
    checked, source = validator(data)
    rows = checked.rows(by_colour)
    for case, row in zip(source.cases(), rows):
        labels = checked.inference.labels(by_colour, source.image(case)[:, None])
        assert row == score_case(labels[0], source.label(case), 3, ignored=255), "a picture is a plane"
    assert checked.summary(rows) == summarize(rows, data.classes[1:])
    assert score_of(checked.summary(rows), data) == checked.summary(rows)["mean"]["dice"] > 0.3


def test_image_by_image_the_training_size_is_counted():
    data = described("resized", "image")
    checked, source = validator(data)
    each = []
    for case in source.cases():
        loaded = checked.cases.loaded(int(case.group))
        maps = checked.inference.maps(by_colour, checked.inference.inputs(loaded.pixels)).numpy()
        reference = resize_nearest(loaded.reference, PATCH, "floor")
        each.append(simeps_metrics(np.where(reference == 255, 255, maps), reference, 3)[:2])
    mean = checked(by_colour)["mean"]
    assert (mean["iou"], mean["dice"]) == pytest.approx(np.nanmean(each, 0).tolist(), rel=1e-9)


def test_one_matrix_over_the_whole_set():
    """255 is left out; classes that are nowhere are left out of one mean, and 0 in the other."""
    data = replace(described("whole", "matrix"), classes=("background", "green", "blue", "never"))

    def four(images: torch.Tensor) -> torch.Tensor:
        logits = by_colour(images)
        return torch.cat([logits, torch.full_like(logits[:, :1], -99)], 1)

    source = Pictures(data)
    checked = Validator(source, source.cases(), inference_of(data, PATCH, None, CPU))
    whole = np.zeros((4, 4), int)
    for case in source.cases():
        pixels, reference = source._drawn(case)
        whole += confusion_matrix(checked.inference.labels(four, pixels[:, None])[0], reference, 4)
    summary = checked(four)
    union = whole.sum(0) + whole.sum(1) - np.diag(whole)
    iou = np.diag(whole)[:3] / union[:3]
    assert [summary[name]["iou"] for name in data.classes] == [*iou.tolist(), None]
    assert summary["mean"]["miou"] == pytest.approx(iou.mean()) and summary["mean"]["miou_absent_zero"] == pytest.approx(iou.sum() / 4)
    dice = 2 * np.diag(whole)[:3] / (whole.sum(0) + whole.sum(1))[:3]
    assert [summary[name]["dice"] for name in data.classes] == [*dice.tolist(), None]
    assert summary["mean"]["dice"] == pytest.approx(dice.mean())
    assert score_of(summary, data) == summary["mean"]["miou"]
    assert of_matrix(np.zeros((2, 2), int), ("a", "b"))["mean"] == {"miou": None, "miou_absent_zero": 0.0, "dice": None}


def test_counts_and_scores_of_one_image_agree():
    rng = np.random.default_rng(0)
    labels, reference = rng.integers(0, 3, (2, 1, 9, 7), np.uint8)
    reference[0, :2] = 255
    labels[labels == 2] = 0
    counts = np.array(counts_of(labels, reference, described()))
    assert counts.sum() == (reference != 255).sum()
    by_pixels = score_case(np.where(reference == 255, 0, labels), np.where(reference == 255, 0, reference), 3)
    for score, want in zip(score_counts(counts)[1:], by_pixels):
        assert (score["dice"], score["jaccard"], score["empty"]) == (want["dice"], want["jaccard"], want["empty"])
    assert [score["empty"] for score in score_counts(np.diag([4, 0]))] == ["", "both"]


def test_a_picture_is_scored_as_a_plane_and_a_volume_as_a_volume():
    """As a volume of one slice every pixel would be surface, and its HD95 another."""
    mask = np.zeros((1, 30, 30), np.uint8)
    mask[0, 5:25, 5:25] = 1
    loaded = SimpleNamespace(reference=mask, spacing=(2.0, 1.0, 1.0))
    moved = np.roll(mask, 4, 1)
    (plane,) = case_scores(moved, loaded, DataSet("x", Source, ("a", "b")), mm=True)  # type: ignore[arg-type]
    assert plane == score_case(moved[0], mask[0], 2, (1.0, 1.0))[0]
    assert plane["hd95_vox"] != score_case(moved, mask, 2)[0]["hd95_vox"]


def test_a_spacing_that_some_cases_lack_is_left_out_of_the_means():
    mask = np.eye(4, dtype=np.uint8)
    rows = [score_case(mask, mask, 2, (1.0, 1.0)), score_case(mask, mask, 2)]
    assert summarize(rows, ["b"])["mean"]["dice"] == 1 and "hd95_mm" not in summarize(rows, ["b"])["b"]


# Streamed


@pytest.mark.parametrize("scored", ["case", "image", "matrix"])
def test_nothing_depends_on_what_stays_in_memory(scored):
    data = described("resized" if scored == "image" else "whole", scored)
    small, large = validator(data, 40, keep=5000)[0], validator(data, 40)[0]
    small.check()
    large.check()
    assert small(by_colour) == large(by_colour) and small.rows(by_colour) == large.rows(by_colour)


@pytest.mark.parametrize("count", [30, 120])
def test_memory_does_not_grow_with_the_number_of_images(count, monkeypatch):
    """Three pictures are kept; five wait to be predicted, four to be scored; one is under way on either side, one in the network."""
    monkeypatch.setattr(validation, "WORKERS", 2)
    checked, source = validator(described("whole", "matrix"), count, keep=9000)
    checked.check()
    checked.rows(by_colour)
    checked.rows(by_colour)
    assert source.reads.count(0) == 1 and source.reads.count(count - 1) == 3 and source.most <= 3 + 5 + 4 + 3


def test_large_images_pass_the_network_one_by_one():
    inference = inference_of(described("whole", "matrix"), PATCH, None, CPU)
    assert [inference.together(sides) for sides in ((1024, 2048), (512, 512), (256, 256))] == [1, 8, 32]


def test_small_sets_are_read_once():
    checked, source = validator(described())
    checked.check()
    checked.check()
    checked.rows(by_colour)
    checked.planes(by_colour)
    assert sorted(source.reads) == [0, 1, 2, 3, 4, 5]


def test_all_problems_are_said_at_once():
    source = Pictures(described(), broken=(1, 4))
    with pytest.raises(UserError, match="validation cases: 2 problems") as error:
        Validator(source, source.cases(), inference_of(source.data, PATCH, None, CPU)).check()
    assert "1.png: it is broken" in str(error.value) and "4.png: it is broken" in str(error.value)


def test_threads_keep_the_order_and_the_bound():
    under_way, most, lock = 0, 0, threading.Lock()

    def work(k: int) -> int:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        time.sleep(0.001 * (k % 3))
        with lock:
            under_way -= 1
        return -k

    asked: list[int] = []

    def things():
        for k in range(30):
            asked.append(k)
            yield k

    results = in_threads(work, things(), threads=4, most=5)
    assert next(results) == 0 and len(asked) == 5
    assert list(results) == [-k for k in range(1, 30)] and most <= 4


def test_an_error_on_either_side_ends_the_work():
    begun: list[int] = []

    def work(k: int) -> int:
        begun.append(k)
        if k == 2:
            raise UserError("two")
        return k

    with pytest.raises(UserError, match="two"):
        list(in_threads(work, range(1000), 2, 4))
    assert len(begun) < 10

    def things():
        yield 1
        raise FloatingPointError("not finite")

    with pytest.raises(FloatingPointError):
        list(in_threads(work, things(), 2, 4))
