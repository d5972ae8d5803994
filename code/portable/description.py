"""What is done before and after a run's network, as plain data: what `inference` does and what the data set's reader does.

`predict_onnx.py` follows it with numpy and pillow alone; a data set whose reader does what it cannot say is refused.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dataloaders.description import DataSet
from dataloaders.errors import UserError
from dataloaders.layouts.images import ImageSource
from dataloaders.layouts.isic import SIDE, IsicSource
from dataloaders.layouts.listed import ListedSource
from dataloaders.layouts.nifti import ENDINGS
from dataloaders.layouts.volume_files import VolumeFiles
from inference import Inference
from inference.predicting import MULTIPLE
from portable.predict_onnx import FORMAT

KEY = "semisegbench"
"""Under which the description stands in a file's metadata, as JSON."""


def described(inference: Inference, predictor: Any, about: Mapping[str, Any]) -> dict[str, Any]:
    """What a program must know to predict as `inference` does with `predictor`; `about`: what made it.

    Raises `UserError` for a data set whose reading cannot be described.
    """
    data = inference.data
    multiple = getattr(predictor, "multiple", MULTIPLE)
    return {
        "format": FORMAT, **about, "classes": list(data.classes), "dimensions": data.dimensions, "channels": data.channels,
        "reading": reading_of(data), "divide": 255 if data.intensities == "8-bit" and data.dimensions == 2 else 1,
        **{name: list(values) if values and data.dimensions == 2 and data.mean and data.std else []
           for name, values in (("mean", data.mean), ("std", data.std))},
        "predicted": inference.how, "size": list(inference.patch_size), "stride": list(inference.stride), "resizing": data.resizing,
        "multiple": [multiple] * data.dimensions if isinstance(multiple, int) else list(multiple),
        "input": f"images (batch, {data.channels}, {sides_of(inference)}) float32, made ready as above",
        "output": f"logits (batch, {data.num_classes}, ...) float32; the class is their argmax",
    }


def sides_of(inference: Inference) -> str:
    return "any sides that are multiples" if inference.how == "whole" else ", ".join(map(str, inference.patch_size))


def reading_of(data: DataSet) -> dict[str, Any]:
    """How a new file becomes pixels. Raises `UserError` where the reader's way is not known here."""
    reader = data.reader
    if issubclass(reader, VolumeFiles):
        return {"kind": "volume", "scaling": list(data.scaling), "npy_scaling": list(data.scaling), **of_arrays(data, "as stored"),
                "takes": "NIfTI volumes (.nii, .nii.gz), or .npy arrays of their voxels"}
    if issubclass(reader, ImageSource):
        if not issubclass(reader, IsicSource) and same(reader, ImageSource, "read_new") is False:
            raise UserError(f"{data.name}: its reader takes new photographs in a way of its own, which an exported model cannot follow.")
        return {"kind": "picture", "white": data.white, "reduced": [SIDE, SIDE] if issubclass(reader, IsicSource) else None,
                "takes": "photographs (PNG, JPEG, TIFF and the like)"}
    scheme = getattr(reader, "raw", None)
    known = scheme and issubclass(reader, ListedSource) and same(reader, ListedSource, "_new_volume")
    scaling = [scheme[0].__name__] if scheme and known and set(ENDINGS) & set(reader.new_endings) else []
    return {"kind": "volume", "scaling": scaling, "npy_scaling": [], **of_arrays(data, "scaled as those that were trained on"),
            "takes": ("NIfTI volumes, or " if scaling else "") + ".npy arrays of what its h5 files hold as `image`"}


def of_arrays(data: DataSet, how: str) -> dict[str, str]:
    return {"npy": f"(channels, {'x, y, z' if data.dimensions == 3 else 'slices, height, width'}), {how}"}


def same(reader: type, base: type, name: str) -> bool:
    """Whether a reader has a method of its base as it is."""
    return bool(getattr(reader, name).__func__ is getattr(base, name).__func__)


def steps_of(told: Mapping[str, Any]) -> Sequence[str]:
    """The description in sentences, for the screen."""
    reading = told["reading"]
    lines = [f"takes {reading['takes']}"]
    if told["predicted"] == "resized":
        lines.append(f"resized to {'x'.join(map(str, told['size']))} by nearest neighbour ({told['resizing']}), the mask back to the "
                     "image's own size")
    elif told["predicted"] == "whole":
        lines.append(f"at its own size, the border repeated to multiples of {'x'.join(map(str, told['multiple']))}")
    else:
        lines.append(f"by windows of {'x'.join(map(str, told['size']))} at steps of {'x'.join(map(str, told['stride']))}, their "
                     "probabilities averaged")
    return lines
