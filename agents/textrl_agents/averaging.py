"""WeightAverage: an exponential moving average of a policy's weights, and the exchange of the two.

Averaged weights follow the path of training without its last steps' noise (Polyak and Juditsky
1992; InstructGPT evaluates such an average, Ouyang et al. 2022, arXiv:2203.02155, appendix C).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["WeightAverage"]


class WeightAverage:
    """average ← decay · average + (1 − decay) · weights, after each `update`.

    The first update takes the weights as they are, so that no start at 0 has to be corrected.

    Args:
        parameters: those that are trained.
        decay: share of the past, in [0, 1).
    """

    def __init__(self, parameters: Sequence[nn.Parameter], *, decay: float) -> None:
        self.parameters = list(parameters)
        self.decay = decay
        self.stored: list[Tensor] | None = None
        """The average; while `is_exchanged`, the weights that training goes on from."""
        self.is_exchanged = False

    @torch.no_grad()
    def update(self) -> None:
        """Takes the weights of now in."""
        if self.stored is None:
            self.stored = [parameter.detach().clone() for parameter in self.parameters]
        for average, parameter in zip(self.stored, self.parameters, strict=True):
            average.lerp_(parameter, 1 - self.decay)

    @torch.no_grad()
    def exchange(self) -> None:
        """Puts the average into the policy and keeps the weights, or the other way round."""
        if self.stored is None:
            return
        for other, parameter in zip(self.stored, self.parameters, strict=True):
            kept = parameter.detach().clone()
            parameter.copy_(other)
            other.copy_(kept)
        self.is_exchanged = not self.is_exchanged

    def state(self) -> dict[str, Tensor]:
        """Returns what `set_state` reads: tensors by name."""
        stored = self.stored or []
        tensors = {f"{i}": tensor.contiguous() for i, tensor in enumerate(stored)}
        return {**tensors, "is_exchanged": torch.tensor(self.is_exchanged)}

    def set_state(self, state: dict[str, Tensor]) -> None:
        """Goes on from a state, the policy holding the weights that it was saved with."""
        self.is_exchanged = bool(state["is_exchanged"])
        places = zip(range(len(state) - 1), self.parameters, strict=False)
        self.stored = [state[f"{i}"].to(parameter) for i, parameter in places] or None
