"""A GPU without a GPU: a training script runs on tensors that say they lie on one and hold their values on the CPU, and is watched.

`watched("cuda")` opens such a machine and gives what is noted while it is open, each with the line of code/ that led to it:

    mixture     tensors of two devices in one operation: a GPU raises
    wait        the host waits for the device: it reads a value or a size, copies pageable memory, makes a tensor of a list there
    upload      a copy from pinned memory, for which it does not wait
    double      float64 on the device (Apple's GPUs have none; many others take 32 times as long)
    unordered   what CUDA refuses under --deterministic 2

How: `Elsewhere` wraps a CPU tensor. For C++ it lies on torch's meta device, which autograd serves without a driver, in the calling thread;
for Python it lies on cuda:0 (or mps:0). `Calls` puts meta where a call of torch names the device, `Watch` opens what an operation is
given, computes it on the CPU, and closes it again. Questions to torch.cuda are answered as a card of 80 GB would. So values are true, and
whatever hangs on one (a threshold, an early end) is passed as on a GPU.

It cannot see kernels that are missing for a type, layouts that cuDNN refuses, autocast's lists for CUDA, memory, streams, compiled graphs,
time. What waits inside a kernel is known by a list (`READING`), after torch's sources.
"""
from __future__ import annotations

import contextlib
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from harness import kind_of
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

CODE = f"{Path(__file__).parents[1] / 'code'}{os.sep}"
HIDDEN, HOST = torch.device("meta"), torch.device("cpu")
aten = torch.ops.aten


class Event(NamedTuple):
    """What was noted: its kind, the file in code/, line and function that led to it, the operation, and what the run was doing."""

    kind: str
    file: str
    line: int
    function: str
    what: str
    phase: str


@dataclass
class Notes:
    """What a watch has seen. A step counts from the second of a stage on: the first allocates."""

    device: torch.device
    events: Counter[Event] = field(default_factory=Counter)
    launches: Counter[str] = field(default_factory=Counter)
    """By phase: operations on the device that are no views, about as many as kernels."""
    steps: int = 0
    doing: list[str] = field(default_factory=lambda: ["setup"])

    @property
    def phase(self) -> str:
        return self.doing[-1]

    @contextlib.contextmanager
    def during(self, phase: str) -> Iterator[None]:
        self.doing.append(phase)
        try:
            yield
        finally:
            self.doing.pop()

    def note(self, kind: str, what: str) -> None:
        """Writes an event down, with the innermost line of code/ under way."""
        frame: Any = sys._getframe(1)
        while frame is not None and not frame.f_code.co_filename.startswith(CODE):
            frame = frame.f_back
        place = ("tests", 0, "") if frame is None else (
            frame.f_code.co_filename.removeprefix(CODE), frame.f_lineno, re.sub(r"\.<\w+>", "", frame.f_code.co_qualname))
        self.events[Event(kind, *place, what, self.phase)] += 1

    def places(self, kind: str, *phases: str) -> set[tuple[str, str]]:
        """(file, function) of the events of a kind, in these phases or in all."""
        return {(event.file, event.function) for event in self.events if event.kind == kind and (not phases or event.phase in phases)}

    def lines(self, kind: str, *phases: str) -> list[str]:
        """The same in words: where, what, how often a step (or in all)."""
        each = max(self.steps, 1)
        return [f"{event.file}:{event.line} {event.function}: {event.what}, " + (
                    f"{count / each:g} a step" if event.phase == "step" else f"{count} in {event.phase}")
                for event, count in sorted(self.events.items()) if event.kind == kind and (not phases or event.phase in phases)]

    def count(self, kind: str, phase: str = "") -> float:
        """Events of a kind: a step in the phase "step", else in all."""
        number = sum(count for event, count in self.events.items() if event.kind == kind and phase in ("", event.phase))
        return number / max(self.steps, 1) if phase == "step" else number


OPEN: list[Notes] = []
"""The machine that is open, and those around it."""


class Elsewhere(torch.Tensor):
    """A tensor of the open machine; `inner` has its values."""

    inner: Tensor
    device = property(lambda self: OPEN[-1].device)  # type: ignore[assignment]
    is_cuda = property(lambda self: self.device.type == "cuda")  # type: ignore[assignment]
    is_mps = property(lambda self: self.device.type == "mps")  # type: ignore[assignment]
    is_cpu = is_meta = property(lambda self: False)  # type: ignore[assignment]
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor, requires_grad: bool = False) -> Elsewhere:
        made = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype, layout=inner.layout,
            device=HIDDEN, requires_grad=requires_grad)
        made.inner = inner
        return made

    def __init__(self, inner: Tensor, requires_grad: bool = False):
        super().__init__()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func}: a tensor of a machine that was closed")

    def __deepcopy__(self, memo: dict[int, Any]) -> Elsewhere:
        if id(self) not in memo:
            twin = memo[id(self)] = Elsewhere(self.inner.detach().clone(), self.requires_grad)
            if getattr(self, "_is_param", False):
                twin._is_param = True
        return memo[id(self)]

    def __reduce_ex__(self, protocol: Any) -> Any:
        OPEN[-1].note("wait", "written to a file")
        return self.inner.detach().__reduce_ex__(protocol)

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"Elsewhere({self.inner})"


def is_there(device: Any) -> bool:
    return isinstance(device, torch.device) and device.type in ("meta", OPEN[-1].device.type)


# What the sources and the documentation of torch 2.13 say of operations

READING = {
    aten._local_scalar_dense: "a value", aten.is_nonzero: "a value", aten.equal: "a value", aten._linalg_check_errors: "a value",
    aten.nonzero: "a size", aten.argwhere: "a size", aten.masked_select: "a size", aten._unique2: "a size", aten.unique_dim: "a size",
    aten.unique_consecutive: "a size", aten.bincount: "a size", aten.histc: "a range",
}
"""What asks the device for something before it goes on."""
INDEXING = (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index, aten._unsafe_index_put)
COPYING = (aten.copy_, aten._foreach_copy_)
REFUSED = {
    aten.upsample_linear1d_backward, aten.upsample_bilinear2d_backward, aten.upsample_bicubic2d_backward,
    aten.upsample_trilinear3d_backward, aten.reflection_pad1d_backward, aten.reflection_pad2d_backward, aten.reflection_pad3d_backward,
    aten.avg_pool3d_backward, aten._adaptive_avg_pool2d_backward, aten._adaptive_avg_pool3d_backward, aten.adaptive_max_pool2d_backward,
    aten.max_unpool2d, aten.max_unpool3d, aten.grid_sampler_2d_backward, aten.grid_sampler_3d_backward, aten.histc, aten.put_,
    aten.kthvalue, aten.median,
}
"""Always refused under --deterministic 2; `refused` knows those that are so at times. kthvalue: its kernel asks as median's does."""
VIEWS = frozenset((
    "view", "_unsafe_view", "detach", "alias", "expand", "permute", "transpose", "t", "select", "slice", "unsqueeze", "squeeze",
    "as_strided", "split", "split_with_sizes", "chunk", "unbind", "narrow", "diagonal", "lift_fresh", "_reshape_alias", "unfold", "empty",
    "empty_like", "empty_strided", "new_empty", "_local_scalar_dense",
))
"""What launches nothing."""


def refused(packet: Any, args: Any, kwargs: Any) -> bool:
    """Whether CUDA refuses the operation under --deterministic 2."""
    if packet is aten.nll_loss2d_forward:
        return args[3] != 0  # written pixel by pixel it has an order
    if packet is aten.cumsum:
        return args[0].is_floating_point()
    if packet is aten.bincount:
        return (args[1] if len(args) > 1 else kwargs.get("weights")) is not None
    return packet in REFUSED


class Watch(TorchDispatchMode):
    """Opens, computes, closes, and looks."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here, and asking whether it is takes a tenth of the time."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, there, here = kwargs or {}, list[Elsewhere](), list[Tensor]()

        def opened(value: Any) -> Any:
            kind = type(value)
            if kind is Elsewhere:
                there.append(value)
                return value.inner
            if kind is list:
                return [opened(one) for one in value]
            if kind is tuple:
                return tuple([opened(one) for one in value])
            if isinstance(value, Tensor):
                here.append(value)
            return value

        inside, named, asked = opened(args), {key: opened(value) for key, value in kwargs.items()}, kwargs.get("device")
        towards = bool(there) if asked is None else is_there(asked)
        if not there and not towards:
            return func(*args, **kwargs)
        notes, packet = OPEN[-1], func.overloadpacket
        self.look(notes, func, packet, args, kwargs, there, here, towards)
        if asked is not None:
            named["device"] = HOST
        out, name = func(*inside, **named), packet.__name__
        if name not in VIEWS:
            notes.launches[notes.phase] += 1
        known = {id(one.inner): one for one in there}

        def closed(value: Any) -> Any:
            if isinstance(value, Tensor):
                if id(value) in known:
                    return known[id(value)]
                if not towards:
                    return value
                if value.dtype == torch.float64 and name not in VIEWS:
                    notes.note("double", name)
                return Elsewhere(value)
            return type(value)(map(closed, value)) if type(value) in (list, tuple) else value

        return closed(out)

    @staticmethod
    def look(notes: Notes, func: Any, packet: Any, args: Any, kwargs: Any, there: Sequence[Elsewhere], here: Sequence[Tensor],
             towards: bool) -> None:
        name = packet.__name__
        if packet in (aten._to_copy, aten.copy_):
            source, into = (args[1], isinstance(args[0], Elsewhere)) if packet is aten.copy_ else (args[0], towards)
            if isinstance(source, Elsewhere) == into:
                return
            unhurried = kwargs.get("non_blocking") or (packet is aten.copy_ and len(args) > 2 and args[2])
            if into and unhurried and is_pinned(source):
                notes.note("upload", name)
            elif not (into and packet is aten.copy_ and source.dim() == 0):
                notes.note("wait", "pageable memory to the device" if into else "to the host")
            return
        if there and here:
            numbers_may = torch.Tag.pointwise in func.tags
            lonely = [one for one in here if one.dim() > 0 or not numbers_may]
            if packet in INDEXING:
                places = [place for place in args[1] if place is not None]
                if any(not isinstance(place, Elsewhere) for place in places):
                    notes.note("wait", f"{name} by places on the host")
                lonely = [one for one in lonely if one.dim() > 0 and not any(one is place for place in places)]
            if lonely and packet not in COPYING:
                notes.note("mixture", f"{func}, on the host: {', '.join(str(tuple(one.shape)) for one in lonely)}")
        if packet in READING:
            notes.note("wait", f"{name} reads {READING[packet]}")
        elif func is aten.repeat_interleave.Tensor and kwargs.get("output_size") is None:
            notes.note("wait", "repeat_interleave reads a size")
        elif packet in INDEXING:
            masks = any(isinstance(place, Elsewhere) and place.dtype in (torch.bool, torch.uint8) for place in args[1])
            filled = packet not in (aten.index, aten._unsafe_index) and not args[2].dim() and not isinstance(args[2], Elsewhere)
            if masks and not filled:  # a mask that is filled with a number of the host is a masked_fill
                notes.note("wait", f"{name} by a mask reads a size")
        if refused(packet, args, kwargs):
            notes.note("unordered", name)


PINNED = "_lies_in_pinned_memory"


def is_pinned(tensor: Any) -> bool:
    return bool(getattr(tensor, PINNED, False))


def pinned(tensor: Tensor) -> Tensor:
    """As `Tensor.pin_memory`, in any thread."""
    twin = tensor.clone()
    setattr(twin, PINNED, True)
    return twin


MAKING = (torch.tensor, torch.as_tensor, torch.asarray)
MOVING = (torch.Tensor.to, torch.Tensor.cuda)
CAUGHT = frozenset((*MAKING, *MOVING, torch.Tensor.new_tensor, torch.Tensor.numpy, torch.Tensor.__array__, torch.Tensor.tolist))


class Calls(TorchFunctionMode):
    """Calls of torch: the device becomes the hidden one; what never comes to the watch is noted here."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        device = kwargs.get("device") if kwargs else None
        if device is None and func not in CAUGHT:  # nearly all
            return func(*args, **kwargs) if kwargs else func(*args)
        kwargs = dict(kwargs or {})
        first = args[0] if args else None
        if func in MAKING:
            kwargs.pop("device", None)
            made = func(*args, **kwargs)
            return self.sent(made, func.__name__) if device is not None and is_there(torch.device(device)) else made
        if isinstance(first, Elsewhere):
            if func is torch.Tensor.new_tensor:
                return self.sent(torch.tensor(args[1], dtype=kwargs.get("dtype", first.dtype)), "new_tensor")
            if func in (torch.Tensor.numpy, torch.Tensor.__array__):
                OPEN[-1].note("mixture", "numpy of a tensor on the device")
                raise TypeError("can't convert a tensor on a device to numpy. Use Tensor.cpu() first.")
            if func is torch.Tensor.tolist:
                OPEN[-1].note("wait", "tolist")
                return first.inner.tolist()
        if func in MOVING:
            args = tuple(HIDDEN if isinstance(one, str) and one.split(":")[0] == OPEN[-1].device.type else one for one in args)
            args = tuple(HIDDEN if isinstance(one, torch.device) and is_there(one) else one for one in args)
        if device is not None and is_there(torch.device(device)):
            kwargs["device"] = HIDDEN
        return func(*args, **kwargs)

    @staticmethod
    def sent(made: Tensor, name: str) -> Elsewhere:
        OPEN[-1].note("wait", f"{name} of numbers")
        if made.dtype == torch.float64:
            OPEN[-1].note("double", name)
        return Elsewhere(made)


class HostAutocast(torch.autocast):
    """Autocast where the values are."""

    def __init__(self, device_type: str, *arguments: Any, **named: Any):
        super().__init__("cpu", *arguments, **named)


GIB = 2**30
ANSWERS: dict[str, dict[str, Callable[..., Any]]] = {
    "torch.cuda": {
        "is_available": lambda: True, "is_initialized": lambda: True, "device_count": lambda: 1, "current_device": lambda: 0,
        "_lazy_init": lambda: None, "set_device": lambda *_: None, "manual_seed": lambda *_: None, "manual_seed_all": lambda *_: None,
        "get_device_name": lambda *_: "a GPU that is none", "get_device_capability": lambda *_: (9, 0),
        "is_bf16_supported": lambda *_, **__: True, "mem_get_info": lambda *_: (80 * GIB,) * 2, "memory_reserved": lambda *_: 0,
        "memory_allocated": lambda *_: 0, "max_memory_allocated": lambda *_: GIB,
        "synchronize": lambda *_: OPEN[-1].note("wait", "synchronize"),
    },
    "torch.backends.mps": {"is_available": lambda: True, "get_name": lambda: "an Apple that is none"},
    "torch.mps": {"driver_allocated_memory": lambda: GIB, "synchronize": lambda: OPEN[-1].note("wait", "synchronize")},
}
"""What a machine says of its GPU, by module of torch."""


@contextlib.contextmanager
def watched(device: str = "cuda") -> Iterator[Notes]:
    """A machine with a GPU ("cuda", or Apple's "mps"), until it is closed again; gives what is noted."""
    from storage import checkpoint

    before = (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic,
              torch.get_float32_matmul_precision(), torch.__future__.get_overwrite_module_params_on_conversion())
    with contextlib.ExitStack() as stack:
        for module in ("torch.cuda",) if device == "cuda" else ("torch.backends.mps", "torch.mps"):
            for name, answer in ANSWERS[module].items():
                stack.enter_context(mock.patch(f"{module}.{name}", answer))
        stack.enter_context(mock.patch.object(torch.Tensor, "pin_memory", pinned))
        stack.enter_context(mock.patch.object(torch, "autocast", HostAutocast))
        stack.enter_context(mock.patch.object(checkpoint, "PLAIN", (*checkpoint.PLAIN, Elsewhere)))
        stack.enter_context(mock.patch.dict(os.environ))
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        OPEN.append(Notes(torch.device(device, 0)))
        try:
            with Watch(), Calls():
                yield OPEN[-1]
        finally:
            OPEN.pop()
            torch.use_deterministic_algorithms(before[0])
            torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = before[1:3]
            torch.set_float32_matmul_precision(before[3])
            torch.__future__.set_overwrite_module_params_on_conversion(before[4])


# A training script under watch


@contextlib.contextmanager
def told_apart(notes: Notes) -> Iterator[None]:
    """While open, the engine's doings are told apart: steps, and what lies beside them."""
    from engine.monitor import Monitor
    from engine.run import Run
    from engine.saving import Parts
    from engine.stage import Stage

    def within(owner: type, name: str, phase: str) -> Any:
        function = getattr(owner, name)

        def call(*arguments: Any, **named: Any) -> Any:
            with notes.during(phase):
                return function(*arguments, **named)

        return mock.patch.object(owner, name, call)

    steps = Stage._steps

    def stepping(stage: Any, fed: Any) -> Iterator[Any]:
        source, first = steps(stage, fed), True
        notes.doing.append("setup")
        try:
            for pair in source:
                notes.steps += not first
                notes.doing[-1], first = "first step" if first else "step", False
                yield pair
                notes.doing[-1] = "step"  # the next batch is made
        finally:
            notes.doing.pop()
            source.close()

    with contextlib.ExitStack() as stack:
        for owner, name, phase in (
            (Stage, "validate", "validation"), (Stage, "save", "saving"), (Stage, "save_best", "saving"), (Monitor, "step", "logging"),
            (Run, "finish", "end"), (Parts, "put_back", "setup"), (Run, "predict_unlabeled", "between"), (Run, "make_maps", "between"),
            (Run, "best", "between"),
        ):
            stack.enter_context(within(owner, name, phase))
        stack.enter_context(mock.patch.object(Stage, "_steps", stepping))
        stack.enter_context(mock.patch.object(Stage, "_first_save", lambda stage: stage.monitor.book.offset))  # as the later ones
        yield


@contextlib.contextmanager
def unwritten() -> Iterator[None]:
    """While open, a run's own checkpoints are gathered and not written, and pictures not drawn, which takes a third of the time. Those of a
    stage are written, since the next one reads them."""
    from engine.monitor import Monitor
    from storage import checkpoint

    save = checkpoint.save

    def gathered(path: Path, state: Any, keep_previous: bool = False) -> None:
        if path.name in ("last.pt", "best.pt"):
            checkpoint.check_plain(state, path.stem)
        else:
            save(path, state, keep_previous)

    with mock.patch.object(checkpoint, "save", gathered), mock.patch.object(Monitor, "wants_picture", lambda *_: False):
        yield


def train(method: str, words: Sequence[str], folder: Path, device: str = "cuda", written: bool = False) -> Notes:
    """Runs a script's own `main` on a watched machine; its files lie in `folder`, checkpoints only if they are to be `written`."""
    from engine import parse

    script, kind = import_module(f"train_{method}"), kind_of(f"train_{method}")
    places = {f"SEMISEG_{name}": str(folder / name.lower()) for name in ("MODEL", "RESULTS", "CACHE")}
    files = contextlib.nullcontext() if written else unwritten()
    with mock.patch.dict(os.environ, places), files, watched(device) as notes, told_apart(notes):
        options = parse(kind, script.PRESETS, [*words, "--device", device])
        try:
            script.main(options)
        finally:
            if options.resolved.ending.run is not None:  # it did not come to its end
                options.resolved.ending.run.session.release()
    return notes


# The table of docs/gpu.md


def row_of(notes: Notes) -> dict[str, float]:
    """What the table says of a run."""
    return {
        "mixtures": notes.count("mixture"), "waits a step": notes.count("wait", "step"), "uploads a step": notes.count("upload", "step"),
        "refused a step": notes.count("unordered", "step"), "float64 a step": notes.count("double", "step"),
        "operations a step": round(notes.launches["step"] / max(notes.steps, 1)),
        "waits in validation": notes.count("wait", "validation"),
    }


def table(before: dict[str, dict[str, float]], after: dict[str, dict[str, float]]) -> str:
    """Markdown, a line a run: what it was and what it is, or one number where both are alike."""
    columns = list(next(iter(after.values())))
    lines = ["| run | " + " | ".join(columns) + " |", "|" + "---|" * (len(columns) + 1)]
    for name, now in after.items():
        then = before.get(name, now)
        cells = [f"{now[key]:g}" if then.get(key) == now[key] else f"{then.get(key, 0):g} → {now[key]:g}" for key in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
