"""What every training script must keep: its size, its options, and defaults that are the published protocol."""
import dataclasses
import importlib
import re
from functools import cache
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import train_simEps

from command_line.declarations import option_names
from dataloaders.catalog import DATA_SETS
from dataloaders.splits.split import SplitRequest
from engine import Options, parse

CODE = Path(__file__).parents[1] / "code"
SCRIPTS = sorted(path.stem for path in CODE.glob("train_*.py"))


@pytest.fixture(params=SCRIPTS)
def script(request):
    return importlib.import_module(request.param)


def kind_of(script):
    """The script's own class of options."""
    (kind,) = [k for k in vars(script).values() if isinstance(k, type) and issubclass(k, Options) and k.__module__ == script.__name__]
    return kind


def defaults(script, data, tmp_path):
    return parse(kind_of(script), script.PRESETS, ["--dataset", data, "--root_path", str(tmp_path)])


def option_fields(kind):
    return [field for field in dataclasses.fields(kind) if field.init]


def test_a_script_fits_on_two_screens_and_tells_its_formula(script):
    lines = Path(script.__file__).read_text().splitlines()
    assert len(lines) <= 130
    assert re.search(r"\n    L = ", script.__doc__) and f"python code/{script.__name__}.py" in script.__doc__
    assert callable(script.losses) and callable(script.main)


def test_a_script_says_its_options(script, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        parse(kind_of(script), script.PRESETS, ["--help", "--dataset", "ACDC", "--root_path", str(tmp_path)])
    assert end.value.code == 0
    text = capsys.readouterr().out
    for field in option_fields(kind_of(script)):
        assert re.search(rf"--(no_)?{field.name}\b", text), field.name


READ = re.compile(r'options\.(\w+)|(?:getattr\(\w+, |given\.get\(|options\[)"(\w+)"')


def read_in(text):
    """Names of options that a text reads."""
    return {one or other for one, other in READ.findall(text)}


@cache
def read_anywhere():
    asked = {field.name for field in dataclasses.fields(SplitRequest)}  # by `SplitRequest.of`
    return asked.union(*(read_in(path.read_text()) for path in CODE.rglob("*.py") if path != CODE / "command_line" / "options.py"))


def test_every_option_is_read_somewhere(script):
    common, own = set(option_names(Options)), read_in(Path(script.__file__).read_text())
    first_look = (CODE / "command_line" / "options.py").read_text()
    for field in option_fields(kind_of(script)):
        found = field.name in (read_anywhere() if field.name in common else own)
        looked_at = (f'_value_of(words, "{field.name}")', f"self.{field.name} ")
        assert found or any(look in first_look for look in looked_at), f"nothing reads --{field.name}"


def variants(kind):
    """The values of --variant, where a script has it."""
    return get_args(get_type_hints(kind).get("variant"))


def test_no_preset_names_what_does_not_exist(script):
    names = set(option_names(kind_of(script)))
    known = {"2D", "3D", *DATA_SETS, *(data.family for data in DATA_SETS.values()),
             *(protocol for data in DATA_SETS.values() for protocol in data.protocol_defaults),
             *(name + end for name in variants(kind_of(script)) for end in ("", "_2D", "_3D"))}
    for key, values in script.PRESETS.items():
        assert key in known and set(values) <= names


SSL4MIS = dict(model="unet", patch_size=(256, 256), batch_size=24, labeled_bs=12, max_iterations=30000, optimizer="sgd", base_lr=0.01,
               schedule="poly", val_every=200, steps_per_epoch=None, seed=1337, deterministic=1, dropout=1.0, labeled_choice="first")
SIMEPS = SSL4MIS | dict(batch_size=32, labeled_bs=16, optimizer="adam", schedule="plateau",
                          dice="linear", passes="apart")
VOLUMES = dict(model="vnet", batch_size=4, labeled_bs=2, max_iterations=6000, optimizer="sgd", base_lr=0.01, schedule="step", seed=1337,
               dice="squared", passes="joint", protocol="official")
LIKE_BRATS = VOLUMES | dict(model="unet_3D", patch_size=(96, 96, 96), max_iterations=30000, schedule="poly", val_every=200)
UNIMATCH = dict(model="deeplabv3plus_resnet50", batch_size=16, labeled_bs=8, optimizer="sgd", schedule="poly", dice="none")
ORGANS = VOLUMES | dict(model="vnet_32", patch_size=(128, 128, 64), schedule="poly")
HISTOLOGY = SSL4MIS | dict(batch_size=16, labeled_bs=8, labeled_num="10%", protocol="official", target="contour")
PROTOCOL = {
    "Synapse": ORGANS | dict(labeled_num="20%", max_iterations=2400, val_every=80),
    "AMOS": ORGANS | dict(labeled_num="5%", max_iterations=30900, val_every=1030),
    "LA": VOLUMES | dict(labeled_num="8", patch_size=(112, 112, 80), stride=(18, 18, 4), dice="foreground"),
    "BraTS2019": LIKE_BRATS | dict(labeled_num="25", stride=(64, 64, 64)),
    "Pancreas-CT": VOLUMES | dict(labeled_num="12", patch_size=(96, 96, 96), stride=(16, 16, 16), dice="foreground"),
    "nnunet": LIKE_BRATS | dict(labeled_num="all", stride=None),
    "Phantom3D": VOLUMES | dict(labeled_num="4", patch_size=(48, 48, 32), max_iterations=300, schedule="poly", val_every=50),
    "PROMISE12": SSL4MIS | dict(protocol="official"),
    "ISIC": SSL4MIS | dict(labeled_num="181", protocol="official", patch_size=(224, 224), batch_size=16, labeled_bs=8),
    "nnunet2D": SSL4MIS | dict(labeled_num="all"),
    "ACDC": SSL4MIS | dict(labeled_num="7", protocol="official"),
    "folder": SSL4MIS | dict(labeled_num="all", protocol="official"),
    "Phantom": SSL4MIS | dict(labeled_num="7", protocol="official", patch_size=(64, 64), batch_size=8, labeled_bs=4, max_iterations=350,
                           val_every=50),
    "NEU-Seg": SIMEPS | dict(labeled_num="10%", protocol="clean", base_lr=1e-3, max_iterations=47141, steps_per_epoch=59, val_every=59),
    "DAGM": SIMEPS | dict(labeled_num="10%", protocol="official", base_lr=2e-3, max_iterations=23970, steps_per_epoch=30, val_every=30),
    "MT": SIMEPS | dict(labeled_num="40%", protocol="clean", base_lr=2e-3, max_iterations=17371, steps_per_epoch=29, val_every=29),
    "VOC2012": UNIMATCH | dict(labeled_num="92", protocol="classic", patch_size=(321, 321), base_lr=1e-3, head_rate=10.0,
                               max_iterations=104880, val_every=1311),
    "Cityscapes": UNIMATCH | dict(labeled_num="186", patch_size=(801, 801), base_lr=5e-3, head_rate=1.0, max_iterations=83520,
                                  val_every=348),
    "CamVid": UNIMATCH | dict(labeled_num="10%", patch_size=(321, 321), base_lr=5e-3, head_rate=1.0, max_iterations=10000, val_every=200),
    "PhantomScenes": UNIMATCH | dict(labeled_num="16", model="deeplabv3plus_resnet18", patch_size=(97, 97), batch_size=8, labeled_bs=4,
                                     base_lr=0.02, max_iterations=600, val_every=100),
    "GlaS": HISTOLOGY,
    "CRAG": HISTOLOGY | dict(patch_size=(480, 480), batch_size=8, labeled_bs=4),
    "MoNuSeg": HISTOLOGY | dict(patch_size=(128, 128), batch_size=32, labeled_bs=16),
    "DSB2018": HISTOLOGY,
    "CrackForest": HISTOLOGY,
    "PhantomDefect": SSL4MIS | dict(labeled_num="20", patch_size=(96, 96), batch_size=8, labeled_bs=4, max_iterations=400, val_every=50),
}
AUTHORS_OF_SIMEPS = dict(max_iterations=35341, patience=40)
"""On NEU-Seg, of the methods that they ran beside their own: 599 epochs, and less patience."""
MEAN_TEACHER = dict(consistency=0.1, consistency_rampup=200.0, consistency_start=1000, ema_decay=0.99, ema_buffers=False, noise=0.1)
SIM_EPS = dict(num_branches=3, sim_stages="o", sim_weight=50.0, sim_rise="none", combine="max", consistency=0.1,
               consistency_rampup=200.0, rampup_unit=150)
UA_MT = dict(consistency=0.1, consistency_rampup=200.0, ema_decay=0.99, noise=0.1, teacher_passes=8, uncertainty_max="ln2",
             consistency_norm="2", consistency_rows="unlabeled")
RAMP = dict(consistency=0.1, consistency_rampup=200.0)
CROSS_CONSISTENCY = RAMP | dict(model="unet_cct", feature_noise=0.3, feature_rate=0.3, feature_attention=(0.7, 0.9), stop_grad_main=False)
SEMSIM = dict(decoder_weight=0.5, intra_weight=0.25, cross_weight=0.25, threshold=0.95, regions=4, sharpness=1000.0, feature_dropout=0.5,
              affinity_factor=0.5, semantic_mask="decoder", semantic_targets="hard", agreement="softmax", patch_size=(224, 224),
              batch_size=16, labeled_bs=8, schedule="poly_next")
COPY_PASTE = dict(u_weight=0.5, largest_component=True, ema_decay=0.99, passes="apart")
DISPLACED = dict(model2="swin_unet", patch_size=(224, 224), batch_size=16, labeled_bs=8, schedule="poly_next", grid=(4, 4), candidates=4,
                 displaced_share=0.5)
AC_MT = RAMP | dict(ambiguity="entropy", ema_decay=0.99, noise=0.1, entropy_start=0.75, entropy_end=None, certainty=0.1,
                    clear_entropy="own")
AD_MT = dict(consistency=2.0, ema_decay=0.99, own_class="mixed")
AD_MT_3D = AD_MT | dict(consistency_rampup=40.0, confidence=0.8, pseudo_loss="ce", max_iterations=15000, schedule="poly", dice="squared")
CROSS_MATCH = dict(confidence=0.95, confidence_rise=0.0, confidence_unit="1", distillation=0.5, eta=0.3, feature_dropout=(0.25, 0.75))
CO_BIONET = dict(consistency=1.0, consistency_rampup=40.0, adversarial_weight=0.01, critic_lr=1e-4, max_iterations=15000,
                 schedule="cosine")
DSSN = dict(ema_decay=0.996, strong_weight=0.5, feature_weight=0.5, alignment_weight=0.01, grey=0.2, mix="same", dice="none")
ST_PLUS_PLUS = dict(model="deeplabv3plus_resnet50_stride8", batch_size=16, retrainings=2, scales=(0.5, 0.75, 1.0, 1.5, 2.0), grey=0.2,
                    jitter=(0.5, 0.5, 0.5, 0.25), blur=0.5, cutout=0.5, schedule="poly_next")
STI = dict(model="deeplabv3plus_resnet50_stride8", least=0.03, pooling="soft", scales=(0.5, 0.75, 1.0, 1.5, 2.0), grey=0.2)
UAPS = RAMP | dict(model="unet_cct", uncertainty_weight=0.1, uncertainty_ramp=True, decoders=3, mixing="drawn", damping="mean")
OWN = {
    "train_Supervised": {
        "NEU-Seg": dict(batch_size=16, steps_per_epoch=20, val_every=20, max_iterations=11980),
        "MT": dict(batch_size=16, steps_per_epoch=9, val_every=9, max_iterations=5391),
        "DAGM": dict(batch_size=16),
        "BraTS2019": dict(batch_size=2),
        "ACDC": dict(augment="published"), "folder": {}, "LA": {},
    },
    "train_MeanTeacher": dict.fromkeys(("ACDC", "folder", "DAGM", "MT"), MEAN_TEACHER) | {
        "NEU-Seg": MEAN_TEACHER | AUTHORS_OF_SIMEPS,
        "LA": MEAN_TEACHER | dict(consistency_start=0, consistency_rampup=40.0),
        "BraTS2019": MEAN_TEACHER | dict(consistency_start=0),
    },
    "train_UAMT": {
        "ACDC": UA_MT, "BraTS2019": UA_MT, "LA": UA_MT | dict(consistency_rampup=40.0, labeled_num="16"),
    },
    "train_ACMT": dict.fromkeys(("ACDC", "BraTS2019"), AC_MT) | {
        "LA": AC_MT | dict(consistency_rampup=40.0, max_iterations=8000, schedule="poly", dice="squared"),
    },
    "train_ADMT": {
        "ACDC": AD_MT | dict(consistency_rampup=50.0, longest_turn=50, confidence=0.95, pseudo_loss="dice"),
        "LA": AD_MT_3D | dict(longest_turn=19), "Pancreas-CT": AD_MT_3D | dict(longest_turn=14),
    },
    "train_CrossMatch": {
        "ACDC": CROSS_MATCH | dict(max_iterations=29400, nesterov=True, dice="smooth"),
        "LA": CROSS_MATCH | dict(confidence=0.75, confidence_rise=0.25, confidence_unit="ln2", distillation=1.0, stretch=17 / 14,
                                 max_iterations=14000, optimizer="adamw", base_lr=1e-3, schedule="poly_next"),
    },
    "train_ICT": {
        "ACDC": RAMP | dict(ict_alpha=0.2, ema_decay=0.99), "BraTS2019": RAMP | dict(ict_alpha=0.2, ema_decay=0.99),
        "NEU-Seg": RAMP | dict(ict_alpha=0.1, ema_decay=0.99) | AUTHORS_OF_SIMEPS,
    },
    "train_DCT": {"ACDC": RAMP | dict(gradient="half"), "NEU-Seg": RAMP | dict(gradient="full") | AUTHORS_OF_SIMEPS},
    "train_DAN": dict.fromkeys(("ACDC", "BraTS2019"), RAMP | dict(DAN_lr=1e-4)) | {
        "NEU-Seg": RAMP | dict(DAN_lr=1e-4) | AUTHORS_OF_SIMEPS,
    },
    "train_EntMin": dict.fromkeys(("ACDC", "folder", "BraTS2019", "NEU-Seg"), RAMP | dict(entropy_rows="all")),
    "train_CPS": {
        "ACDC": RAMP | dict(schedule="poly_next", pseudo_loss="ce", cps_on_labelled=False, init="default"),
        "BraTS2019": RAMP | dict(schedule="poly_next", pseudo_loss="ce", cps_on_labelled=False, init="kaiming_xavier"),
        "NEU-Seg": RAMP | dict(pseudo_loss="hybrid", cps_on_labelled=True, init="default", patience=50),
        "VOC2012": dict(consistency=1.5, consistency_rampup=0.0, pseudo_loss="ce", cps_on_labelled=True, schedule="poly_next"),
        "Cityscapes": dict(consistency=6.0, consistency_rampup=0.0, cps_on_labelled=True, schedule="poly_next"),
    },
    "train_RDrop": dict.fromkeys(("ACDC", "BraTS2019"), RAMP | dict(consistency=4.0, schedule="poly_next", rdrop_axis="class",
                                                                    rdrop_models=1, rdrop_rows="unlabeled")),
    "train_CrossTeaching": {
        "ACDC": RAMP | dict(model2="swin_unet", patch_size=(224, 224), batch_size=16, labeled_bs=8, schedule="poly_next", optimizer2="same",
                            base_lr2=None),
    },
    "train_URPC": {
        "ACDC": RAMP | dict(model="unet_urpc"), "BraTS2019": RAMP | dict(model="unet_3D_dv_semi", base_lr=0.1),
        "LA": dict(model="unet_3D_dv_semi", consistency_rampup=40.0),
    },
    "train_CCT": dict.fromkeys(("ACDC", "folder", "DAGM", "MT"), CROSS_CONSISTENCY) | {
        "NEU-Seg": CROSS_CONSISTENCY | AUTHORS_OF_SIMEPS | dict(base_lr=2e-3),
    },
    "train_SemSim": {
        "ACDC": SEMSIM | dict(max_iterations=44100), "PROMISE12": SEMSIM | dict(max_iterations=34000, labeled_num="2"),
        "ISIC": SEMSIM | dict(max_iterations=62100, labeled_num="181"),
    },
    "train_FixMatch": {
        "ACDC": RAMP | dict(ema_decay=0.99, confidence=0.95, jitter=(0.8, 0.8, 0.8, 0.2), blur=0.0, cutout=0.0),
        "VOC2012": dict(consistency=1.0, consistency_rampup=0.0, jitter=(0.5, 0.5, 0.5, 0.25), blur=0.5),
    },
    "train_FixMatchStandardAugs": {
        "ACDC": RAMP | dict(ema_decay=0.99, confidence=0.8, jitter=(0.8, 0.8, 0.8, 0.2), blur=0.0, cutout=0.0),
    },
    "train_FixMatchCTA": {
        "ACDC": RAMP | dict(ema_decay=0.99, confidence=0.0, min_foreground=0.02, schedule="poly_next"),
    },
    "train_BCP": {
        "ACDC": COPY_PASTE | dict(pre_iterations=10000, schedule="constant", part_dice="batch", ema_buffers=True, box=2 / 3),
        "LA": COPY_PASTE | dict(pre_iterations=2000, max_iterations=15000, part_dice="sample", ema_buffers=False, batch_size=8,
                                labeled_bs=4),
        "Pancreas-CT": COPY_PASTE | dict(optimizer="adam", base_lr=1e-3, schedule="constant", batch_size=8, labeled_bs=4,
                                         pre_iterations=1800, max_iterations=5000),
    },
    "train_ABD": {
        "ACDC": COPY_PASTE | dict(pre_iterations=10000, schedule="constant", part_dice="batch", grid=(4, 4), candidates=4, plain=0.0),
    },
    "train_ABDCrossTeaching": {
        "ACDC": RAMP | DISPLACED | dict(displaced_weight=2.0, displaced_until=20000),
        "PROMISE12": RAMP | DISPLACED | dict(displaced_weight=1.0, displaced_until=30000, labeled_num="2"),
    },
    "train_MCF": {
        "LA": dict(model2="resvnet", correction=0.5, temperature=0.1, consistency=0.1, consistency_rampup=40.0, labeled_num="16",
                   schedule="step_late", augment="crop"),
    },
    "train_DHC": {
        **dict.fromkeys(("Synapse", "AMOS"), dict(model="vnet_32", patch_size=(128, 128, 64), base_lr=0.03, schedule="poly_epochs",
                                                  consistency=0.1)),
        "BraTS2019": dict(model="vnet_32", base_lr=0.03, schedule="poly_epochs", consistency=0.1, difficulty_keep=0.98, frequency_keep=0.99,
                          least_count=0.0),
    },
    "train_SCPNet": {
        name: dict(model="unet_32", dice="halved", base_lr=0.1, max_iterations=40000, consistency=0.1, consistency_rampup=1000.0,
                   counted="agreement") for name in ("ACDC", "PROMISE12")
    },
    "train_CAML": {
        "LA": dict(model="vnet", model2="vnet_cma", consistency=1.0, consistency_rampup=40.0, supervised_weight=0.5,
                   correlation_weight=0.05, temperature=0.1, correlation_temperature=0.1, memory_per_class=256,
                   positions_per_class=12800, max_iterations=15000, schedule="constant"),
    },
    "train_MLBSeg": {
        "PROMISE12": dict(patch_size=(144, 144), batch_size=3, labeled_bs=2, optimizer="sgd", base_lr=0.005, schedule="inverse",
                          weight_decay=5e-4, clip=0.2, noise=0.02, ema_decay=0.99, labeled_num="2"),
    },
    "train_DeSCO": {
        "LA": dict(labeled_num="5", consistency=0.1, consistency_rampup=40.0, further_passes=8, decay=0.95, decay_every=1000,
                   decay_length=40, schedule2="constant", annotation="orthogonal"),
    },
    "train_PatchCL": {
        "ACDC": dict(base_lr=0.007, pre_lr=1e-3, consistency=4.0, contrast_weight=0.5, temperature=0.2, spread=4.0, keys=4096,
                     ema_decay=0.999, least=0.25),
    },
    "train_CoBioNet": {
        "LA": CO_BIONET | dict(supervised_weight=0.7, threshold=0.4, augment="crop"),
        "Pancreas-CT": CO_BIONET | dict(supervised_weight=1.0, threshold=0.2, augment="crop"),
    },
    "train_UniMatch": {
        "ACDC": dict(confidence=0.95, views=2, strong_weight=0.5, feature_weight=0.5, feature_dropout=0.5, min_kept=0,
                     unsupervised="dice", mix="other", jitter=(0.5, 0.5, 0.5, 0.25), blur=0.5, max_iterations=29400),
        "VOC2012": dict(confidence=0.95, unsupervised="ce", mix="same", grey=0.2, min_kept=0),
        "Cityscapes": dict(confidence=0.0, unsupervised="ce", mix="same", grey=0.2, min_kept=800000),
    },
    "train_DSSN": {
        "ACDC": dict(dice="none", mix="shuffled"),
        "VOC2012": DSSN | dict(selection="class_aware", patch_size=(513, 513), base_lr=2e-3, max_iterations=131100, min_kept=0,
                               operations=True),
        "Cityscapes": DSSN | dict(selection="none", warmup_epochs=5, steps_per_epoch=348, min_kept=800000, operations=False),
    },
    "train_STPlusPlus": {
        "VOC2012": ST_PLUS_PLUS | dict(recipe="scale_crop_400", max_iterations=105280),
        "Cityscapes": ST_PLUS_PLUS | dict(recipe="scale_crop_2048", patch_size=(721, 721), base_lr=4e-3, head_rate=10.0,
                                          max_iterations=83520),
    },
    "train_STI": {
        "VOC2012": STI | dict(recipe="scale_crop_400", max_iterations=104880),
        "Cityscapes": STI | dict(recipe="scale_crop_2048", patch_size=(721, 721), base_lr=4e-3, head_rate=10.0, max_iterations=55680),
    },
    "train_ReCo": {
        "NEU-Seg": RAMP | dict(contrast_weight=0.1, ema_decay=0.99, confidence=0.7, hard_below=0.97, temperature=0.5, queries=256,
                               negatives=256, vector=128, batch_size=24, labeled_bs=12, steps_per_epoch=127, val_every=127,
                               max_iterations=76073, patience=50),
    },
    "train_UCC": {"NEU-Seg": RAMP | dict(model="unet_ucc", damping="mean", feature_noise=0.3, own_mix=0.2, cross_mix=0.3, patience=50)},
    "train_UAPS": {
        "NEU-Seg": UAPS | dict(rampup_unit=80),
        "DAGM": UAPS | dict(rampup_unit=60, base_lr=1e-3, steps_per_epoch=29, val_every=29, max_iterations=23171),
        "MT": UAPS | dict(rampup_unit=50, uncertainty_weight=1.0, uncertainty_ramp=False, steps_per_epoch=19, val_every=19,
                          max_iterations=15181),
    },
    "train_CDMA": {"ACDC": dict(model="unet_cdma", consistency=0.1, labels_first=0.1, temperature=10.0, schedule="quarters")},
    "train_IIU": {
        "ACDC": dict(model="unet_ds", consistency=0.1, consistency_rampup=300.0, ramp="whole", terms="inter,intra,shape", noise=0.5,
                     feature_rate=0.5, ema_decay=0.99, dilated=2, dice="flat", passes="apart"),
    },
    "train_simEps": {
        "NEU-Seg": SIM_EPS,
        "DAGM": SIM_EPS | dict(sim_stages="e,d", sim_weight=200.0, rampup_unit=60),
        "MT": SIM_EPS | dict(sim_weight=200.0, combine="mean", rampup_unit=50),
    },
}
"""As published (docs/methods). What is not published (simEps on ACDC, Phantom) is ours to choose and stands in no table."""


def test_every_data_set_has_its_protocol_here():
    assert set(PROTOCOL) == set(DATA_SETS)


@pytest.mark.parametrize("name, data", [(name, data) for name in OWN for data in OWN[name]])
def test_defaults_are_the_published_ones(name, data, tmp_path):
    options = defaults(importlib.import_module(name), data, tmp_path)
    for option, value in (PROTOCOL[data] | OWN[name][data]).items():
        assert getattr(options, option) == value, option


def test_defaults_resolve_for_every_data_set(script, tmp_path):
    """What a preset does not change is the data set's protocol. Of data sets of one kind that no preset of the script names, one."""
    named = [data for data in DATA_SETS if data in script.PRESETS or script.__name__ == "train_Supervised"]
    kinds = {(found.dimensions, found.family, name.startswith("Phantom")): name for name, found in DATA_SETS.items()}
    for data in dict.fromkeys([*named, *kinds.values()]):
        options = defaults(script, data, tmp_path)
        keys = (f"{DATA_SETS[data].dimensions}D", DATA_SETS[data].family, "Phantom" * data.startswith("Phantom"), data)
        preset = {name for key in keys for name in script.PRESETS.get(key, {})}
        for option in PROTOCOL[data].keys() - preset:
            assert getattr(options, option) == PROTOCOL[data][option], (data, option)


def test_the_command_line_wins(tmp_path):
    words = ["--dataset", "MT", "--root_path", str(tmp_path), "--sim_weight", "3", "--combine=max", "--batch-size", "6"]
    options = parse(train_simEps.Method, train_simEps.PRESETS, words)
    assert (options.sim_weight, options.combine, options.batch_size, options.rampup_unit) == (3.0, "max", 6, 50)
    assert options.resolved.defaults["sim_weight"] == 200.0


def test_the_published_stride_fits_a_smaller_patch(tmp_path):
    words = ["--dataset", "BraTS2019", "--root_path", str(tmp_path), "--patch_size", "96", "48", "32"]
    assert parse(train_simEps.Method, train_simEps.PRESETS, words).stride == (64, 48, 32)
