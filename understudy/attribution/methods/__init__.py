"""METHODS: every attribution method by its name, one short file each.

A method sees an adapter's `embed`, `score` and `baseline` and returns one score a token; it never learns which
architecture it runs on. To add one, write its file and import it here. Names can be read without torch or captum.
"""

from understudy.attribution.methods.input_x_gradient import InputXGradient
from understudy.attribution.methods.integrated_gradients import IntegratedGradients
from understudy.attribution.methods.registry import METHODS, Method, make_method, settings_of
from understudy.attribution.methods.saliency import Saliency

__all__ = ["METHODS", "InputXGradient", "IntegratedGradients", "Method", "Saliency", "make_method", "settings_of"]
