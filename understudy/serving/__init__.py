"""Serving: a published model folder that answers and names its reasons. `base` is the contract and imports no torch."""
