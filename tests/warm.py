"""What a run loads before its first step, loaded once in the server that runs are forked from: compilers' tables and layouts.

An optimizer's first step loads torch._dynamo. Nothing here runs a torch operation, so a child is as fresh as a new interpreter.
"""
from importlib import import_module

import numpy as np

from metrics import score_case

for name in ("dataloaders.layouts.acdc", "dataloaders.layouts.folder", "dataloaders.layouts.nifti", "scipy.ndimage",
             "typeguard", "torch._dynamo"):
    import_module(name)
for shape in ((3, 8, 8), (8, 8)):
    score_case(np.ones(shape, np.uint8), np.zeros(shape, np.uint8), 2, None)
