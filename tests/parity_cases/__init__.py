"""Which golden file is compared how: `BUILT` has a function for each file, `LATER` the method that a file waits for.

A later issue moves a line from `LATER` to `BUILT` (or shortens `later`) and adds a function: golden arrays in, computed arrays by name out.
"""
from parity_cases import (
    alternate_teachers,
    ambiguity,
    baselines,
    caml,
    co_bionet,
    copy_paste,
    cross_match,
    cross_teaching,
    desco,
    dhc,
    dssn,
    evaluation,
    fixmatch,
    industry,
    inference,
    mcf,
    meta,
    methods,
    patch_contrast,
    photographs,
    prototypes,
    pyramid,
    self_training,
    shared,
    simeps,
    two_networks,
    uncertainty,
    unimatch,
)

BUILT = {
    **shared.FILES, **methods.FILES, **simeps.FILES, **evaluation.FILES, **inference.FILES, **pyramid.FILES, **two_networks.FILES,
    **baselines.FILES, **cross_teaching.FILES, **fixmatch.FILES, **copy_paste.FILES, **mcf.FILES, **dhc.FILES, **ambiguity.FILES,
    **alternate_teachers.FILES, **cross_match.FILES, **prototypes.FILES, **co_bionet.FILES, **caml.FILES, **unimatch.FILES, **dssn.FILES,
    **photographs.FILES, **self_training.FILES, **industry.FILES, **uncertainty.FILES, **desco.FILES, **meta.FILES,
    **patch_contrast.FILES,
}

LATER: dict[str, str] = {}
