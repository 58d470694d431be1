"""Evaluation: what was right, whether a difference is one, and the report that says so. Imports no torch.

`metrics` and `compare` are arithmetic on right and wrong, `report` is the document, `run` is the stage that loads every
arm and fills it in.
"""
