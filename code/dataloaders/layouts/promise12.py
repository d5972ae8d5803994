"""PROMISE12 as `prepare.py promise12` writes it: as ACDC lies on disk, with cases called Case00, Case01, ..."""
from __future__ import annotations

from pathlib import Path

from dataloaders.layouts.acdc import AcdcSource


class PromiseSource(AcdcSource):
    """Reader of PROMISE12 (Litjens et al., Medical Image Analysis 2014); a case is a patient, and nothing is known of strata."""

    @staticmethod
    def fits(root: Path) -> bool:
        return AcdcSource.fits(root) and any((root / "data").glob("Case[0-9][0-9].h5"))

    def stratum_of(self, group: str) -> str:
        return ""
