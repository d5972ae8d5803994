"""Prepares data: official downloads to the layout we train on, and a check of any data folder. And weights that SSL4MIS trained, and a
picture of the views that methods with weak and strong augmentation train on.

    python code/prepare.py acdc --raw DOWNLOAD --out data/ACDC
    python code/prepare.py la --raw DOWNLOAD --out data/LA            likewise brats, promise12, monuseg, synapse, amos, voc (SBD's masks)
    python code/prepare.py --check data/ACDC
    python code/prepare.py weights FILE --model unet --dataset ACDC
    python code/prepare.py views data/ACDC data/NEU-Seg --out views.png
    python code/prepare.py labels EXPORT --images D              masks of what was drawn in COCO, LabelMe, VIA, Label Studio, ImageJ

Exit codes: 0 done, perhaps with remarks; 2 bad arguments or data, everything wrong is listed; 3 a file could not be written;
75 interrupted (run the same command again, finished files are kept).
"""
from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from shlex import quote

from dataloaders.catalog import DATA_SETS, named, resolve
from dataloaders.errors import UserError
from dataloaders.layouts.phantom import PhantomSource
from preparation.acdc import convert_acdc
from preparation.brats import convert_brats
from preparation.check import check_folder
from preparation.la import convert_la
from preparation.monuseg import convert_monuseg
from preparation.organs import convert_amos, convert_synapse
from preparation.promise12 import convert_promise12
from preparation.voc import convert_voc
from system.signals import heeded
from system.streams import lasting

CONVERSIONS = {
    "acdc": ("ACDC", convert_acdc, "the ACDC challenge's NIfTI files to h5 slices and volumes",
             "the unpacked download: patient001/, ... in it or in its training/"),
    "la": ("LA", convert_la, "the NRRD files of the Atrial Segmentation Challenge to h5 volumes, as UA-MT did",
           "the unpacked download: a folder with lgemri.nrrd and laendo.nrrd a case, in it or in its Training Set/"),
    "brats": ("BraTS2019", convert_brats, "the NIfTI files of BraTS 2019 to h5 volumes (FLAIR, whole tumour), as SSL4MIS did",
              "the unpacked training data: HGG/ and LGG/"),
    "promise12": ("PROMISE12", convert_promise12, "the MetaImage files of PROMISE12 to h5 slices and volumes",
                  "the unpacked training data: Case00.mhd, Case00.raw, Case00_segmentation.mhd, ..."),
    "voc": ("VOC2012", convert_voc, "SBD's MATLAB files to masks beside VOC's own",
            "the unpacked SBD: benchmark_RELEASE/dataset/cls/*.mat"),
    "synapse": ("Synapse", convert_synapse, "the NIfTI files of Synapse (BTCV) to h5 volumes of 160x160x80 voxels, as DHC did",
                "the unpacked download: img/img0001.nii.gz and label/label0001.nii.gz, ... in it or in its RawData/Training/"),
    "amos": ("AMOS", convert_amos, "the NIfTI files of AMOS 2022 to h5 volumes of 160x160x80 voxels, as DHC did",
             "the unpacked download: imagesTr/, labelsTr/, imagesVa/ and labelsVa/, in it or in its amos22/"),
    "monuseg": ("MoNuSeg", convert_monuseg, "the TIFF and XML files of MoNuSeg to PNG, a number a nucleus, with patches of training images",
                "the unpacked downloads: MoNuSeg 2018 Training Data/ and MoNuSegTestData/"),
}
"""By command: the data set, what converts it, from what to what, and what --raw holds."""
REPOSITORY = Path(__file__).resolve().parent.parent


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", type=Path, metavar="FOLDER", help="read everything in a data folder and list all that is wrong")
    parser.add_argument("--dataset", metavar="NAME",
                        help=f"with --check: the data set it holds, where the layout does not tell ({', '.join(DATA_SETS)})")
    cores = os.cpu_count() or 1
    processes = f"processes that work at once (default: one a core, {cores} here)"
    parser.add_argument("--workers", type=positive, default=cores, metavar="N", help=processes)
    commands = parser.add_subparsers(dest="command", metavar="{" + ",".join([*CONVERSIONS, "weights", "views", "labels"]) + "}")
    for command, (name, _, change, holds) in CONVERSIONS.items():
        conversion = commands.add_parser(
            command, help=f"convert {change}",
            description=f"Converts {change}. Finished files are kept, so the same command goes on where it stopped.")
        conversion.add_argument("--workers", type=positive, default=argparse.SUPPRESS, metavar="N", help=processes)
        conversion.add_argument("--raw", type=Path, required=True, metavar="DOWNLOAD", help=holds)
        conversion.add_argument("--out", type=Path, default=REPOSITORY / "data" / name, metavar="FOLDER",
                                help=f"where the files go (default: data/{name} of the repository)")
    weights_arguments(commands.add_parser(
        "weights", help="make a run for the testers of weights that SSL4MIS's code trained",
        description="Makes a finished run, which test_2D.py and test_3D.py take, of a file of weights (state dict) of SSL4MIS's networks."))
    views_arguments(commands.add_parser(
        "views", help="draw weak and strong views of a data set's images",
        description="Draws training images with their weak views and the strong ones of FixMatch and SemSim; outlines are the labels."))
    labels_arguments(commands.add_parser(
        "labels", help="make masks of what was drawn in an annotation tool",
        description="Makes masks of an export of COCO, LabelMe, VIA, Label Studio or ImageJ, and a picture of the first twenty."))
    given = parser.parse_args()
    if (given.check is None) == (given.command is None):
        parser.error("give either a conversion (acdc --raw DOWNLOAD --out FOLDER, for example) or --check FOLDER")
    return given


COMMON = ("dataset", "root_path", "model", "protocol", "fold", "folds", "split_seed", "patch_size", "stride")
"""Options of `weights` that are those of the training scripts."""


def weights_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="what torch.save wrote (.pth, .pt); read without running code in it")
    parser.add_argument("--model", required=True, help="the network: unet, unet_ds, unet_urpc, unet_cct, unet_3D, unet_3D_dv_semi, vnet")
    parser.add_argument("--name", help="what results call the method (default: the file's name)")
    parser.add_argument("--labeled_num", help="how many labelled cases it was trained with, if you know it; it stands in the results")
    parser.add_argument("--dataset", metavar="NAME", default=argparse.SUPPRESS,
                        help="the data set on which it is tested, with its channels and classes (found as in training where not given)")
    parser.add_argument("--root_path", metavar="FOLDER", help="where the data set lies")
    parser.add_argument("--protocol", help="which split of the data set")
    parser.add_argument("--fold", metavar="K", help="test on fold K, from 0")
    parser.add_argument("--folds", metavar="N", help="number of folds")
    parser.add_argument("--split_seed", metavar="S", help="seed of folds and of splits that are drawn")
    parser.add_argument("--patch_size", nargs="+", metavar="SIDE", help="size of the images in training (default: as published)")
    parser.add_argument("--stride", nargs="+", metavar="STEP", help="volumes: step of the sliding window (default: as published)")


def views_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="folders of data sets of images")
    parser.add_argument("--out", type=Path, default=Path("views.png"), metavar="FILE", help="the picture (default: views.png)")
    parser.add_argument("--images", type=positive, default=2, metavar="N", help="images of each data set (default: 2)")
    parser.add_argument("--dataset", metavar="NAME", default=argparse.SUPPRESS, help="the data set, where the layout does not tell")


def labels_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("export", type=Path, metavar="EXPORT", help="the JSON file, or the folder of files, that the tool wrote")
    parser.add_argument("--images", type=Path, required=True, metavar="D", help="the folder that holds images/; masks go to its masks/")
    parser.add_argument("--replace", action="store_true", help="write masks anew that are there and differ")
    parser.add_argument("--empty", action="store_true", help="an image without a region shows background alone (else it stays unlabelled)")
    parser.add_argument("--attribute", metavar="NAME", help="VIA: the attribute of a region that holds its class, where there are several")
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="the picture to look at (default: labels.png in D)")

def positive(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return number


def check(folder: Path, dataset: str | None, workers: int) -> int:
    """Prints problems and remarks; returns the exit code."""
    if dataset is None and PhantomSource.fits(folder):
        dataset = "Phantom"
    if dataset is not None and not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder; give the folder of {named(dataset).name}.")
    data, root, why = resolve(dataset, folder, REPOSITORY)
    print(why)
    report = check_folder(data, root, workers)
    for kind, sentences in (("remark", report.remarks), ("problem", report.problems)):
        for sentence in sentences:
            print(f"{kind}: {sentence}")
    sizes = ", ".join(f"{count} {what}" for what, count in report.sizes.items())
    print(f"{data.name}: {sizes}. {len(report.problems)} problems, {len(report.remarks)} remarks.")
    return 2 if report.problems else 0


def convert(command: str, raw: Path, out: Path, workers: int) -> int:
    """Converts, prints remarks and the next command; returns the exit code."""
    name, conversion = CONVERSIONS[command][:2]
    for remark in conversion(raw, out, workers):
        print(f"remark: {remark}")
    print(f"{name} is in {out}. To look it over: python code/prepare.py --check {quote(str(out))}")
    return 0


def weights(given: argparse.Namespace) -> int:
    """Makes the run, prints remarks and the next command; returns the exit code."""
    # Here alone: torch takes seconds to load, in each process of a conversion too.
    from command_line.options import Options, parse
    from evaluation.foreign_weights import make_run

    words: list[str] = []
    for option in COMMON:
        value = getattr(given, option, None)
        if value is not None:
            words += [f"--{option}", *(value if isinstance(value, list) else [str(value)])]
    options = parse(Options, {}, words)
    print(options.resolved.why)
    folder, remarks = make_run(given.file, options, given.name or given.file.stem, given.labeled_num)
    print(f"Folder: {folder}", *remarks, sep="\n")
    return 0


def views(folders: list[Path], dataset: str | None, out: Path, images: int) -> int:
    """Writes the picture; returns the exit code."""
    from preparation.views import views_sheet

    if not out.resolve().parent.is_dir():
        raise UserError(f"{out}: there is no folder {out.resolve().parent}; make it, or give --out another place.")
    views_sheet(folders, dataset, out, images)
    print(f"Picture: {out}")
    return 0


def labels(given: argparse.Namespace) -> int:
    """Writes masks and the picture, prints remarks and the next command; returns the exit code."""
    from preparation.labels import convert_labels, sheet

    written = convert_labels(given.export, given.images, given.replace, given.empty, given.attribute)
    for remark in written.remarks:
        print(f"remark: {remark}")
    print(f"{len(written.masks)} masks written to {given.images / 'masks'}; classes: {', '.join(written.classes)}.")
    if written.masks:
        file = given.sheet or given.images / "labels.png"
        sheet(written, file)
        print(f"Picture of the first {min(len(written.masks), 20)}: {file}. Look at it; then: "
              f"python code/prepare.py --check {quote(str(given.images))}")
    return 0

def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    with lasting():
        return finished(arguments())


def finished(given: argparse.Namespace) -> int:
    """Does what was asked; returns the exit code."""
    for number in heeded("SIGTERM", "SIGHUP"):
        signal.signal(number, interrupted)
    try:
        if given.check is not None:
            return check(given.check, given.dataset, given.workers)
        if given.command == "weights":
            return weights(given)
        if given.command == "labels":
            return labels(given)
        if given.command == "views":
            return views(given.folders, given.dataset, given.out, given.images)
        return convert(given.command, given.raw, given.out, given.workers)
    except UserError as error:
        print(error, file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        print("Interrupted. Run the same command again; finished files are kept.", file=sys.stderr)
        return 75


if __name__ == "__main__":
    sys.exit(main())
