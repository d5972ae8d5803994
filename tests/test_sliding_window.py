"""Sliding windows over volumes: against a plain loop, for any size, stride and batch; bounded memory; sentences for bad input."""
from __future__ import annotations

from itertools import product
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from inference import windows
from inference.windows import sliding_window, sliding_window_scores, window_starts

PATCH, STRIDE, K = (8, 6, 4), (3, 4, 2), 3
WEIGHT = torch.randn(K, 2, 3, 3, 3, generator=torch.Generator().manual_seed(0))
AXES = st.tuples(*[st.integers(1, 17)] * 3)


def network(windows: torch.Tensor) -> torch.Tensor:
    """What it says of a voxel depends on where the window stands, by its zero padding."""
    return F.conv3d(windows, WEIGHT, padding=1)


def volume_of(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(seed))


def plain_loop(volume: np.ndarray, weight: np.ndarray, predict) -> np.ndarray:
    """Average probabilities (K, X, Y, Z), float64; `volume` no smaller than the patch."""
    scores, visits = np.zeros((K, *volume.shape[1:])), np.zeros(volume.shape[1:])
    for corner in product(*(window_starts(m, n, step) for m, n, step in zip(volume.shape[1:], PATCH, STRIDE))):
        place = tuple(slice(first, first + n) for first, n in zip(corner, PATCH))
        scores[(slice(None), *place)] += predict(volume[(slice(None), *place)]) * weight
        visits[place] += weight
    return scores / visits


def softmax_of(window: np.ndarray) -> np.ndarray:
    return network(torch.from_numpy(np.ascontiguousarray(window))[None])[0].softmax(0).numpy()


@given(size=st.integers(1, 60), patch=st.integers(1, 30), data=st.data())
def test_windows_cover_an_axis(size, patch, data):
    stride = data.draw(st.integers(1, patch))
    starts = window_starts(size, patch, stride)
    assert starts[0] == 0 and starts == sorted(set(starts))
    if size >= patch:
        assert starts[-1] + patch == size and len(starts) == -(-(size - patch) // stride) + 1
        assert all(second - first <= stride for first, second in zip(starts, starts[1:]))
        assert all(second - first == stride for first, second in zip(starts[:-1], starts[1:-1]))


@settings(max_examples=25, deadline=None)
@given(shape=AXES, sw_batch=st.integers(1, 9), gaussian=st.booleans(), mirror=st.booleans(), place=st.sampled_from(["auto", "host"]))
def test_batches_change_nothing(shape, sw_batch, gaussian, mirror, place):
    volume = volume_of(*shape)
    given_ = dict(gaussian=gaussian, mirror=mirror)
    one = sliding_window_scores(network, volume, K, PATCH, STRIDE, sw_batch=1, **given_)
    many = sliding_window_scores(network, volume, K, PATCH, STRIDE, sw_batch=sw_batch, accumulate_on=place, **given_)
    assert one.shape == (K, *shape)
    torch.testing.assert_close(many, one, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(one.sum(0), torch.ones(shape), rtol=0, atol=1e-5)
    labels = sliding_window(network, volume, K, PATCH, STRIDE, sw_batch=sw_batch, accumulate_on=place, **given_)
    assert labels.dtype == torch.uint8 and (labels == many.argmax(0)).all()


@settings(max_examples=20, deadline=None)
@given(shape=AXES)
def test_what_a_network_copies_comes_back(shape):
    labels = torch.randint(0, K, shape, generator=torch.Generator().manual_seed(3))
    volume = 9 * F.one_hot(labels, K).movedim(-1, 0).float()
    assert (sliding_window(lambda windows: windows, volume, K, PATCH, STRIDE) == labels).all()
    constant = torch.tensor([0.0, 2.0, 1.0]).view(1, K, 1, 1, 1)
    assert (sliding_window(lambda windows: constant.expand(len(windows), K, *PATCH), volume, K, PATCH, STRIDE) == 1).all()


def test_equal_weights_are_the_plain_loop():
    volume = volume_of(19, 13, 9)
    want = plain_loop(volume.numpy(), np.ones(PATCH), softmax_of)
    np.testing.assert_allclose(sliding_window_scores(network, volume, K, PATCH, STRIDE).numpy(), want, rtol=0, atol=1e-6)


def test_gaussian_weights_are_an_eighth_of_the_patch():
    volume = volume_of(19, 13, 9)
    bells = [np.exp(-0.5 * ((np.arange(n) - (n - 1) / 2) / (n / 8)) ** 2) for n in PATCH]
    weight = bells[0][:, None, None] * bells[1][:, None] * bells[2]
    want = plain_loop(volume.numpy(), weight, softmax_of)
    got = sliding_window_scores(network, volume, K, PATCH, STRIDE, gaussian=True).numpy()
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-6)
    assert np.abs(got - sliding_window_scores(network, volume, K, PATCH, STRIDE).numpy()).max() > 1e-2


def test_mirroring_averages_eight_flips():
    volume = volume_of(19, 13, 9)

    def flipped(window: np.ndarray) -> np.ndarray:
        flips = [[axis for axis, on in zip((1, 2, 3), choice) if on] for choice in product((0, 1), repeat=3)]
        return np.mean([np.flip(softmax_of(np.flip(window, axes)), axes) for axes in flips], 0)

    want = plain_loop(volume.numpy(), np.ones(PATCH), flipped)
    np.testing.assert_allclose(sliding_window_scores(network, volume, K, PATCH, STRIDE, mirror=True).numpy(), want, rtol=0, atol=1e-6)


def test_batches_hold_as_many_windows_as_asked_and_the_volume_stays():
    seen, volume = [], volume_of(19, 5, 9)
    kept = volume.clone()
    sliding_window(lambda windows: (seen.append(tuple(windows.shape)), network(windows))[1:], volume, K, PATCH, STRIDE, sw_batch=4)
    windows = len(window_starts(19, 8, 3)) * len(window_starts(9, 4, 2))
    assert [shape[0] for shape in seen] == [4] * (windows // 4) + [windows % 4] * (windows % 4 > 0)
    assert {shape[1:] for shape in seen} == {(2, *PATCH)} and (volume == kept).all()


def test_memory_does_not_grow_with_the_length():
    """No tensor of all classes is ever as long as the volume."""

    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            out = function(*arguments, **(keywords or {}))
            if isinstance(out, torch.Tensor):
                self.numel = max(self.numel, out.numel())
            return out

    volume, classes = torch.randn(1, 400, 6, 4), 30
    with Largest() as largest:
        labels = sliding_window(lambda w: w.repeat(1, classes, 1, 1, 1), volume, classes, PATCH, (4, 6, 4), sw_batch=2)
    assert labels.shape == (400, 6, 4)
    assert largest.numel <= max(volume.numel(), 2 * classes * 8 * 6 * 4)


def test_the_sums_go_to_the_host_when_the_device_is_full():
    cuda, host = torch.device("cuda"), torch.device("cpu")
    with mock.patch.object(windows, "_free_bytes", return_value=1000.0):
        assert windows._home_of_sums("auto", cuda, 501) == host and windows._home_of_sums("auto", cuda, 500) == cuda
        assert windows._home_of_sums("device", cuda, 501) == cuda and windows._home_of_sums("host", cuda, 1) == host
    assert windows._home_of_sums("auto", host, 2**50) == host


def test_what_counts_as_free_and_as_needed():
    """Reserved memory that nothing uses is free; needed are the sums, their shifted copy and the padded volume, 4 bytes a number."""
    with mock.patch.multiple(torch.cuda, mem_get_info=lambda _: (100, 900), memory_reserved=lambda _: 30, memory_allocated=lambda _: 10):
        assert windows._free_bytes(torch.device("cuda")) == 120
    with mock.patch.object(windows, "_home_of_sums", return_value=torch.device("cpu")) as home:
        sliding_window(network, volume_of(9, 5, 4), K, PATCH, STRIDE)
    assert home.call_args.args[2] == 4 * (2 * K * 8 * 6 * 4 + 2 * 9 * 6 * 4)


def test_the_stride_without_one_is_half_the_patch_and_at_least_one():
    assert windows.window_stride(None, (1, 3, 8)) == (1, 1, 4) and windows.window_stride([2, 5], (1, 1)) == (2, 5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_an_error(bad):
    def broken(windows):
        logits = network(windows)
        logits[-1, 1, 0, 0, 0] = bad
        return logits

    with pytest.raises(FloatingPointError, match="not finite"):
        sliding_window(broken, volume_of(9, 9, 9), K, PATCH, STRIDE)


@pytest.mark.parametrize("change, words", [
    (dict(volume=torch.zeros(9, 9)), r"\(channels, X, Y, Z\)"), (dict(volume=torch.zeros(9, 9, 9)), "2 numbers"),
    (dict(volume=torch.zeros(2, 9, 0, 9)), "hold voxels"),
    (dict(stride=(9, 4, 2)), "left out"), (dict(stride=(0, 4, 2)), "stride"), (dict(patch=(8, 6)), "3 numbers"),
    (dict(num_classes=4), "4 classes"), (dict(sw_batch=0), "sw_batch"), (dict(accumulate_on="disk"), "accumulate_on"),
])
def test_bad_sizes_get_a_sentence(change, words):
    given_ = {"volume": volume_of(9, 9, 9), "num_classes": K, "patch": PATCH, "stride": STRIDE, **change}
    with pytest.raises(ValueError, match=words):
        sliding_window(network, **given_)


def test_no_gradient_is_kept():
    weight = WEIGHT.clone().requires_grad_()
    seen = []
    sliding_window(lambda windows: (seen.append(F.conv3d(windows, weight, padding=1)), seen[-1])[1], volume_of(9, 9, 9), K, PATCH, STRIDE)
    assert not any(logits.requires_grad for logits in seen)
    with torch.no_grad():  # nor does it switch gradients on for its caller
        sliding_window(network, volume_of(9, 9, 9), K, PATCH, STRIDE)
        assert not torch.is_grad_enabled()


def test_cut_windows_stand_at_every_step_and_end_with_the_image():
    seen = []

    def predict(images):
        seen.append(tuple(images.shape[2:]))
        return F.conv2d(images, WEIGHT[..., 1], padding=1)

    image = torch.randn(2, 10, 20)
    scores = windows.cut_windows(predict, image, K, (8, 8), (5, 5))
    assert seen == [(min(8, 10 - y), min(8, 20 - x)) for y in (0, 5) for x in (0, 5, 10, 15)]
    want, counts = torch.zeros(K, 10, 20), torch.zeros(10, 20)
    for y, x in product((0, 5), (0, 5, 10, 15)):
        want[:, y : y + 8, x : x + 8] += F.conv2d(image[None, :, y : y + 8, x : x + 8], WEIGHT[..., 1], padding=1)[0].softmax(0)
        counts[y : y + 8, x : x + 8] += 1
    torch.testing.assert_close(scores, want / counts)
    with pytest.raises(FloatingPointError):
        windows.cut_windows(lambda images: predict(images) * float("nan"), image, K, (8, 8), (5, 5))
