"""Weights named as those of ImageNet's Swin transformers, in the widths of a Swin-UNet narrow enough for a test."""
from __future__ import annotations

import torch
from torch import Tensor

NARROW: dict[str, tuple[int, ...]] = {"WIDTHS": (12, 24, 48, 96), "HEADS": (1, 2, 3, 4)}
"""What `networks.swin_unet` has at an eighth of its width."""


def imagenet(widths: tuple[int, ...], heads: tuple[int, ...]) -> dict[str, Tensor]:
    """A state dict as `swin_tiny_patch4_window7_224.pth` names it: depths 2, 2, 6, 2, buffers and classifier included."""
    generator = torch.Generator().manual_seed(7)
    shapes: dict[str, tuple[int, ...]] = {"patch_embed.proj.weight": (widths[0], 3, 4, 4)}
    shapes |= {f"patch_embed.{name}": (widths[0],) for name in ("proj.bias", "norm.weight", "norm.bias")}
    for i, (width, head, depth) in enumerate(zip(widths, heads, (2, 2, 6, 2))):
        for j in range(depth):
            block = {"attn.qkv.weight": (3 * width, width), "attn.qkv.bias": (3 * width,), "attn.proj.weight": (width, width),
                     "attn.relative_position_bias_table": (169, head), "attn.relative_position_index": (49, 49),
                     "mlp.fc1.weight": (4 * width, width), "mlp.fc1.bias": (4 * width,), "mlp.fc2.weight": (width, 4 * width)}
            block |= dict.fromkeys(("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "attn.proj.bias", "mlp.fc2.bias"), (width,))
            if j % 2 and i < 3:
                block["attn_mask"] = ((56 // 7 // 2**i) ** 2, 49, 49)
            shapes |= {f"layers.{i}.blocks.{j}.{name}": shape for name, shape in block.items()}
        if i < 3:
            shapes |= {f"layers.{i}.downsample.reduction.weight": (2 * width, 4 * width)}
            shapes |= {f"layers.{i}.downsample.norm.{name}": (4 * width,) for name in ("weight", "bias")}
    shapes |= {"norm.weight": (widths[-1],), "norm.bias": (widths[-1],), "head.weight": (10, widths[-1]), "head.bias": (10,)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
