"""Many runs: which there are, what each stands at, and running them one after another, by Ray, or as a SLURM array."""
