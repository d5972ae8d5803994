"""PROMISE12 as `prepare.py promise12` writes it: as ACDC lies on disk, with cases called Case00, Case01, ..."""
from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from dataloaders.description import DataSet, official_parts
from dataloaders.intensities import clipped
from dataloaders.layouts.acdc import AcdcSource
from dataloaders.listing import matching
from dataloaders.settings import SSL4MIS


class PromiseSource(AcdcSource):
    """Reader of PROMISE12 (Litjens et al., Medical Image Analysis 2014); a case is a patient, and nothing is known of strata."""

    protocols: ClassVar = {"official": official_parts}
    folds: ClassVar = {}
    raw = (clipped, "clipped to its 0.5 and 99.5 percentiles and mapped to 0..1, as prepare.py promise12 does")

    @classmethod
    def fits(cls, root: Path) -> bool:
        return super().fits(root) and bool(matching(root / "data", "Case[0-9][0-9].h5"))

    def stratum_of(self, group: str) -> str:
        return ""


DATA_SETS = (
    DataSet("PROMISE12", PromiseSource, ("background", "prostate"), unit="patient", special=True, defaults=SSL4MIS | {"labeled_num": "2"},
            note="PROMISE12: nobody has published the lists of its 35/5/10 cases; ours are drawn, compare figures with care."),
)
