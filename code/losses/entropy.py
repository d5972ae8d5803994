"""How unsure a prediction is."""
from __future__ import annotations

from torch import Tensor


def entropy_map(probabilities: Tensor) -> Tensor:
    """-sum_c p log(p + 1e-6), natural logarithm: (B, C, *spatial) -> (B, 1, *spatial), at most ln C.

    The constant keeps the gradient finite where p is 0, and makes the entropy of a sure prediction slightly negative, down to
    -1e-6 (SSL4MIS).
    """
    return -(probabilities * (probabilities + 1e-6).log()).sum(1, keepdim=True)


def entropy_bits(probabilities: Tensor) -> Tensor:
    """-sum_c p log2(p + 1e-10), in bits: (B, C, *spatial) -> (B, 1, *spatial) (AD-MT)."""
    return -(probabilities * (probabilities + 1e-10).log2()).sum(1, keepdim=True)
