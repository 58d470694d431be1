"""METHODS: every attribution method by its name, one short file each.

A method sees what an adapter offers to all of them (`embed`, `objective`, `baseline`, `attention`) and returns one
score a token, or one a word; it never learns which architecture it runs on. To add one, write its file and import it
here. Names and settings can be read without torch or captum.
"""

from understudy.attribution.methods.attention_rollout import AttentionRollout
from understudy.attribution.methods.first_words import FirstWords
from understudy.attribution.methods.gradient_shap import GradientShap
from understudy.attribution.methods.input_x_gradient import InputXGradient
from understudy.attribution.methods.integrated_gradients import IntegratedGradients
from understudy.attribution.methods.occlusion import Occlusion
from understudy.attribution.methods.random import RandomWords
from understudy.attribution.methods.registry import METHODS, Method, make_method, settings_of
from understudy.attribution.methods.saliency import Saliency
from understudy.attribution.methods.smooth_grad import SmoothGrad

__all__ = [
    "METHODS",
    "AttentionRollout",
    "FirstWords",
    "GradientShap",
    "InputXGradient",
    "IntegratedGradients",
    "Method",
    "Occlusion",
    "RandomWords",
    "Saliency",
    "SmoothGrad",
    "make_method",
    "settings_of",
]
