"""DeepLabv3+ and its residual encoders: what the golden file does not say."""
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from harness import Bench
from torch import nn

from dataloaders.errors import UserError
from engine import fitting
from engine.fitting import check_network, check_rows, rates_of, start
from networks import build, names
from networks.deeplabv3plus import DeepLabV3Plus, resized
from networks.folding import for_inference

SMALL = "deeplabv3plus_resnet18"


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return build(SMALL, num_classes=5)


def test_the_small_one_has_its_numbers_of_parameters(small):
    parts = (small.backbone, small.pyramid, small.reduce, small.fuse, small.classifier)
    assert [sum(p.numel() for p in part.parameters()) for part in parts] == [11_176_512, 971_520, 3_168, 101_632, 325]


@pytest.mark.parametrize("sides", [(33, 47), (32, 64), (65, 64)])
def test_any_sides_go_in_and_come_out_and_the_parts_compose(small, sides):
    small.eval()
    images = torch.randn(1, 3, *sides)
    with torch.no_grad():
        maps = small.encode(images)
        features = small.decode(maps)
        logits = small.head(features)
        assert torch.equal(small(images), logits) and logits.shape == (1, 5, *sides)
    quarter, sixteenth = ([-(-side // n) for side in sides] for n in (4, 16))
    assert [m.shape[1] for m in maps] == [64, 128, 256, 512] and list(maps[0].shape[2:]) == quarter == list(features.shape[2:])
    assert list(maps[-1].shape[2:]) == list(maps[-2].shape[2:]) == sixteenth and features.shape[1] == 64


def test_features_of_other_images_are_refused(small):
    small.eval()
    with torch.no_grad():
        features = small.decode(small.encode(torch.randn(1, 3, 32, 32)))
        small.encode(torch.randn(1, 3, 48, 32))
        with pytest.raises(ValueError, match="not those of images of"):
            small.head(features)


def test_both_output_strides_have_the_same_tensors():
    with torch.device("meta"):
        fine, coarse = (DeepLabV3Plus(depth=50, output_stride=stride) for stride in (8, 16))
    assert [(name, t.shape) for name, t in fine.state_dict().items()] == [(name, t.shape) for name, t in coarse.state_dict().items()]
    rates = [[m.p for m in network.modules() if isinstance(m, nn.modules.dropout._DropoutNd) and m.p] for network in (fine, coarse)]
    assert rates == [[0.5, 0.1], []]


def test_corners_are_aligned():
    ramp = torch.arange(5.0).view(1, 1, 1, 5).expand(1, 1, 5, 5)
    large = resized(ramp, (17, 17))
    torch.testing.assert_close(large[0, 0, :, ::4], ramp[0, 0, 0].expand(17, 5))
    assert F.interpolate(ramp, size=(17, 17), mode="bilinear", align_corners=False)[0, 0, 0, 4] != 1


def test_folding_changes_nothing_and_leaves_no_norm_behind_a_plain_convolution(small):
    for module in small.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
    images = torch.randn(2, 3, 33, 47)
    with torch.no_grad():
        folded = for_inference(small)
        torch.testing.assert_close(folded(images), small.eval()(images), atol=1e-4, rtol=1e-4)
    assert not [m for m in folded.modules() if isinstance(m, nn.BatchNorm2d)]


def test_one_image_cannot_train_and_it_is_said_before_the_first_step(small):
    small.train()
    with pytest.raises(ValueError, match="training takes two images at least"):
        small(torch.randn(1, 3, 32, 32))
    data = SimpleNamespace(dimensions=2, name="VOC2012")
    options = SimpleNamespace(patch_size=(33, 33), model=SMALL, labeled_bs=1, batch_size=8)
    with pytest.raises(UserError, match="larger --labeled_bs"):
        check_network(SMALL, small, data, options, False)
    with pytest.raises(UserError, match="of 17 labelled images the last batch of an epoch has 1. Choose another --batch_size"):
        check_rows({"network": small}, 1, 17, options)
    check_rows({"network": small}, 2, 18, options)


@pytest.mark.parametrize("channels", [1, 3])
def test_it_starts_from_torchvisions_weights(tmp_path, small, channels):
    given = {name: tensor for name, tensor in small.backbone.state_dict().items() if not name.endswith("num_batches_tracked")}
    torch.save({**given, "fc.weight": torch.ones(1000, 512), "fc.bias": torch.ones(1000)}, tmp_path / "r18.pth")
    network = build(SMALL, in_channels=channels, num_classes=2)
    said = start(network, tmp_path / "r18.pth")
    assert "start from r18.pth" in said
    assert given.keys() >= {"conv1.weight", "bn1.running_var", "layer1.0.conv2.weight", "layer4.1.bn2.bias", "layer2.0.downsample.1.weight"}
    for name, tensor in given.items():
        expected = tensor.sum(1, keepdim=True) if channels == 1 and name == "conv1.weight" else tensor
        assert torch.equal(network.backbone.state_dict()[name], expected), name


@pytest.mark.parametrize("change, sentence", [
    ({"layer3.1.bn1.weight": None}, r"1 of its 100 tensors are missing or have another shape \(first layer3.1.bn1.weight\)"),
    ({"layer3.1.bn1.weight": None, "layer3.1.norm1.weight": torch.ones(256)}, r"belong to no place or fit none \(first layer3.1.norm1"),
    ({"conv1.weight": torch.ones(64, 4, 7, 7)}, r"first conv1.weight, 64 x 4 x 7 x 7"),
])
def test_a_file_that_does_not_fill_the_backbone_is_refused_by_the_tensors_name(tmp_path, small, change, sentence):
    given = {**small.backbone.state_dict(), **change}
    torch.save({name: tensor for name, tensor in given.items() if tensor is not None}, tmp_path / "r18.pth")
    with pytest.raises(UserError, match=sentence):
        start(build(SMALL), tmp_path / "r18.pth")


def test_the_backbone_and_the_rest_learn_at_rates_of_their_own(small):
    (inner, one), (outer, ten) = rates_of(small, 10.0)
    assert (one, ten) == (1.0, 10.0) and {id(p) for p in inner} == {id(p) for p in small.backbone.parameters()}
    assert len(inner) + len(outer) == len(list(small.parameters()))
    assert [(len(group), factor) for group, factor in rates_of(small, 1.0)] == [(len(inner) + len(outer), 1.0)]
    unet = build("unet")
    assert [(len(group), factor) for group, factor in rates_of(unet, 10.0)] == [(len(list(unet.parameters())), 1.0)], "no backbone"
    assert [factor for _, factor in rates_of([(small.backbone, 1.0), (small.classifier, 3.0)], 10.0)] == [1.0, 3.0]


def test_they_are_known_by_name():
    found = {name for name in names(2, False) if name.startswith("deeplab")}
    assert found == {SMALL, "deeplabv3plus_lite0", *(f"deeplabv3plus_resnet{n}{end}" for n in (50, 101) for end in ("", "_stride8"))}
    assert fitting.multiples_of(build(SMALL)) == (1, 1)


def test_a_method_that_hands_it_one_image_ends_with_a_sentence(bench: Bench):
    """BCP halves the labelled images; that a whole batch of two would do says nothing of it."""
    end = bench.train("BCP", "--model", "deeplabv3plus_lite0", "--batch_size", "4", "--labeled_bs", "2")
    assert end.code == 2 and "hands its network parts of a batch" in end.err and "Traceback" not in end.err, end.err
