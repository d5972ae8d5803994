"""Swin-UNet: counts of every stage, windows of every size, attention that stays within them, and weights of others."""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from swin_weights import NARROW, imagenet
from torch import Tensor, nn

from dataloaders.errors import UserError
from engine import fitting as pretrained
from engine.fitting import nearest_sizes, unfit
from networks import build, swin_unet
from networks.swin_unet import Attention, Block, Expand, Merge, SwinUNet, largest_window, windows_of


@pytest.fixture(scope="module")
def full() -> SwinUNet:
    torch.manual_seed(0)
    return build("swin_unet")


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[SwinUNet]]:
    """The network at an eighth of its width, for tests that only ask how its parts work together."""
    for name, value in NARROW.items():
        monkeypatch.setattr(swin_unet, name, value)
    torch.manual_seed(0)
    yield SwinUNet


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# The published numbers


def test_every_stage_has_its_published_number_of_parameters(full: SwinUNet) -> None:
    assert count(full) == 27_168_420
    assert count(full.patch_embed) == 4_896
    assert [count(layer) for layer in full.layers] == [299_190, 1_188_204, 4_735_704, 14_183_856]
    decoder = [count(full.bottom), *(count(up) - count(up.join) for up in full.layers_up)]
    assert decoder == [1_180_416, 3_848_280, 965_676, 224_694]
    assert sum(count(up.join) for up in full.layers_up) == 387_744
    assert (count(full.up), count(full.out), count(full.norm), count(full.norm_up)) == (147_648, 384, 1_536, 192)


@pytest.mark.parametrize("channels, classes, window, difference", [(3, 4, 7, 0), (1, 2, 7, 192), (2, 4, 7, 16 * 96), (1, 4, 4, 120 * 132)])
def test_counts_follow_channels_classes_and_the_largest_window(channels: int, classes: int, window: int, difference: int) -> None:
    """A window of 4 has 49 offsets in place of 169, for each of 132 heads."""
    with torch.device("meta"):
        network = SwinUNet(in_channels=channels, num_classes=classes, window=window)
    assert count(network) == 27_168_420 - difference
    assert sum(block.attn.heads for block in network.modules() if isinstance(block, Block)) == 132


def test_rates_of_stochastic_depth_rise_along_the_encoder_and_the_decoder_reuses_them(full: SwinUNet) -> None:
    rates = [[block.rate for block in level.blocks] for level in (*full.layers, *full.layers_up)]
    assert [round(rate, 4) for pair in rates[:4] for rate in pair] == [0, 0.0286, 0.0571, 0.0857, 0.1143, 0.1429, 0.1714, 0.2]
    assert rates[4:] == rates[2::-1]
    assert [[block.shifted for block in level.blocks] for level in full.layers] == [[False, True]] * 4
    assert {block.rate for block in SwinUNet(dropout=0.0).modules() if isinstance(block, Block)} == {0.0}


def test_initial_weights(full: SwinUNet) -> None:
    weight = full.layers[2].blocks[0].attn.qkv.weight
    assert weight.std().item() == pytest.approx(0.02, rel=0.02) and not full.layers[2].blocks[0].attn.qkv.bias.any()
    assert full.layers[0].blocks[1].attn.relative_position_bias_table.std().item() == pytest.approx(0.02, rel=0.2)


@pytest.mark.parametrize("height, width", [(32, 64), (64, 32)])
def test_shapes_and_composition(full: SwinUNet, height: int, width: int) -> None:
    images = torch.randn(2, 1, height, width)
    with torch.no_grad():
        maps = full.eval().encode(images)
        features = full.decode(maps)
        assert torch.equal(full.head(features), full(images))
    assert [tuple(m.shape) for m in maps] == [(2, c, height // s, width // s) for c, s in ((96, 4), (192, 8), (384, 16), (768, 32))]
    assert features.shape == (2, 96, height, width) and full(images).shape == (2, 4, height, width)


def test_the_published_size(narrow: type[SwinUNet]) -> None:
    network = narrow().eval()
    assert network(torch.randn(1, 1, 224, 224)).shape == (1, 4, 224, 224) and network.remark((224, 224)) == ""


# Windows


@pytest.mark.parametrize("side, window", [(56, 7), (28, 7), (7, 7), (16, 4), (64, 4), (12, 6), (9, 3), (2, 2), (11, 1), (1, 1), (5, 5)])
def test_the_largest_window_that_divides(side: int, window: int) -> None:
    assert largest_window(side, 7) == window


@pytest.mark.parametrize("grid, sides, shift", [
    ((56, 56), (7, 7), (3, 3)), ((7, 7), (7, 7), (0, 0)), ((16, 16), (4, 4), (2, 2)), ((4, 4), (4, 4), (0, 0)),
    ((7, 14), (7, 7), (0, 3)), ((8, 12), (4, 6), (2, 3)), ((1, 1), (1, 1), (0, 0))])
def test_windows_and_their_shift(grid: tuple[int, int], sides: tuple[int, int], shift: tuple[int, int]) -> None:
    found = windows_of(*grid, 7, torch.device("cpu"))
    assert (found.sides, found.shift) == (sides, shift)
    n = sides[0] * sides[1]
    assert found.apart.shape == (grid[0] * grid[1] // n, 1, n, n) and found.offsets.shape == (n, n)


def remark(network: SwinUNet, side: int) -> str:
    return network.remark((side, side)).split(" positions")[0]


def test_the_user_is_told_other_windows(full: SwinUNet) -> None:
    assert remark(full, 64) == "windows of 4x4, 4x4, 4x4, 2x2" and remark(full, 32) == "windows of 4x4, 4x4, 2x2, 1x1"
    assert remark(full, 256) == "windows of 4x4, 4x4, 4x4, 4x4" and remark(full, 192) == "windows of 6x6, 6x6, 6x6, 6x6"


def together(height: int, width: int, side: tuple[int, int], shift: tuple[int, int]) -> Tensor:
    """(H W, H W) which positions attend to each other: those between the same borders, which lie at shift, shift + side, ..."""
    rows, columns = (torch.arange(size).sub(moved).div(s, rounding_mode="floor") for size, s, moved in
                     ((height, side[0], shift[0]), (width, side[1], shift[1])))
    same_row, same_column = rows[:, None] == rows, columns[:, None] == columns
    return (same_row[:, None, :, None] & same_column[None, :, None, :]).reshape(height * width, height * width)


@pytest.mark.parametrize("height, width", [(14, 14), (8, 12), (4, 8), (7, 7), (2, 2), (10, 3)])
@pytest.mark.parametrize("shifted", [False, True])
def test_attention_never_mixes_windows(height: int, width: int, shifted: bool) -> None:
    """The derivative of each position by each other one is zero exactly where they lie in different windows."""
    torch.manual_seed(height)
    block = Block(4, 2, 7, shifted, 0.0).double()
    nn.init.normal_(block.attn.qkv.weight)
    x = torch.randn(1, height, width, 4, dtype=torch.double)
    windows = windows_of(height, width, 7, x.device)
    windows = windows._replace(apart=windows.apart.double())
    reach = torch.autograd.functional.jacobian(lambda x: block(x, windows).sum(-1), x)
    reach = reach[0, :, :, 0].abs().sum(-1).reshape(height * width, height * width)
    shift = windows.shift if shifted else (0, 0)
    assert torch.equal(reach > 0, together(height, width, windows.sides, shift))


def test_attention_equals_its_definition() -> None:
    """softmax(q k / sqrt(d) + B[offset of the two]) v, window by window and head by head, in plain loops."""
    torch.manual_seed(1)
    heads, width, limit, grid = 2, 6, 3, (4, 6)
    attention = Attention(width, heads, limit).double()
    nn.init.normal_(attention.relative_position_bias_table)
    x = torch.randn(2, *grid, width, dtype=torch.double)
    windows = windows_of(*grid, limit, x.device)
    assert windows.sides == (2, 3)
    found = attention(x, windows, False)

    expected = torch.empty_like(x)
    places = [(y, z) for y in range(grid[0]) for z in range(grid[1])]
    for b in range(len(x)):
        for y, z in places:
            near = [(u, v) for u, v in places if (u // 2, v // 3) == (y // 2, z // 3)]
            joined = []
            for h in range(heads):
                def part(place: tuple[int, int], which: int, b: int = b, h: int = h) -> Tensor:
                    return attention.qkv(x[b, place[0], place[1]]).view(3, heads, -1)[which, h]

                scores = torch.stack([
                    part((y, z), 0) @ part(place, 1) / 3**0.5
                    + attention.relative_position_bias_table[(y - place[0] + limit - 1) * (2 * limit - 1) + z - place[1] + limit - 1, h]
                    for place in near])
                joined.append(scores.softmax(0) @ torch.stack([part(place, 2) for place in near]))
            expected[b, y, z] = attention.proj(torch.cat(joined))
    torch.testing.assert_close(found, expected)


def test_merging_has_the_channel_order_of_imagenets_weights() -> None:
    """Even row and column, odd row, odd column, both odd."""
    merge, seen = Merge(1), []
    merge.norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    merge(torch.tensor([[0.0, 2.0], [1.0, 3.0]]).view(1, 2, 2, 1))
    assert seen[0].flatten().tolist() == [0, 1, 2, 3]


def test_expanding_lays_the_parts_of_a_position_side_by_side() -> None:
    expand = Expand(4, 1, 2)
    expand.expand.weight.data = torch.eye(4)
    expand.norm = nn.Identity()  # type: ignore[assignment]
    x = torch.arange(8.0).view(1, 1, 2, 4)
    assert expand(x).squeeze().tolist() == [[0, 1, 4, 5], [2, 3, 6, 7]]


def test_a_grey_image_counts_as_three_equal_channels(narrow: type[SwinUNet]) -> None:
    grey, colour = narrow(in_channels=1).eval(), narrow(in_channels=3).eval()
    colour.load_state_dict(grey.state_dict())
    images = torch.randn(2, 1, 32, 32)
    torch.testing.assert_close(grey(images), colour(images.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-5)


def test_the_patch_embedding_is_the_convolution_of_the_file(full: SwinUNet) -> None:
    images = torch.randn(2, 1, 32, 64)
    expected = full.patch_embed.norm(full.patch_embed.proj(images.expand(-1, 3, -1, -1)).permute(0, 2, 3, 1))
    torch.testing.assert_close(full.patch_embed(images), expected, rtol=1e-4, atol=1e-5)


# Chance


def test_stochastic_depth_draws_by_torchs_generator_and_sleeps_in_evaluation(narrow: type[SwinUNet]) -> None:
    network, images = narrow(), torch.randn(4, 1, 32, 32)
    outputs = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        outputs.append(network.train()(images))
    assert torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[0], outputs[2])
    assert torch.equal(network.eval()(images), network(images))
    still = narrow(dropout=0.0)
    still.load_state_dict(network.state_dict())
    assert torch.equal(still.train()(images), network(images))


def test_stochastic_depth_drops_whole_images_and_keeps_the_mean() -> None:
    block = Block(4, 1, 7, False, 0.25).train()
    torch.manual_seed(0)
    values = block.sometimes(torch.ones(4000, 2, 2, 4)).flatten(1)
    assert torch.equal(values.amin(1), values.amax(1)) and values.unique().tolist() == pytest.approx([0, 4 / 3])
    assert values.mean().item() == pytest.approx(1, abs=0.05)


def test_weights_follow_from_the_seed_and_the_spec_rebuilds(narrow: type[SwinUNet]) -> None:
    networks = []
    for _ in range(2):
        torch.manual_seed(5)
        networks.append(build("swin_unet", num_classes=2, window=4))
    assert all(torch.equal(a, b) for a, b in zip(networks[0].state_dict().values(), networks[1].state_dict().values()))
    again = build(networks[0].spec["name"], **networks[0].spec["arguments"])  # type: ignore[index,arg-type]
    again.load_state_dict(networks[0].state_dict())
    assert again.window == 4


# Sizes


@pytest.mark.parametrize("name, batch, sides, reason, nearest", [
    ("swin_unet", 4, (250, 250), "multiples of 32", [(256, 256), (224, 224)]),
    ("swin_unet", 4, (16, 40), "multiples of 32", [(32, 64)]),
    ("unet", 4, (100, 60), "multiples of 16", [(96, 48), (112, 64)]),
    ("unet", 1, (16, 16), "one position", [(16, 32)]),
    ("nnunet", 2, (96, 96, 96), "multiples of 4 64 64", [(96, 64, 64), (96, 128, 128)]),
    ("nnunet_2D", 2, (64, 64), "one position", [(64, 128)]),
])
def test_a_size_that_does_not_fit_is_told_the_nearest_that_do(name: str, batch: int, sides: tuple[int, ...], reason: str,
                                                               nearest: list[tuple[int, ...]], narrow: type[SwinUNet]) -> None:
    network = build(name)
    assert reason in unfit(network, batch, sides)
    found = nearest_sizes(network, batch, sides)
    assert sorted(found) == sorted(nearest) and not any(unfit(network, batch, size) for size in found)


def test_one_image_of_one_position_is_fine_without_batch_norm(narrow: type[SwinUNet]) -> None:
    assert unfit(narrow(), 1, (32, 32)) == "" and narrow().train()(torch.randn(1, 1, 32, 32)).shape == (1, 4, 32, 32)


# Weights of others


def test_every_tensor_of_imagenet_finds_its_places(narrow: type[SwinUNet], tmp_path: Path) -> None:
    file, state = tmp_path / "swin.pth", imagenet(*NARROW.values())
    torch.save({"model": state}, file)
    network = build("swin_unet")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    line = pretrained.start(network, file)
    after = network.state_dict()

    for name in ("patch_embed.proj.weight", "layers.2.blocks.1.attn.qkv.weight", "layers.3.blocks.0.mlp.fc1.bias",
                 "layers.1.downsample.reduction.weight", "layers.0.blocks.1.attn.relative_position_bias_table", "norm.bias"):
        assert torch.equal(after[name], state[name]), name
    for level, mirrored in ((0, 2), (1, 1), (2, 0)):
        for name in ("blocks.0.norm1.weight", "blocks.1.attn.proj.weight"):
            assert torch.equal(after[f"layers_up.{mirrored}.{name}"], state[f"layers.{level}.{name}"])
    fresh = [name for name in after if torch.equal(after[name], before[name])]
    own = ("bottom.", "up.", "norm_up.", "out.", *(f"layers_up.{k}.{part}." for k in range(3) for part in ("join", "upsample")))
    assert fresh == [name for name in after if name.startswith(own)]
    strangers = [name for name in state if "index" in name or "mask" in name or name.startswith("head") or
                 (name.startswith("layers.2.blocks.") and int(name.split(".")[3]) > 1)]
    assert f"{len(after) - len(fresh)} of its {len(after)} tensors" in line and "swin.pth" in line
    assert f"0 were offered with another shape, and {len(set(strangers))} have no place" in line


def test_tensors_of_another_shape_are_left_out_and_counted(narrow: type[SwinUNet], tmp_path: Path) -> None:
    state = imagenet(*NARROW.values())
    state["layers.0.blocks.0.attn.qkv.weight"] = torch.zeros(3, 3)  # has a place in encoder and decoder
    state["norm.weight"] = torch.zeros(5)
    torch.save(state, tmp_path / "plain.pth")  # a state dict by itself is taken too
    network = build("swin_unet", in_channels=2)  # whose embedding is its own
    assert "4 were offered with another shape" in pretrained.start(network, tmp_path / "plain.pth")


def test_from_scratch_is_said_and_other_networks_say_nothing(narrow: type[SwinUNet]) -> None:
    options = SimpleNamespace(pretrained=None, patch_size=(64, 64))
    scratch, windows = pretrained.prepare(build("swin_unet"), "model2", options)  # type: ignore[arg-type]
    assert scratch.startswith("model2 (swin_unet): trained from scratch; ") and "swin_tiny_patch4_window7_224.pth" in scratch
    assert "4x4, 4x4, 4x4, 2x2" in windows
    assert pretrained.prepare(build("unet"), "model1", options) == []  # type: ignore[arg-type]


class Payload:
    def __reduce__(self) -> tuple:
        return print, ("this must never be printed",)


@pytest.mark.parametrize("content, sentence", [
    (None, "there is no such file"), ({"model": {"conv1.weight": torch.zeros(2)}}, "none of its 1 tensors fits swin_unet"),
    ([1, 2], "a list lies in it"), ({"model": Payload()}, "without running code"), (b"not a file of torch", "without running code")])
def test_a_file_that_will_not_do_gets_a_sentence(content: object, sentence: str, narrow: type[SwinUNet], tmp_path: Path,
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        torch.save(content, file)
    with pytest.raises(UserError, match=sentence) as error:
        pretrained.start(build("swin_unet"), file)
    assert str(error.value).startswith(f"--pretrained {file}: ") and capsys.readouterr().out == ""


def test_a_file_for_a_run_without_such_a_network_is_refused() -> None:
    pretrained.refuse_unused({"model1": build("unet")}, None)
    with pytest.raises(UserError, match="no network of this run"):
        pretrained.refuse_unused({"model1": build("unet")}, Path("swin.pth"))
