"""Data: files of examples in, checked rows out. Imports no torch.

`read` turns a file into raw rows, `rows` turns a raw row into an example, `validate` does so for a whole file and lists
what it set aside, `split` divides examples by their content, `parquet` stores them between stages, and `docstrings`
makes the data set of the quickstart.
"""
