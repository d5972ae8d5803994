"""A run's predictor as a file that other programs load: ONNX, or a program of torch.export."""
from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dataloaders.errors import UserError
from inference import Inference
from inference.windows import main_output
from networks import Network
from networks.folding import FusedConvolution
from portable.description import KEY

NEEDED = ("onnx", "onnxscript", "onnxruntime")
OPTIONAL = "requirements-optional.txt"


class Portable(nn.Module):
    """A predictor with one input and one output; batch norms stay folded into the convolutions, calls of oneDNN are taken apart."""

    def __init__(self, predictor: nn.Module):
        """Changes `predictor` itself: of what a tester would go on with, load another."""
        super().__init__()
        self.predictor = predictor
        taken_apart(self)
        for module in self.modules():
            if isinstance(module, Network):
                # It looks at sides, which a graph for any sides must not.
                module.check = lambda x: None  # type: ignore[method-assign]

    def forward(self, images: Tensor) -> Tensor:
        return main_output(self.predictor(images)).float()


def taken_apart(module: nn.Module) -> None:
    """Each fused convolution as a convolution and its activation, weights in the usual layout."""
    for name, child in list(module.named_children()):
        if isinstance(child, FusedConvolution):
            child.convolution.to(memory_format=torch.contiguous_format)
            module._modules[name] = nn.Sequential(child.convolution, child.activation)
        else:
            taken_apart(child)


def needs_onnx() -> None:
    """Raises `UserError` where what ONNX needs is not installed."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise UserError(f"--format onnx needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed: "
                        f"python -m pip install -r {OPTIONAL}. Or take --format torch_export, which needs torch alone.")


def write_onnx(predictor: nn.Module, inference: Inference, told: Mapping[str, Any], file: Path) -> str:
    """Writes an ONNX model with a batch of any size and `told` in its metadata; gives its opset. Raises `UserError`."""
    module, example, shapes = ready(predictor, inference)

    def convert() -> Any:
        return torch.onnx.export(module, (example,), input_names=["images"], output_names=["logits"], dynamic_shapes=(shapes,),
                                 dynamo=True, optimize=True, external_data=False)

    program: Any = converted(convert, "ONNX")
    program.model.metadata_props[KEY] = json.dumps(told)
    program.model.producer_name = KEY
    program.save(str(file), external_data=False)
    return str(program.model.opset_imports[""])


def write_program(predictor: nn.Module, inference: Inference, told: Mapping[str, Any], file: Path) -> None:
    """Writes a program of torch.export with a batch of any size; `told` stands in its extra file semisegbench.json."""
    module, example, shapes = ready(predictor, inference)
    program = converted(lambda: torch.export.export(module, (example,), dynamic_shapes=(shapes,)), "torch.export")
    torch.export.save(program, file, extra_files={f"{KEY}.json": json.dumps(told)})


def ready(predictor: nn.Module, inference: Inference) -> tuple[Portable, Tensor, dict[int, Any]]:
    """(what is exported, an input, which of its axes may have any length)."""
    module = Portable(predictor).eval()
    shapes: dict[int, Any] = {0: torch.export.Dim("batch", min=1)}
    sides = list(inference.patch_size)
    if inference.how == "whole":
        multiple = predictor.multiple
        steps = [multiple] * len(sides) if isinstance(multiple, int) else list(multiple)  # type: ignore[arg-type]
        for axis, step in enumerate(steps):
            sides[axis] = (3 + axis) * step
            count = torch.export.Dim(f"side{axis}", min=2)
            shapes[2 + axis] = step * count if step > 1 else count
    return module, torch.zeros((2, inference.data.channels, *sides)), shapes


def converted(convert: Callable[[], Any], kind: str) -> Any:
    """What `convert` gives, without what it says on the way. Raises `UserError` where a network cannot be converted."""
    try:
        with quiet():
            return convert()
    except Exception as error:  # converters raise classes of their own, for every operation another
        cause = str(error.__cause__ or error).strip().splitlines()
        raise UserError(f"This network cannot be written as {kind} by torch {torch.__version__} ({type(error).__name__}: "
                        f"{cause[0][:200] if cause else ''}). Its run stays as it is; predict.py takes it.", 3) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
