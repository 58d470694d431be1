"""Data: files of examples in, checked rows out. Imports no torch.

`read` turns a file into raw rows, `validate` turns raw rows into examples and a list of what was set aside, `split`
divides examples by the hash of their content, `parquet` stores them between stages and `docstrings` makes the data set
of the quickstart.
"""
