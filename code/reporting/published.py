"""Published figures beside ours, as data with their sources."""
from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One row of a published table, as its source prints it."""

    data_set: str
    labeled_num: str
    """Our words: 7, 10%, all."""
    method: str
    dice: float | None
    """Per cent."""
    jaccard: float | None
    hd95: float | None
    asd: float | None
    unit: str
    """Of the distances: voxels, mm or unknown."""
    network: str
    source: str
    """Key of the source."""
    protocol: str
    """What its authors did: split, selection."""
    comparable: bool
    """Whether its split and selection are those of one of our protocols."""
    remark: str
