"""One's own volumes in the raw layout of nnU-Net, versions 1 and 2.

    root/dataset.json                          labels, channel_names (v1: modality), file_ending (v1: .nii.gz)
    root/imagesTr/CASE_0000.nii.gz             channel 0; CASE_0001.nii.gz is channel 1, ...
    root/labelsTr/CASE.nii.gz                  class ids; a case without a label is unlabelled
    root/imagesUn/CASE_0000.nii.gz             optional: more unlabelled cases
    root/imagesTs/, root/labelsTs/             optional: test cases; those without a label are not used

With one channel, CASE.nii.gz is found too where no file is called CASE_0000.nii.gz (Medical Segmentation Decathlon).
Intensities: `volume_files.py`; a channel called CT is clipped, one called noNorm stays as it is.
"""
from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np

from dataloaders.description import Case, DataSet, Part
from dataloaders.errors import Problems, UserError
from dataloaders.layouts.common import MOST_TEXT, checked_label, leaves_folder, regular, unreadable, what_lies_there
from dataloaders.layouts.nifti import ENDINGS
from dataloaders.layouts.own import OWN_SCALE, groups_of, own_parts
from dataloaders.layouts.volume_files import VolumeFiles
from dataloaders.listing import Listing, composed, entries, listing, states_of, to_do, with_ending
from dataloaders.masks import misplaced_background
from dataloaders.settings import BY_WINDOW, OWN_VOLUMES, SSL4MIS

DESCRIPTION = "dataset.json"
SCHEMES = {"ct": "ct", "nonorm": "none"}
"""Scaling by the name of a channel, in lower case; "zscore" for every other name."""
OTHER_SCHEMES = ("rescale_to_0_1", "rgb_to_0_1")
"""Names for which nnU-Net scales otherwise than is done here."""
FOLDERS: dict[Part, tuple[tuple[str, str | None], ...]] = {
    "train": (("imagesTr", "labelsTr"), ("imagesUn", None)), "val": (), "test": (("imagesTs", "labelsTs"),)}


@dataclass(frozen=True)
class Description:
    """What dataset.json says."""

    classes: tuple[str, ...]
    ignored: int | None
    """The label value that means: not counted."""
    channels: tuple[str, ...]
    ending: str
    number: int | None = None
    """numTraining."""
    training: tuple[tuple[str, str | None], ...] | None = None
    """The files of images and labels that "training" (version 1) or "dataset" (version 2) lists; the folders decide, this is compared."""
    test: tuple[str, ...] | None = None
    """Those that "test" lists."""
    named_files: bool = False
    """Whether there is a "dataset", which names files anywhere."""


def read_description(file: Path) -> Description:
    """Raises `UserError` with everything that is wrong with the file."""
    try:
        regular(file)
        if file.stat().st_size > MOST_TEXT:
            raise UserError(f"{file}: {file.stat().st_size} bytes; such a description is not read.")
        content = json.loads(file.read_text(encoding="utf-8-sig"), object_pairs_hook=once_each)
    except UnicodeDecodeError:
        raise UserError(f"{file}: not a text in UTF-8; {what_lies_there(file)}") from None
    except OSError as error:
        raise unreadable(file, error) from None
    except (ValueError, RecursionError) as error:
        start = file.read_bytes()[:512]
        told = what_lies_there(file) if not start or b"git-lfs" in start else f"no valid JSON ({error}); mend it."
        raise UserError(f"{file}: {told}") from None
    if not isinstance(content, dict):
        raise UserError(f"{file}: holds a {type(content).__name__}; expected an object with labels and channel_names.")
    problems = Problems()
    labels = found(content, ("labels",), '{"background": 0, "tumour": 1}', file, problems)
    channels = found(content, ("channel_names", "modality"), '{"0": "MRI"}', file, problems)
    ending = content.get("file_ending", ".nii.gz")
    if not isinstance(ending, str) or ending.lower() not in ENDINGS:
        problems.add(f"{file}: file_ending is {ending!r}; volumes are read from {', '.join(ENDINGS)}. Convert the files, or mend the key.")
    classes, ignored = classes_of(labels, file, problems) if labels else ((), None)
    names = channels_of(channels, file, problems) if channels else ()
    problems.raise_any(str(file))
    return Description(classes, ignored, names, ending.lower(), *listed_in(content))


def once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; raises ValueError where a key stands twice, of which JSON readers take the last in silence."""
    twice = next((key for key, count in Counter(key for key, _ in pairs).items() if count > 1), None)
    if twice is not None:
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return dict(pairs)


def listed_in(content: dict) -> tuple[int | None, tuple[tuple[str, str | None], ...] | None, tuple[str, ...] | None, bool]:
    """What a description says of its cases: their number, files of training, files of test, whether files are named by case."""
    number, training, test, dataset = (content.get(key) for key in ("numTraining", "training", "test", "dataset"))
    pairs: list[tuple[str, str | None]] = []
    for entry in training if isinstance(training, list) else dataset.values() if isinstance(dataset, dict) else []:
        images = entry.get("image", entry.get("images")) if isinstance(entry, dict) else entry
        label = entry.get("label") if isinstance(entry, dict) else None
        if isinstance(images, list) and images and isinstance(images[0], str):
            label = images[1] if len(images) == 2 and not isinstance(entry, dict) else label
            images = images[0]
        if isinstance(images, str):
            pairs.append((images, label if isinstance(label, str) else None))
    tested = [entry if isinstance(entry, str) else entry.get("image") if isinstance(entry, dict) else None
              for entry in (test if isinstance(test, list) else [])]
    return (int(str(number)) if str(number).isdecimal() else None, tuple(pairs) if pairs else None,
            tuple(entry for entry in tested if isinstance(entry, str)) or None, isinstance(dataset, dict))


def found(content: dict, keys: tuple[str, ...], example: str, file: Path, problems: Problems) -> dict | None:
    """The object under the first of `keys` that is there."""
    key = next((key for key in keys if key in content), None)
    if key is None:
        here = ", ".join(map(str, list(content)[:8])) or "nothing"
        problems.add(f"{file}: the key {keys[0]!r} is missing (found: {here}); add it, for example \"{keys[0]}\": {example}.")
        return None
    if not isinstance(content[key], dict) or not content[key]:
        problems.add(f"{file}: {key!r} is {str(content[key])[:60]!r}; expected an object such as {example}.")
        return None
    return content[key]


def classes_of(labels: dict, file: Path, problems: Problems) -> tuple[tuple[str, ...], int | None]:
    """Class names in the order of their values, and the value of "ignore"; {"name": value} or, in version 1, {"value": "name"}."""
    if all(isinstance(name, str) and name.isdecimal() and isinstance(value, str) for name, value in labels.items()):
        labels = {name: int(value) for value, name in labels.items()}
        if len(labels) != len(set(labels.values())):
            problems.add(f"{file}: two of the labels have one value ({labels}); give each its own.")
    regions = [name for name, value in labels.items() if isinstance(value, list | tuple)]
    if regions:
        problems.add(f"{file}: the label {regions[0]!r} is a region, {labels[regions[0]]}; labels that overlap are not supported. "
                     "Give every class one value of its own in the label files and here.")
        return (), None
    wrong = [name for name, value in labels.items() if not isinstance(value, int) or isinstance(value, bool)]
    if wrong:
        problems.add(f"{file}: the label {wrong[0]!r} has the value {labels[wrong[0]]!r}; expected a whole number.")
        return (), None
    ignored = next((value for name, value in labels.items() if name.lower() == "ignore"), None)
    named = {value: name for name, value in labels.items() if name.lower() != "ignore"}
    if sorted(named) != list(range(len(named))) or len(named) < 2 or len(named) != len(labels) - (ignored is not None):
        problems.add(f"{file}: the labels have the values {', '.join(map(str, sorted(named)))}; expected 0 (background), 1, 2, ... "
                     "without gaps, at least two, each once. Renumber them here and in the label files.")
    elif ignored is not None and not len(named) <= ignored <= 255:
        problems.add(f"{file}: \"ignore\" is {ignored}; expected a value above all classes, {len(named)} to 255.")
    elif len(named) > 255:
        problems.add(f"{file}: {len(named)} classes; at most 255 are supported.")
    elif later := misplaced_background([named[value] for value in sorted(named)]):
        problems.add(f"{file}: {named[later]!r} has the value {later}, and 0 is {named[0]!r}; 0 is what counts as background. Give the "
                     "background 0, here and in the label files.")
    return tuple(named[value] for value in sorted(named)), ignored


def channels_of(channels: dict, file: Path, problems: Problems) -> tuple[str, ...]:
    if sorted(channels) != sorted(str(k) for k in range(len(channels))):
        problems.add(f"{file}: the channels are numbered {', '.join(map(str, channels))}; expected 0, 1, 2, ... as in the files' names.")
        return ()
    return tuple(str(channels[str(k)]) for k in range(len(channels)))


def as_told(data: DataSet, told: Description) -> DataSet:
    """The description with what dataset.json says of classes and channels."""
    scaling = tuple(SCHEMES.get(name.strip().lower(), "zscore") for name in told.channels)
    return replace(data, classes=told.classes, channels=len(told.channels), scaling=scaling)


class NnunetSource(VolumeFiles):
    """Reader of nnU-Net's raw layout; `data` says whether as volumes (3D) or slice by slice (2D)."""

    protocols: ClassVar = {"official": own_parts}

    def __init__(self, data: DataSet, root: Path, options: Mapping[str, Any] | None = None):
        super().__init__(data, root, options)
        self.told = told = read_description(self.root / DESCRIPTION)
        self.ending, self.ignored = told.ending, told.ignored
        self.data = replace(as_told(data, told), ignored=None if told.ignored is None else 255)
        self._listed: dict[Part, list[Case]] = {}
        self._files: dict[str, list[Path]] = {}
        if not any(case.label for case in self.cases("train")):
            raise UserError(f"{self.root / 'labelsTr'}: no case of imagesTr has a label; expected CASE{self.ending} for some of them.")
        self._compare_training()
        other = [name for name in told.channels if name.strip().lower() in OTHER_SCHEMES]
        if other:
            self._remark(f"{self.root / DESCRIPTION}: the channel {other[0]!r} asks for a scaling that is not done here; its mean becomes "
                         "0 and its deviation 1, in each volume.")

    @classmethod
    def described(cls, data: DataSet, root: Path, options: Mapping[str, Any], classes: int, channels: int) -> DataSet:
        """As dataset.json says, which has to be there still: it tells how channels are scaled."""
        return as_told(data, read_description(root / DESCRIPTION))

    @classmethod
    def channel_of(cls, data: DataSet, stem: str) -> str | None:
        numbered = re.fullmatch(r"(.+)_([0-9]{4})", stem)
        return numbered[1] if numbered and (data.channels > 1 or numbered[2] == "0000") else None

    @classmethod
    def fits(cls, root: Path) -> bool:
        return (root / DESCRIPTION).is_file() and (root / "imagesTr").is_dir()

    @property
    def cache_key(self) -> str:
        """What an array depends on beside its first file: scaling, labels, and the files of the other channels."""
        states = hashlib.sha256()
        for name, files in sorted(self._files.items()):
            for file in files[1:]:
                states.update(f"{name} {states_of(file)};".encode(errors="backslashreplace"))
        return f"{self.data.scaling}, {self.data.num_classes} classes, ignored {self.ignored}, {states.hexdigest()}"

    def has_part(self, part: Part) -> bool:
        """Whether the folder has this part of its own: test cases, where there are labels of them."""
        return part == "test" and (self.root / "labelsTs").is_dir() and bool(entries(self.root / "labelsTs"))

    def cases(self, part: Part) -> list[Case]:
        if part not in self._listed:
            problems, cases = Problems(), list[Case]()
            for images, labels in FOLDERS[part]:
                if images == "imagesTr" or (self.root / images).is_dir():
                    cases += self._cases_in(images, labels, part, problems)
            known = {} if part == "train" else {case.name: case for case in self.cases("train")}
            for case in cases:
                if case.name in known:
                    problems.add(f"{case.image}: {case.name} is {known[case.name].image} too; a case belongs to one folder. Rename one.")
                known[case.name] = case
            problems.raise_any(str(self.root))
            if part == "train":
                cases = self._grouped_cases(cases)
            self._listed[part] = cases
            if part == "test":
                self._compare_test(cases)
        return self._listed[part]

    def channel_files(self, case: Case) -> list[Path]:
        return self._files[case.name] if case.name in self._files else self._known(case)

    def _known(self, case: Case) -> list[Path]:
        self.cases(case.part)
        return self._files[case.name]

    def checked_ids(self, values: np.ndarray, case: Case) -> np.ndarray:
        assert case.label is not None
        ids = checked_label(values, case.label, self.data.classes, self.ignored)
        return ids if self.ignored is None else np.where(ids == self.ignored, 255, ids).astype(np.uint8)

    def _grouped_cases(self, cases: list[Case]) -> list[Case]:
        """The cases with the groups that groups.csv names."""
        labeled = [case.name for case in cases if case.label]
        names = {case.name: case for case in cases}
        groups, said = groups_of(self.root, names, labeled, lambda file: self._named(file, names), False)
        for sentence in said:
            self._remark(sentence)
        return [replace(case, group=groups.get(case.name, case.group)) for case in cases]

    def _named(self, file: str, known: Collection[str]) -> str:
        """The case that a file of the description means: its name without the ending, and without _0000 where no case is called so."""
        name = composed(PurePosixPath(file.replace("\\", "/")).name)
        stem = with_ending(self.ending, *ENDINGS)(name) or name
        return stem if stem in known else re.sub(r"_[0-9]{4}$", "", stem)

    def _compare_training(self) -> None:
        """Refuses a description that names other labels or cases than the folders have; says where it names fewer."""
        cases, where, problems = {case.name: case for case in self.cases("train")}, self.root / DESCRIPTION, Problems()
        key = "dataset" if self.told.named_files else "training"
        listed, missing = set[str](), list[str]()
        for image, label in self.told.training or ():
            name = self._named(image, cases)
            listed.add(name)
            if name not in cases:
                missing.append(image)
                continue
            folder, place = PurePosixPath(image.replace("\\", "/")).parent.name, cases[name].image.parent.name
            if folder and folder != place:
                problems.add(f"{where}: \"{key}\" names {image} as the image of {name}, but images are read from {place}. Put the files "
                             "that are meant there, or mend the list.")
            read = cases[name].label
            there = (read is not None and PurePosixPath(label or "").parent.name == read.parent.name
                     and self._named(str(label), cases) == name)
            if label is not None and not there:
                problems.add(f"{where}: \"{key}\" names {label} as the label of {name}, but labels are read from labelsTr by the name of "
                             f"the case ({read.relative_to(self.root) if read else 'it has none there'}). Put the files that are meant "
                             "there, or mend the list.")
        problems.raise_any(str(self.root))
        if missing:
            self._remark(f"{where}: \"{key}\" names {len(missing)} cases that are not in imagesTr, for example {missing[0]}.")
        in_folder = [case for case in cases.values() if case.image.parent.name == "imagesTr"]
        others = [case.name for case in in_folder if listed and case.name not in listed]
        if others:
            self._remark(f"{where}: \"{key}\" names {len(listed)} of the {len(in_folder)} training cases in imagesTr ({others[0]} is not "
                         "among them). The folder decides: all are used. Take out what is not meant.")
        elif self.told.number is not None and self.told.number not in (len(in_folder), sum(case.label is not None for case in in_folder)):
            self._remark(f"{where}: numTraining is {self.told.number}, and imagesTr has {len(in_folder)} training cases; all are used.")

    def _compare_test(self, cases: list[Case]) -> None:
        """Says where the description's test list and the folder differ."""
        known = {case.name for case in cases}
        missing = [file for file in self.told.test or () if self._named(file, known) not in known]
        if missing:
            self._remark(f"{self.root / DESCRIPTION}: \"test\" names {len(missing)} cases that imagesTs has not with a label, for example "
                         f"{missing[0]}; they are not tested.")

    def _cases_in(self, images: str, labels: str | None, part: Part, problems: Problems) -> list[Case]:
        grouped = self._grouped(self.root / images, problems)
        references = self._names(self.root / labels).files if labels else {}
        cases = []
        for name, files in grouped.items():
            label = references.pop(name, None)
            if part == "test" and label is None:
                continue
            self._files.setdefault(name, files)
            cases.append(Case(name, files[0], label, name, "", part))
        if references:
            self._remark(f"{self.root / str(labels)}: {len(references)} labels have no image of their name, "
                         f"for example {next(iter(references))}; not used.")
        if part == "test" and len(cases) < len(grouped):
            self._remark(f"{self.root / images}: {len(grouped) - len(cases)} of {len(grouped)} test cases have no label; not used.")
        return cases

    def _names(self, folder: Path) -> Listing:
        """Files of a folder that end as dataset.json says, case apart, by name without the ending, in natural order."""
        found = listing(folder, with_ending(self.ending), deep=False)
        for sentence in found.remarks(f"{self.ending} (the file_ending of {DESCRIPTION})") if found.files else ():
            self._remark(sentence)
        below = [path.name for path in entries(folder) if path.is_dir()]
        if below:
            self._remark(f"{folder}: {len(below)} folders in it are not looked into ({below[0]}, ...); in this layout all files lie side "
                         "by side.")
        return found

    def _grouped(self, folder: Path, problems: Problems) -> dict[str, list[Path]]:
        """The files of each case, one a channel."""
        found = self._names(folder)
        names = found.files
        if not names:
            elsewhere = (f" {DESCRIPTION} names the files of its cases under \"dataset\", which is not followed: put these files, or links "
                         "to them, into imagesTr and labelsTr.") if self.told.named_files else ""
            problems.add(f"{folder}: no file that ends in {self.ending}, the file_ending of {DESCRIPTION}; found "
                         f"{found.passed_over() or 'nothing'}.{to_do(found.others)}{elsewhere}")
        count = self.data.channels
        numbered = {name: re.fullmatch(r"(.+)_([0-9]{4})", name) for name in names}
        if count == 1 and not any(numbered.values()):
            return {name: [file] for name, file in names.items() if not leaves_folder(name)}
        grouped: dict[str, dict[int, Path]] = {}
        for name, file in names.items():
            number = numbered[name]
            if number is None or int(number[2]) >= count:
                problems.add(f"{file}: {DESCRIPTION} names {count} channel{'s' * (count > 1)}; expected CASE_0000 to "
                             f"CASE_{count - 1:04d}{self.ending}. Rename the file, take it out, or add the channel.")
            else:
                grouped.setdefault(number[1], {})[int(number[2])] = file
        for name, files in grouped.items():
            for channel in range(count):
                if channel not in files:
                    problems.add(f"{folder / f'{name}_{channel:04d}{self.ending}'}: missing, channel {channel} of {name} "
                                 f"({DESCRIPTION} names {count}); add the file, or take the case out.")
        return {name: [files[k] for k in range(count)] for name, files in grouped.items() if len(files) == count}

    def _remark(self, sentence: str) -> None:
        if sentence not in self.remarks:
            self.remarks.append(sentence)


DATA_SETS = (
    DataSet("nnunet", NnunetSource, dimensions=3, evaluation=BY_WINDOW, own=True, special=True, defaults=OWN_VOLUMES, note=OWN_SCALE),
    DataSet("nnunet2D", NnunetSource, unit="patient", own=True, defaults=SSL4MIS | {"labeled_num": "all"}, note=OWN_SCALE),
)
