"""What somebody with a few labelled and many unlabelled images asks: does unlabelled data help, by which method, which images next?

May import what runs, tests and reports are made of (`sweeps`, `reporting`, `evaluation`, `inference`, `prediction`, `preparation`,
`pictures`, `networks`, `storage`, `system`, `dataloaders`); runs are flat scripts, started as a sweep starts them.
"""
