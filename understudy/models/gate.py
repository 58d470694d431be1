"""A gate on each token: the logit that it belongs to a reason. Knows nothing of what is done with it."""

from __future__ import annotations

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init

__all__ = ["Gate", "WithGate"]


class Gate(nn.Linear):
    """One logit a token, (B, T, D) -> (B, T).

    0 at first, and nothing is drawn for it: a model with a gate begins as the one without it of the same seed.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, 1)

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, states: Tensor) -> Tensor:
        return super().forward(states).squeeze(-1)


class WithGate(PreTrainedModel):
    """Stands before the class of a model that has gates, which transformers would draw as it draws any layer."""

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, Gate):
            init.zeros_(module.weight)
            init.zeros_(module.bias)
        else:
            super()._init_weights(module)
