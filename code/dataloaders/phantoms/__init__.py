"""How the synthetic data sets are drawn: pure functions of a seed. Their layouts are in `layouts`."""
