"""Understudy: distil a large language model into a small one, and prove whether it worked."""
