"""Understudy: distil a large language model into a small one, and prove whether it worked.

`attribute`, `compare`, `distill` and `load` do in this process what the services do (docs/python.md). Each is loaded
when it is first named, so that `import understudy` stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from understudy.python.attributions import attribute, compare
    from understudy.python.distillation import distill
    from understudy.python.loaded import load

__all__ = ["attribute", "compare", "distill", "load"]

_HOMES = {"attribute": "attributions", "compare": "attributions", "distill": "distillation", "load": "loaded"}

if not TYPE_CHECKING:  # a type checker would believe in every name

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module 'understudy' has no attribute '{name}'")
        return getattr(import_module(f"understudy.python.{_HOMES[name]}"), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
