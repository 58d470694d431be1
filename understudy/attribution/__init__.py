"""Which words of a text decided a model's answer: methods, what they explain, and words instead of tokens.

Imports nothing by itself, so that the names of the methods can be read without torch.
"""
