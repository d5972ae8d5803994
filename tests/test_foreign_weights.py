"""Weights of SSL4MIS: names, shapes and functions written here by hand, converted by prepare.py, and the same logits afterwards."""
from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import prepare
import pytest
import test_2D
import test_3D
import torch
import torch.nn.functional as F

import networks
from evaluation import foreign_weights as foreign
from storage import checkpoint
from storage.weight_files import read
from system.ending import finish_with

WIDTHS = (16, 32, 64, 128, 256)


# What the published networks compute in evaluation, in terms of their own names


def conv(x, s, name, **how):
    return (F.conv2d if x.dim() == 4 else F.conv3d)(x, s[f"{name}.weight"], s[f"{name}.bias"], **how)


def norm(x, s, name):
    return F.batch_norm(x, *(s[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")))


def block_2d(x, s, name):
    for i in (0, 4):
        x = F.leaky_relu(norm(conv(x, s, f"{name}.{i}", padding=1), s, f"{name}.{i + 1}"), 0.01)
    return x


def encoder_2d(x, s):
    maps = [block_2d(x, s, "encoder.in_conv.conv_conv")]
    for k in range(1, 5):
        maps.append(block_2d(F.max_pool2d(maps[-1], 2), s, f"encoder.down{k}.maxpool_conv.1.conv_conv"))
    return maps


def decoder_2d(maps, s, name="decoder"):
    x, passed = maps[4], []
    for k in range(1, 5):
        if f"{name}.up{k}.conv1x1.weight" in s:
            x = F.interpolate(conv(x, s, f"{name}.up{k}.conv1x1"), scale_factor=2, mode="bilinear", align_corners=True)
        else:
            x = F.conv_transpose2d(x, s[f"{name}.up{k}.up.weight"], s[f"{name}.up{k}.up.bias"], stride=2)
        x = block_2d(torch.cat([maps[4 - k], x], 1), s, f"{name}.up{k}.conv.conv_conv")
        passed.append(x)
    return conv(x, s, f"{name}.out_conv", padding=1), passed


def unet(x, s):
    return decoder_2d(encoder_2d(x, s), s)[0]


def unet_ds(x, s):
    logits, passed = decoder_2d(encoder_2d(x, s), s)
    side = [F.interpolate(conv(passed[3 - k], s, f"decoder.out_conv_dp{k}", padding=1), x.shape[2:]) for k in (1, 2, 3)]
    return logits, *side


def unet_cct(x, s):
    maps = encoder_2d(x, s)
    return tuple(decoder_2d(maps, s, name)[0] for name in ("main_decoder", "aux_decoder1", "aux_decoder2", "aux_decoder3"))


def block_3d(x, s, name):
    for i in (1, 2):
        x = F.instance_norm(conv(x, s, f"{name}.conv{i}.0", padding=1)).relu()
    return x


def unet_3d_maps(x, s):
    maps = [block_3d(x, s, "conv1")]
    for name in ("conv2", "conv3", "conv4", "center"):
        maps.append(block_3d(F.max_pool3d(maps[-1], 2), s, name))
    x, passed = maps[4], {}
    for k in (4, 3, 2, 1):
        up = F.interpolate(x, scale_factor=2, mode="trilinear")
        x = passed[k] = block_3d(torch.cat([maps[k - 1], up], 1), s, f"up_concat{k}.conv")
    return passed


def unet_3d(x, s):
    return conv(unet_3d_maps(x, s)[1], s, "final")


def unet_3d_dv_semi(x, s):
    maps = unet_3d_maps(x, s)
    return conv(maps[1], s, "dsv1"), *(
        F.interpolate(conv(maps[k], s, f"dsv{k}.dsv.0"), scale_factor=2 ** (k - 1), mode="trilinear") for k in (2, 3, 4))


def vnet(x, s):
    def level(x, name, depth):
        for i in range(depth):
            x = norm(conv(x, s, f"block_{name}.conv.{3 * i}", padding=1), s, f"block_{name}.conv.{3 * i + 1}").relu()
        return x

    maps = []
    for name, depth in (("one", 1), ("two", 2), ("three", 3), ("four", 3)):
        maps.append(level(x, name, depth))
        x = norm(conv(maps[-1], s, f"block_{name}_dw.conv.0", stride=2), s, f"block_{name}_dw.conv.1").relu()
    x = level(x, "five", 3)
    for below, name, depth in (("five", "six", 3), ("six", "seven", 3), ("seven", "eight", 2), ("eight", "nine", 1)):
        up = F.conv_transpose3d(x, s[f"block_{below}_up.conv.0.weight"], s[f"block_{below}_up.conv.0.bias"], stride=2)
        x = level(norm(up, s, f"block_{below}_up.conv.1").relu() + maps.pop(), name, depth)
    return conv(x, s, "out_conv")


# Their state dicts, in the order in which they were saved


def convolution(name, a, b, *kernel, transposed=False):
    return {f"{name}.weight": (a, b, *kernel) if transposed else (b, a, *kernel), f"{name}.bias": (b,)}


def batch_norm(name, b):
    return {f"{name}.weight": (b,), f"{name}.bias": (b,), f"{name}.running_mean": (b,), f"{name}.running_var": (b,),
            f"{name}.num_batches_tracked": ()}


def shapes_block_2d(name, a, b):
    shapes = {}
    for i, c in ((0, a), (4, b)):
        shapes |= convolution(f"{name}.{i}", c, b, 3, 3) | batch_norm(f"{name}.{i + 1}", b)
    return shapes


def shapes_encoder_2d(channels):
    shapes = shapes_block_2d("encoder.in_conv.conv_conv", channels, 16)
    for k in range(1, 5):
        shapes |= shapes_block_2d(f"encoder.down{k}.maxpool_conv.1.conv_conv", WIDTHS[k - 1], WIDTHS[k])
    return shapes


def shapes_decoder_2d(name, classes, transposed=False):
    shapes = {}
    for k in range(1, 5):
        a, b = WIDTHS[5 - k], WIDTHS[4 - k]
        shapes |= convolution(f"{name}.up{k}.up", a, b, 2, 2, transposed=True) if transposed else (
            convolution(f"{name}.up{k}.conv1x1", a, b, 1, 1))
        shapes |= shapes_block_2d(f"{name}.up{k}.conv.conv_conv", 2 * b, b)
    return shapes | convolution(f"{name}.out_conv", 16, classes, 3, 3)


def shapes_3d(channels):
    shapes = {}
    blocks = [("conv1", channels, 16), ("conv2", 16, 32), ("conv3", 32, 64), ("conv4", 64, 128), ("center", 128, 256),
              ("up_concat4.conv", 384, 128), ("up_concat3.conv", 192, 64), ("up_concat2.conv", 96, 32), ("up_concat1.conv", 48, 16)]
    for name, a, b in blocks:
        shapes |= convolution(f"{name}.conv1.0", a, b, 3, 3, 3) | convolution(f"{name}.conv2.0", b, b, 3, 3, 3)
    return shapes


def shapes_vnet(channels, classes):
    shapes = {}
    levels = [("one", 1, channels, 16), ("two", 2, 32, 32), ("three", 3, 64, 64), ("four", 3, 128, 128), ("five", 3, 256, 256),
              ("six", 3, 128, 128), ("seven", 3, 64, 64), ("eight", 2, 32, 32), ("nine", 1, 16, 16)]
    for number, (name, depth, a, b) in enumerate(levels):
        for i in range(depth):
            shapes |= convolution(f"block_{name}.conv.{3 * i}", b if i else a, b, 3, 3, 3) | batch_norm(f"block_{name}.conv.{3 * i + 1}", b)
        if number < 4:
            shapes |= convolution(f"block_{name}_dw.conv.0", b, 2 * b, 2, 2, 2) | batch_norm(f"block_{name}_dw.conv.1", 2 * b)
        elif number < 8:
            shapes |= convolution(f"block_{name}_up.conv.0", b, b // 2, 2, 2, 2, transposed=True)
            shapes |= batch_norm(f"block_{name}_up.conv.1", b // 2)
    return shapes | convolution("out_conv", 16, classes, 1, 1, 1)


def shapes_of(model, channels=1, classes=4):
    if model in ("unet", "unet_transposed"):
        return shapes_encoder_2d(channels) | shapes_decoder_2d("decoder", classes, model == "unet_transposed")
    if model in ("unet_ds", "unet_urpc"):
        shapes = shapes_encoder_2d(channels) | shapes_decoder_2d("decoder", classes)
        for k in (4, 3, 2, 1):
            shapes |= convolution(f"decoder.out_conv_dp{k}", WIDTHS[k], classes, 3, 3)
        return shapes
    if model == "unet_cct":
        shapes = shapes_encoder_2d(channels)
        for name in ("main_decoder", "aux_decoder1", "aux_decoder2", "aux_decoder3"):
            shapes |= shapes_decoder_2d(name, classes)
        return shapes
    if model == "unet_3D":
        return shapes_3d(channels) | convolution("final", 16, classes, 1, 1, 1)
    if model == "unet_3D_dv_semi":
        shapes = shapes_3d(channels)
        for k in (4, 3, 2):
            shapes |= convolution(f"dsv{k}.dsv.0", WIDTHS[k - 1], classes, 1, 1, 1)
        return shapes | convolution("dsv1", 16, classes, 1, 1, 1)
    return shapes_vnet(channels, classes)


FUNCTIONS = {"unet": unet, "unet_transposed": unet, "unet_ds": unet_ds, "unet_urpc": unet_ds, "unet_cct": unet_cct, "unet_3D": unet_3d,
             "unet_3D_dv_semi": unet_3d_dv_semi, "vnet": vnet}


def state_of(model, channels=1, classes=4, seed=0):
    """Random weights that keep a signal alive through the layers, in the naming of SSL4MIS."""
    torch.manual_seed(seed)
    state = OrderedDict()
    for name, shape in shapes_of(model, channels, classes).items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        elif name.endswith("running_var") or (name.endswith("weight") and len(shape) == 1):
            state[name] = torch.rand(shape) + 0.5
        else:
            fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 100
            state[name] = torch.randn(shape) * (2 / fan_in) ** 0.5
    return state


def adopted(model, state, **arguments):
    network = networks.build(model, **arguments).eval()
    return network, foreign.adopt(network, model, state, Path("weights.pth"))


def test_all_networks_with_known_names_are_tested_here():
    assert set(FUNCTIONS) == set(foreign.NAMES) <= set(networks.BUILDERS)


@pytest.mark.parametrize("model", FUNCTIONS)
def test_names_and_shapes_are_theirs_and_every_tensor_arrives(model):
    with torch.device("meta"):
        own = networks.build(model, in_channels=2, num_classes=5).state_dict()
    there = foreign.names_there(model, list(own))
    assert {there[name]: tuple(tensor.shape) for name, tensor in own.items()} == shapes_of(model, 2, 5)
    assert len(set(there.values())) == len(there)


@pytest.mark.parametrize("model", FUNCTIONS)
def test_the_same_function(model):
    state = state_of(model, channels=2, classes=3)
    network, unexpected = adopted(model, state, in_channels=2, num_classes=3)
    images = torch.randn(2, 2, *((32, 48) if network.dimensions == 2 else (16, 32, 16)))
    with torch.no_grad():
        expected, got = FUNCTIONS[model](images, state), network(images)
    assert not unexpected
    if model == "unet_cct":  # its auxiliary decoders read perturbed maps: each is compared on the maps as they are
        maps = network.encode(images)
        got = (got[0], *(decoder.out(decoder(maps)) for decoder in network.auxiliary))
    for one, other in zip(*[(x if isinstance(x, tuple) else (x,)) for x in (expected, got)], strict=True):
        assert one.std() > 1e-3
        torch.testing.assert_close(other, one, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("wrapped", [
    lambda s: s, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model_state_dict": s, "optimizer": {"lr": 0.1}},
    lambda s: {"model": s},
    lambda s: {"net": s, "opt": {"state": {}}}, lambda s: {f"module.{k}": v for k, v in s.items()},
    lambda s: {"model": {f"module.module.{k}": v for k, v in s.items()}},
    lambda s: OrderedDict((k, torch.nn.Parameter(v) if v.is_floating_point() else v) for k, v in s.items()),
])
def test_how_weights_are_wrapped_makes_no_difference(tmp_path, wrapped):
    state = state_of("unet")
    torch.save(wrapped(state), tmp_path / "a.pth")
    found = read(tmp_path / "a.pth", "a.pth")
    assert list(found) == list(state) and all(torch.equal(found[name], tensor) for name, tensor in state.items())


def test_files_of_torchs_old_format_are_read(tmp_path):
    torch.save(state_of("unet"), tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    assert list(read(tmp_path / "a.pth", "a.pth")) == list(state_of("unet"))


class Code:
    """What would run when unpickled."""

    def __reduce__(self):
        return exec, ("raise SystemExit('the file was run')",)


@pytest.fixture
def run_prepare(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SEMISEG_MODEL", str(tmp_path / "model"))
    monkeypatch.setenv("SEMISEG_RESULTS", str(tmp_path / "results"))

    def run(file, *words):
        monkeypatch.setattr("sys.argv", ["prepare.py", "weights", str(file), *map(str, words)])
        code = prepare.main()
        said = capsys.readouterr()
        return SimpleNamespace(code=code, out=said.out, err=said.err)

    return run


@pytest.mark.parametrize("content, how, sentence", [
    ({"a": Code()}, {}, "can read without running code in it (it needs"),
    ({"model": SimpleNamespace(lr=0.1)}, {}, "types.SimpleNamespace"),
    (torch.nn.Linear(2, 2), {}, "torch.nn.modules.linear.Linear"),
    ({"a": Code()}, {"_use_new_zipfile_serialization": False}, "Nothing was run"),
    ({"epoch": 3, "weights": {"a": torch.ones(1)}}, {}, "found epoch, weights"),
    ([torch.ones(1)], {}, "a list lies in it"),
    ({}, {}, "found nothing"),
    ({"format": 1, "predictors": {}}, {}, "a checkpoint of this program"),
])
def test_files_that_are_no_weights_are_refused_and_not_run(tmp_path, tiny_acdc, run_prepare, content, how, sentence):
    torch.save(content, tmp_path / "a.pth", **how)
    end = run_prepare(tmp_path / "a.pth", "--model", "unet", "--dataset", "ACDC", "--root_path", tiny_acdc)
    assert end.code == 2 and sentence in end.err and "Traceback" not in end.err and not (tmp_path / "model").exists()


@pytest.mark.parametrize("content", [None, b"", b"no weights", b"PK\x03\x04" + bytes(30), b"\x80\x02."])
def test_files_that_torch_did_not_write_are_refused(tmp_path, tiny_acdc, run_prepare, content):
    if content is not None:
        (tmp_path / "a.pth").write_bytes(content)
    end = run_prepare(tmp_path / "a.pth", "--model", "unet", "--dataset", "ACDC", "--root_path", tiny_acdc)
    assert end.code == 2 and "a.pth" in end.err and "Traceback" not in end.err


def test_what_does_not_fit_is_named(tmp_path, tiny_acdc, run_prepare):
    def said(state, model="unet"):
        torch.save(state, tmp_path / "a.pth")
        end = run_prepare(tmp_path / "a.pth", "--model", model, "--dataset", "ACDC", "--root_path", tiny_acdc)
        assert end.code == 2 and not (tmp_path / "model").exists(), end.err
        return end.err

    state = state_of("unet")
    text = said({**{k: v for k, v in state.items() if k != "decoder.out_conv.bias"}, "decoder.extra.weight": torch.ones(2)})
    assert "1 tensors of unet are missing: decoder.out_conv.bias" in text
    assert "1 tensors have no place in unet: decoder.extra.weight" in text
    text = said(state_of("unet", classes=2))
    assert "decoder.out_conv.weight has (2, 16, 3, 3), unet needs (4, 16, 3, 3)" in text and "--dataset" in text
    text = said(state_of("unet", channels=3))
    assert "encoder.in_conv.conv_conv.0.weight has (16, 3, 3, 3), unet needs (16, 1, 3, 3)" in text
    assert "--model unet_ds or unet_urpc" in said(state_of("unet_ds"), "unet_cct")
    assert "--model unet_cct" in said(state_of("unet_cct"))
    assert "Known are the networks unet, " in said({"layer.weight": torch.ones(1)})
    state["encoder.in_conv.conv_conv.0.bias"][0] = torch.nan
    assert "1 tensors are not finite: encoder.in_conv.conv_conv.0.bias" in said(state)
    assert "known for unet, " in said(state, "pnet")
    assert "a network for 3D images" in said(state_of("vnet"), "vnet")


def test_counters_of_batch_norm_may_be_missing():
    state = {name: tensor for name, tensor in state_of("unet").items() if not name.endswith("num_batches_tracked")}
    network, unexpected = adopted("unet", state)
    assert not unexpected and network.stem[1].num_batches_tracked == 0


def scores(module, folder):
    assert finish_with(lambda: module.main(module.Test(run=folder, device="cpu"))) == 0
    return {file.name: json.loads(file.read_text()) for file in folder.parents[3].parent.rglob("results/**/*.json")}


@pytest.mark.parametrize("model", ["unet", "unet_urpc", "unet_cct"])
def test_weights_of_slices_become_a_run_and_its_predictions_are_theirs(tmp_path, tiny_acdc, run_prepare, model):
    state = state_of(model)
    torch.save({"state_dict": state}, tmp_path / "their best.pth")
    end = run_prepare(tmp_path / "their best.pth", "--model", model, "--dataset", "ACDC", "--root_path", tiny_acdc,
                      "--patch_size", "32", "48", "--labeled_num", "7")
    assert end.code == 0, end.err
    (config,) = (tmp_path / "model").rglob("config.json")
    folder = config.parent
    assert folder.relative_to(tmp_path / "model").as_posix() == f"ACDC/their-best_weights/{model}/official_patch32x48"
    assert "Next: python code/test_2D.py --run " in end.out and str(folder) in end.out

    (result,) = scores(test_2D, folder).values()
    run = result["run"]
    assert run["method"] == "their best" and run["options"]["patch_size"] == [32, 48] and run["options"]["labeled_num"] == "7"
    assert run["data_set"] == "ACDC" and run["selection"] == "not known" and run["options"]["max_iterations"] is None
    assert any("their best.pth" in remark and "SHA-256" in remark for remark in run["remarks"])

    from dataloaders.zoom import resize_nearest
    with h5py.File(tiny_acdc / "data" / "patient009_frame01.h5") as file:
        pixels = file["image"][()]
    small = torch.from_numpy(np.stack([resize_nearest(plane, (32, 48), "corner") for plane in pixels]))[:, None]
    logits = FUNCTIONS[model](small, state)
    labels = (logits[0] if isinstance(logits, tuple) else logits).argmax(1).numpy().astype(np.uint8)
    import nibabel
    predicted = np.asarray(nibabel.load(folder / "predictions" / "patient009_frame01_pred.nii.gz").dataobj).T
    expected = np.stack([resize_nearest(plane, (48, 40), "corner") for plane in labels])
    assert len(np.unique(expected)) > 1 and (predicted == expected).mean() > 0.999


def test_weights_of_volumes_become_a_run(tmp_path, run_prepare):
    from test_volumes import write_la
    write_la(tmp_path / "LA")
    state = state_of("vnet", classes=2)
    torch.save(state, tmp_path / "iter_6000.pth")
    end = run_prepare(tmp_path / "iter_6000.pth", "--model", "vnet", "--dataset", "LA", "--root_path", tmp_path / "LA", "--name", "UA-MT",
                      "--patch_size", "16", "16", "16", "--stride", "8", "8", "8")
    assert end.code == 0, end.err
    (config,) = (tmp_path / "model").rglob("config.json")
    (result,) = scores(test_3D, config.parent).values()
    assert result["run"]["method"] == "UA-MT" and result["run"]["options"]["stride"] == [8, 8, 8] and len(result["cases"]) == 2
    assert result["run"]["options"]["labeled_num"] == "not known" and any("crops" in remark for remark in result["run"]["remarks"])
    best = checkpoint.load(config.parent / "best.pt")["predictors"]["network"]
    network = networks.build(best["network"]["name"], **best["network"]["arguments"]).eval()
    network.load_state_dict(best["state"])
    x = torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(network(x), vnet(x, state), atol=1e-4, rtol=1e-3)


def test_left_out_tensors_are_said_and_other_weights_never_replace_a_run(tmp_path, tiny_acdc, run_prepare, capsys):
    words = ("--model", "unet", "--dataset", "ACDC", "--root_path", tiny_acdc, "--patch_size", "32", "32", "--name", "A")
    torch.save(state_of("unet_ds"), tmp_path / "a.pth")
    for _ in range(2):
        end = run_prepare(tmp_path / "a.pth", *words)
        assert end.code == 0 and "8 tensors of the file have no place in unet and were left out: decoder.out_conv_dp4.weight" in end.out
    torch.save(state_of("unet_ds", seed=1), tmp_path / "a.pth")
    end = run_prepare(tmp_path / "a.pth", *words)
    assert end.code == 2 and "a run of other weights lies here" in end.err and "--name" in end.err
    assert run_prepare(tmp_path / "a.pth", *words[:-1], "B", "--fold", "1").code == 0
    folders = sorted(config.parent.name for config in (tmp_path / "model").rglob("config.json"))
    assert folders == ["fold1of5_patch32x32", "official_patch32x32"]
    folder = next((tmp_path / "model").rglob("official*"))
    assert finish_with(lambda: test_2D.main(test_2D.Test(run=folder, checkpoint="last", device="cpu"))) == 2
    assert "gave one state" in capsys.readouterr().err


@pytest.mark.parametrize("words, sentence", [
    (("--patch_size", "36", "32"), "multiples of 16"), (("--dataset", "NEU"), "not known"), (("--fold", "7"), "counted from 0 to 4"),
    (("--protocol", "clean"), "ACDC has official"),
])
def test_options_that_cannot_be_are_refused(tmp_path, tiny_acdc, run_prepare, words, sentence):
    torch.save(state_of("unet"), tmp_path / "a.pth")
    end = run_prepare(tmp_path / "a.pth", "--model", "unet", "--root_path", tiny_acdc, "--dataset", "ACDC", *words)
    assert end.code == 2 and sentence in end.err and "Traceback" not in end.err
