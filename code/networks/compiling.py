"""How a script's `losses` are run: precision inside the networks, float32 outside, networks compiled when asked."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Compiled:
    """A network as compiled graphs: one for a call, one each for encode, decode and head.

    A graph holds one pass of one network, never the whole `losses`: torch 2.13's compiler gives wrong gradients on the CPU, without a
    word, where a network with batch norm and bilinear resizing passes twice within a graph.
    """

    def __init__(self, network: nn.Module):
        self.network = network
        self._graphs: dict[str, Callable[..., Any]] = {}

    def _graph(self, name: str) -> Callable[..., Any]:
        if name not in self._graphs:
            self._graphs[name] = torch.compile(getattr(self.network, name))
        return self._graphs[name]

    def __call__(self, *inputs: Tensor) -> Any:
        return self._graph("forward")(*inputs)

    def encode(self, x: Tensor) -> Any:
        return self._graph("encode")(x)

    def decode(self, maps: Any) -> Any:
        return self._graph("decode")(maps)

    def head(self, features: Any) -> Any:
        return self._graph("head")(features)


class MixedPrecision:
    """A network whose layers compute in bfloat16 and whose logits are float32.

    Not a module: it owns nothing. encode and decode hand bfloat16 maps on, since only losses need float32.
    """

    def __init__(self, network: nn.Module | Compiled, device: str):
        self.network: Any = network
        self.device = device

    def _run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        with torch.autocast(self.device, torch.bfloat16):
            return function(*arguments)

    def __call__(self, *inputs: Tensor) -> Any:
        return widen(self._run(self.network, *inputs))

    def encode(self, x: Tensor) -> Any:
        return self._run(self.network.encode, x)

    def decode(self, maps: Any) -> Any:
        return self._run(self.network.decode, maps)

    def head(self, features: Any) -> Any:
        return widen(self._run(self.network.head, features))


def widen(outputs: Any) -> Any:
    """Tensors of half precision -> float32, in tuples and lists too."""
    if isinstance(outputs, list | tuple):
        return type(outputs)(widen(output) for output in outputs)
    return outputs.float()


def compiled(losses: Callable[..., Any], precision: str, compile_it: bool, device: torch.device) -> Callable[..., Any]:
    """`losses` with its networks under `precision` and compiled when `compile_it`, float arguments as 0-dim tensors."""
    graphs: dict[nn.Module, Compiled] = {}

    def ready(argument: Any) -> Any:
        if isinstance(argument, nn.Module):
            network = graphs.setdefault(argument, Compiled(argument)) if compile_it else argument
            return MixedPrecision(network, device.type) if precision == "bf16-mixed" else network
        if isinstance(argument, list | tuple) and argument and isinstance(argument[0], nn.Module):
            return type(argument)(ready(network) for network in argument)
        if isinstance(argument, float):
            return torch.full((), argument, device=device)
        return argument

    def call(*arguments: Any, **named: Any) -> Any:
        return losses(*(ready(a) for a in arguments), **{key: ready(a) for key, a in named.items()})

    return call
