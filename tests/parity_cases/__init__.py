"""Which golden file is compared how: `BUILT` has a function for each file, `LATER` the method that a file waits for.

A later issue moves a line from `LATER` to `BUILT` (or shortens `later`) and adds a function: golden arrays in, computed arrays by name out.
"""
from parity_cases import evaluation, inference, methods, shared, simeps

BUILT = {**shared.FILES, **methods.FILES, **simeps.FILES, **evaluation.FILES, **inference.FILES}

LATER = {
    "bcp_acdc": "BCP", "bcp_la": "BCP", "bcp_masks": "BCP",
    "cct_2d": "CCT",
    "cps_2d": "CPS", "cps_3d": "CPS",
    "cross_teaching_2d": "cross teaching",
    "dan_2d": "DAN", "dan_3d": "DAN",
    "dct_2d": "DCT",
    "dssn_city": "DSSN", "dssn_selection": "DSSN", "dssn_voc": "DSSN",
    "entropy": "entropy minimisation", "entropy_minimization_2d": "entropy minimisation", "entropy_minimization_3d": "entropy minimisation",
    "fixmatch_cta_2d": "FixMatch", "fixmatch_standard_2d": "FixMatch",
    "focal_loss": "focal loss",
    "ict_2d": "ICT", "ict_3d": "ICT",
    "ohem_ce": "OHEM cross-entropy",
    "rdrop_2d": "R-Drop", "rdrop_3d": "R-Drop",
    "sliding_window_2d": "2D sliding window",
    "unimatch": "UniMatch", "unimatch_fixmatch": "UniMatch", "unimatch_medical": "UniMatch",
    "urpc_2d": "URPC", "urpc_3d": "URPC",
}
