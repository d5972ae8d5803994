"""Which cases are trained, labelled, validated and tested: protocols, folds, draws."""
