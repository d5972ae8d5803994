"""Which cases are trained, labelled, validated and tested: what is asked and made (`split`), folds, drawn orders. What the parts of a
protocol are stands with its layout.
May import: `description`, `errors`.
"""
