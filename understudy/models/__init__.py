"""Models behind one seam: `base.Adapter`, an adapter for each architecture, and `load`, which makes them.

Imports nothing by itself, so that `import understudy.models` costs no torch.
"""
