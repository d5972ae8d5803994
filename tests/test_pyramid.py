"""Networks of several heads, and the methods that ask these heads to agree: URPC and CCT."""
import numpy as np
import pytest
import torch
import train_CCT
import train_URPC
from parity_tools import Stub, drive, golden_batch, gradient
from test_methods import batch_of, discs, hard_dice
from torch.utils.flop_counter import FlopCounterMode

from command_line.options import Options, parse
from dataloaders.catalog import DATA_SETS
from dataloaders.errors import UserError
from engine.fitting import check_network
from losses import supervised_loss
from networks import build, names
from networks.dropout import dropped
from networks.folding import for_inference
from networks.perturbations import feature_dropout, feature_noise

HEADS = ["unet_ds", "unet_urpc", "unet_cct"]


def parameters(network):
    return sum(p.numel() for p in network.parameters())


def outline(name, **arguments):
    """A network without memory for its weights."""
    with torch.device("meta"):
        return build(name, **arguments)


# Networks (networks.md, sections 1 and 5)


@pytest.mark.parametrize("name, count, buffers, gflop", [
    ("unet_ds", 1_831_060, 2962, 5.965), ("unet_urpc", 1_831_060, 2962, 5.965), ("unet_cct", 3_713_664, 5866, 17.199),
])
def test_published_numbers_of_parameters_buffers_and_operations(name, count, buffers, gflop):
    network = outline(name).eval()
    assert parameters(network) == count and sum(b.numel() for b in network.buffers()) == buffers
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        logits = network(torch.empty(1, 1, 256, 256, device="meta"))
    assert [z.shape for z in logits] == [(1, 4, 256, 256)] * 4
    assert counter.get_total_flops() / 1e9 == pytest.approx(gflop, abs=1e-3)


@pytest.mark.parametrize("name", HEADS)
def test_shapes_composition_and_gradients(name):
    torch.manual_seed(0)
    network = build(name, in_channels=2, num_classes=3, dropout=0.0).eval()
    images = torch.randn(2, 2, 32, 48)
    maps = network.encode(images)
    torch.manual_seed(1)
    logits = network.head(network.decode(maps))
    torch.manual_seed(1)
    with torch.no_grad():
        again = network(images)
    assert isinstance(logits, tuple) and [z.shape for z in logits] == [(2, 3, 32, 48)] * 4
    assert all(torch.equal(a, b) for a, b in zip(logits, again, strict=True))
    sum(z.square().sum() for z in logits).backward()
    unused = [key for key, p in network.named_parameters() if p.grad is None]
    assert unused == [key for key, p in network.named_parameters() if not p.requires_grad]
    assert unused == ([] if name == "unet_cct" else ["side_heads.3.weight", "side_heads.3.bias"])
    with pytest.raises(ValueError, match="multiples of 16, got .32, 40"):
        network(torch.zeros(1, 2, 32, 40))


@pytest.mark.parametrize("name", HEADS)
def test_main_output_is_that_of_the_unet(name):
    torch.manual_seed(0)
    network = build(name).eval()
    plain = build("unet").eval()
    plain.load_state_dict(network.state_dict(), strict=False)
    images = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        assert torch.equal(network(images)[0], plain(images)) and torch.equal(network.main(network.encode(images)), plain(images))


@pytest.mark.parametrize("name", [*HEADS, "unet_3D_dv_semi"])
def test_inference_computes_the_main_head_alone(name):
    torch.manual_seed(0)
    network, images = build(name), torch.randn(1, 1, *(32,) * (3 if "3D" in name else 2))
    folded = for_inference(network)
    with torch.no_grad():
        torch.testing.assert_close(folded(images), network.eval()(images)[0], rtol=1e-4, atol=1e-5)
    assert not network.main_only and isinstance(network(images), tuple)
    if name == "unet_cct":
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            outline(name).eval().main(outline(name).eval().encode(torch.empty(1, 1, 256, 256, device="meta")))
        assert counter.get_total_flops() / 1e9 == pytest.approx(5.899, abs=1e-3)


def test_urpc_perturbs_what_its_side_heads_read_in_train_mode_only():
    torch.manual_seed(0)
    network, plain = build("unet_urpc", dropout=0.0), build("unet_ds", dropout=0.0)
    plain.load_state_dict(network.state_dict())
    images = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        first, second = network(images), network(images)
        main, *sides = [torch.equal(a, b) for a, b in zip(first, second)]
        assert main and not sides[0] and not sides[1] and sides[2], "dropout 0 switches the dropout of the coarsest head off too"
        assert torch.equal(first[0], plain(images)[0])
        plain.load_state_dict(network.state_dict())
        network.eval(), plain.eval()
        assert all(torch.equal(a, b) for a, b in zip(network(images), plain(images)))
        assert all(torch.equal(a, b) for a, b in zip(network(images), network(images)))
    published = build("unet_urpc").train()
    assert published.side_dropout.p == 0.5 and build("unet_urpc", dropout=0.5).side_dropout.p == 0.25
    features = [torch.ones(1, width, 4, 4) for width in (16, 32, 64, 128)]
    assert not torch.equal(published.head(features)[3], published.head(features)[3])


def test_side_logits_are_enlarged_by_nearest_neighbour():
    network = build("unet_ds").eval()
    features = [torch.randn(1, 16 * 2**k, 32 // 2**k, 32 // 2**k) for k in range(4)]
    logits = network.head(features)
    for k in (1, 2, 3):
        side = 2**k
        blocks = logits[k].unfold(2, side, side).unfold(3, side, side).flatten(4)
        assert (blocks == blocks[..., :1]).all() and torch.equal(blocks[..., 0], network.side_heads[k - 1](features[k]))


def test_cct_perturbs_every_map_for_its_auxiliary_decoders_always():
    torch.manual_seed(0)
    network = build("unet_cct").eval()
    images = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        first, second = network(images), network(images)
        assert [torch.equal(a, b) for a, b in zip(first, second)] == [True, False, False, False]
        maps = network.encode(images)
        for k, decoder in enumerate(network.auxiliary):
            seen = []
            hook = decoder.register_forward_pre_hook(lambda module, inputs, seen=seen: seen.extend(inputs[0]))
            network.decode(maps)
            hook.remove()
            assert len(seen) == 5 and not any(torch.equal(a, b) for a, b in zip(seen, maps)), k


def test_cct_without_perturbation_and_with_equal_decoders_agrees():
    torch.manual_seed(0)
    network = build("unet_cct", num_classes=3, dropout=0.0, noise=0.0, rate=0.0, attention=(1.01, 1.01))
    for decoder in network.auxiliary:
        decoder.load_state_dict({key: value for key, value in network.state_dict().items() if key.startswith(("up.", "out."))})
    images, labels = discs()
    batch = batch_of(torch.cat([images, images.flip(-1)]), labels)
    terms = train_CCT.losses(network, batch, 0.1, train_CCT.Method())
    assert terms["consistency"].item() == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(terms["supervised"], supervised_loss(network(batch.images)[0][:2], labels))


# Perturbations


def test_feature_noise_is_relative_bounded_and_one_for_the_batch():
    torch.manual_seed(0)
    x = torch.randn(3, 8, 16, 16)
    noise = feature_noise(x, 0.3) / x - 1
    assert noise.abs().max() <= 0.3 + 1e-4 and noise.abs().max() > 0.29 and noise.mean().abs() < 0.02
    torch.testing.assert_close(noise[0], noise[2], atol=1e-3, rtol=1e-3)
    assert not torch.allclose(noise[0, 0], noise[0, 1])
    assert torch.equal(feature_noise(x, 0.0), x)


def test_feature_dropout_removes_the_most_active_places_of_each_image():
    levels = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 2, 2)
    x = torch.cat([levels, 10 * levels]).expand(2, 5, 2, 2)  # the threshold is each image's own
    kept = feature_dropout(x, (0.8, 0.8))
    assert torch.equal(kept, x * torch.tensor([[1.0, 1.0], [1.0, 0.0]]))
    assert torch.equal(feature_dropout(x, (1.01, 1.01)), x)
    assert torch.equal(feature_dropout(-x, (0.8, 0.8)), -x), "below 0 everywhere: nothing is removed"
    volume = torch.rand(2, 3, 4, 4, 4) + 1
    assert (feature_dropout(volume, (0.7, 0.9)) == 0).any(dim=1).flatten(1).any(1).all()


def test_one_share_for_all_images_drawn_anew_each_time():
    ramp = torch.linspace(0, 1, 1001).view(1, 1, 1, -1).expand(4, 1, 1, 1001)
    torch.manual_seed(0)
    counts = torch.stack([(feature_dropout(ramp, (0.7, 0.9)) > 0).sum((1, 2, 3)) for _ in range(30)])
    assert (counts == counts[:, :1]).all() and counts.unique().numel() > 20
    assert 695 <= counts.min() < 740 and 860 < counts.max() <= 900


def test_perturbations_are_drawn_from_torch_alone_and_pass_gradients():
    x = torch.rand(2, 4, 8, 8, requires_grad=True)
    for perturb in (lambda x: feature_noise(x, 0.3), lambda x: dropped(x, 0.3), lambda x: feature_dropout(x, (0.7, 0.9))):
        results = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            np.random.seed(len(results))
            results.append(perturb(x))
        assert torch.equal(results[0], results[1])
        (found,) = gradient(results[0].sum(), x)
        torch.testing.assert_close(found * x, results[0])
    torch.manual_seed(0)
    kept = dropped(torch.ones(100, 100), 0.3)
    assert 0.28 < (kept == 0).float().mean() < 0.32 and kept.max().item() == pytest.approx(1 / 0.7, rel=1e-3)


# Which network a method takes


@pytest.mark.parametrize("name, several, data, sentence", [
    ("unet", True, "ACDC", "--model unet: this network makes one prediction of an image, the method reads several; choose one of .*cct"),
    ("unet_urpc", False, "ACDC", "several predictions of an image, the method reads one; .*, unet, unet_32, unet_cma, unet_lite0"),
    ("unet_3D_dv_semi", False, "LA", "several predictions of an image"),
    ("vnet", True, "LA", "choose one of unet_3D_dv_semi"),
    ("vnet", True, "ACDC", "a network for 3D images, but ACDC is 2D; choose one of .*unet_cct, unet_cdma, unet_ds, unet_ucc, unet_urpc"),
])
def test_a_method_that_reads_one_prediction_gets_one(name, several, data, sentence):
    with pytest.raises(UserError, match=sentence):
        check_network(name, outline(name), DATA_SETS[data], Options(patch_size=(64, 64, 64)[: DATA_SETS[data].dimensions]), several)


def test_names_of_networks_by_heads():
    assert set(HEADS) <= set(names(2, True)) and names(3, True) == ["unet_3D_dv_semi"]
    assert names(2) == sorted(names(2, True) + names(2, False))


# URPC


def one_pixel(*foreground):
    """Logits (1, 2, 1, 1) a scale from the probability of class 0."""
    return [torch.tensor([p, 1 - p]).log().view(1, 2, 1, 1) for p in foreground]


def test_golden_pyramid_consistency():
    parts, variances = train_URPC.rectified(one_pixel(0.9, 0.8, 0.7, 0.6))
    assert variances.tolist() == pytest.approx([0.092332, 0.007382, 0.006164, 0.049857], abs=1e-6)
    assert parts.tolist() == pytest.approx([0.114832, 0.009882, 0.008664, 0.072357], abs=1e-6)
    assert parts.mean().item() == pytest.approx(0.051434, abs=1e-6)


def urpc_terms(scales, labels, **values):
    batch = golden_batch(labels, len(scales[0]) - len(labels), 30000)
    (step,) = drive(train_URPC, train_URPC.Method(**values), {"network": Stub(tuple(scales))}, [batch]).steps
    return step.terms


def test_equal_scales_have_no_consistency_term_and_the_plain_supervised_one():
    torch.manual_seed(0)
    logits, labels = torch.randn(3, 4, 6, 5), torch.randint(0, 4, (2, 6, 5))
    for dice in ("squared", "linear"):
        terms = urpc_terms([logits] * 4, labels, dice=dice)
        assert terms["consistency"].item() == pytest.approx(0, abs=1e-6) and terms["variance"].item() == pytest.approx(0, abs=1e-6)
        torch.testing.assert_close(terms["supervised"], supervised_loss(logits[:2], labels, dice))


def test_positions_that_stray_count_less():
    """Two pixels, of which one strays: E weighs its squared distance down, against a mean that weighs both alike."""
    near, far = one_pixel(0.55, 0.45), one_pixel(0.999, 0.001)
    both = [torch.cat(pair, 3) for pair in zip(near, far)]
    parts, variances = train_URPC.rectified(both)
    p = both[0].softmax(1)
    unweighted = ((0.5 - p) ** 2).mean()
    assert 0 < parts[0] - variances[0] < unweighted


@pytest.mark.parametrize("shift", [80.0, 1e4])
def test_saturated_logits_give_finite_losses_and_gradients(shift):
    torch.manual_seed(0)
    signs = [torch.randn(2, 3, 4, 4).sign() for _ in range(3)]
    scales = [(shift * sign).requires_grad_() for sign in (*signs, signs[0])]
    terms = urpc_terms(scales, torch.randint(0, 3, (1, 4, 4)))
    alike = [(shift * signs[0]).requires_grad_() for _ in range(4)]  # every softmax is 0 at the same places
    assert terms["total"].isfinite() and all(g.isfinite().all() for g in gradient(terms["total"], *scales))
    parts, _ = train_URPC.rectified(alike)
    assert parts.mean().item() == pytest.approx(0, abs=1e-6) and all(g.isfinite().all() for g in gradient(parts.mean(), *alike))


def test_unlabelled_rows_reach_all_scales_and_labelled_rows_none():
    torch.manual_seed(0)
    scales = [torch.randn(4, 3, 4, 4, requires_grad=True) for _ in range(4)]
    terms = urpc_terms(scales, torch.randint(0, 3, (2, 4, 4)))
    for found in gradient(terms["consistency"], *scales):
        assert not found[:2].any() and found[2:].flatten(1).any(1).all()
    for found in gradient(terms["supervised"], *scales):
        assert found[:2].flatten(1).any(1).all() and not found[2:].any()
    torch.testing.assert_close(terms["total"], terms["supervised"] + 0.1 * terms["consistency"])


@pytest.mark.parametrize("data, ramp, published", [("ACDC", 200.0, 200.0), ("BraTS2019", 200.0, 400.0), ("LA", 40.0, 400.0)])
def test_variant_of_urpc_is_for_volumes(data, ramp, published, tmp_path):
    words = ["--dataset", data, "--root_path", str(tmp_path)]
    for more, expected in (([], ramp), (["--variant", "published_code"], published)):
        options = parse(train_URPC.Method, train_URPC.PRESETS, [*words, *more])
        assert options.consistency_rampup == expected
    assert parse(train_URPC.Method, train_URPC.PRESETS, [*words, *more, "--consistency_rampup", "7"]).consistency_rampup == 7.0


# CCT


def cct_terms(heads, labels, **values):
    batch = golden_batch(labels, len(heads[0]) - len(labels), 30000)
    (step,) = drive(train_CCT, train_CCT.Method(model="unet_cct", **values), {"network": Stub(tuple(heads))}, [batch]).steps
    return step.terms


@pytest.mark.parametrize("stop", [False, True])
def test_unlabelled_rows_reach_the_main_decoder_unless_it_is_held(stop):
    torch.manual_seed(0)
    heads = [torch.randn(4, 3, 4, 4, requires_grad=True) for _ in range(4)]
    terms = cct_terms(heads, torch.randint(0, 3, (2, 4, 4)), stop_grad_main=stop)
    main, *auxiliary = gradient(terms["consistency"], *heads)
    assert main.any() != stop and not main[:2].any()
    assert all(found[2:].flatten(1).any(1).all() and not found[:2].any() for found in auxiliary)
    assert all(found[:2].flatten(1).any(1).all() and not found[2:].any() for found in gradient(terms["supervised"], *heads))


def test_terms_of_cct():
    torch.manual_seed(0)
    heads, labels = [torch.randn(3, 3, 4, 4) for _ in range(4)], torch.randint(0, 3, (2, 4, 4))
    terms = cct_terms(heads, labels, dice="linear")
    parts = [((heads[0][2:].softmax(1) - z[2:].softmax(1)) ** 2).mean() for z in heads[1:]]
    for name, part in zip(("noise", "dropout", "attention"), parts):
        torch.testing.assert_close(terms[f"consistency_{name}"], part)
    torch.testing.assert_close(terms["consistency"], sum(parts) / 3)
    torch.testing.assert_close(terms["supervised"], torch.stack([supervised_loss(z[:2], labels, "linear") for z in heads]).mean())
    torch.testing.assert_close(terms["total"], terms["supervised"] + 0.1 * terms["consistency"])


def test_passes_apart_keep_batch_norm_of_both_kinds_apart():
    torch.manual_seed(0)
    images, labels = discs()
    batch = batch_of(torch.cat([images, 5 + images.flip(-1)]), labels)
    network = build("unet_cct", num_classes=2, dropout=0.0)
    apart = train_CCT.losses(network, batch, 0.0, train_CCT.Method(passes="apart"))["supervised"]
    # Noise is drawn for the labelled images first, as for a batch of these alone.
    for passes, same in (("apart", True), ("joint", False)):
        torch.manual_seed(3)
        seen = train_CCT.losses(network, batch, 0.0, train_CCT.Method(passes=passes))["supervised"]
        torch.manual_seed(3)
        alone = torch.stack([supervised_loss(z, labels) for z in network(images)]).mean()
        assert torch.allclose(seen, alone, atol=1e-5) is same
    assert apart.isfinite()


@pytest.mark.parametrize("wrong, sentence", [
    (dict(model="unet_ds"), "--model unet_ds: CCT needs auxiliary decoders"),
    (dict(feature_attention=(0.9, 0.7)), "--feature_attention 0.9 0.7"),
])
def test_options_of_cct_that_cannot_be(wrong, sentence):
    with pytest.raises(UserError, match=sentence):
        drive(train_CCT, train_CCT.Method(**{"model": "unet_cct", **wrong}), {}, [])


@pytest.mark.parametrize("script, options", [
    (train_URPC, train_URPC.Method(consistency_rampup=1.0)), (train_CCT, train_CCT.Method(model="unet_cct", consistency_rampup=1.0)),
], ids=["URPC", "CCT"])
def test_two_discs_are_learnt(script, options):
    images, labels = discs()
    torch.manual_seed(0)
    network = build("unet_urpc" if script is train_URPC else "unet_cct", num_classes=2, dropout=0.0)
    both = torch.cat([images, images.flip(-1)])
    run = drive(script, options, {"network": network}, [batch_of(both, labels, step) for step in range(40)], rate=0.1)
    totals = [step.terms["total"].item() for step in run.steps]
    assert totals[-1] < totals[0] / 3
    assert run.evaluated == {"network": network}
    network.train().main_only = True
    for _ in range(20):  # settle the running statistics of batch norm on these images
        with torch.no_grad():
            network(images)
    assert hard_dice(network, images, labels) > 0.85
