"""What a return is worth: β of the KL wrapper, and the place between reference and optimum."""

from typing import Any

from textrl_envs.optimum import has_exact_optimum, optimum
from textrl_envs.wrappers.kl_charge import AdaptiveCoefficient, KLCharge
from textrl_envs.wrappers.vector import KLPenalty

__all__ = [
    "keep_coefficient",
    "kl_charge",
    "kl_coefficient",
    "normalised_score",
    "restore_coefficient",
]


def kl_charge(envs: Any) -> KLCharge | None:  # noqa: ANN401 - any stack of wrappers
    """Returns the charge of the KL wrapper, wherever in the stack; None where there is none."""
    while not isinstance(envs, KLPenalty):
        if envs is envs.unwrapped:
            return None
        envs = envs.env
    return envs.charge


def kl_coefficient(envs: Any) -> float:  # noqa: ANN401 - any stack of wrappers
    """Returns β as the KL wrapper charges it now; NaN where there is none."""
    charge = kl_charge(envs)
    return float("nan") if charge is None else charge.coefficient


def normalised_score(value: float, envs: Any) -> dict[str, float]:  # noqa: ANN401
    """Returns how far a return is from the reference's, 0, to the optimum's, 1; empty if unknown.

    An adaptive coefficient has no single objective, and no score; nor has a KL from another
    reference than the environment's.
    """
    charge = kl_charge(envs)
    if charge is None or charge.adaptive is not None or not charge.coefficient > 0:
        return {}
    if not has_exact_optimum(envs) or charge.reference is not envs.unwrapped.reference:
        return {}
    best = optimum(envs, kl_coefficient=charge.coefficient)
    return {"normalised_score": best.normalise(value)}


def _adaptive(envs: Any) -> AdaptiveCoefficient | None:  # noqa: ANN401
    charge = kl_charge(envs)
    return None if charge is None else charge.adaptive


def keep_coefficient(envs: Any, memory: dict[str, float]) -> None:  # noqa: ANN401
    """Notes the state of an adaptive coefficient, if there is one, among an agent's numbers."""
    if (adaptive := _adaptive(envs)) is not None:
        memory.update({f"kl_coefficient.{k}": v for k, v in adaptive.state().items()})


def restore_coefficient(envs: Any, memory: dict[str, float]) -> None:  # noqa: ANN401
    """Sets an adaptive coefficient to what `keep_coefficient` noted."""
    if (adaptive := _adaptive(envs)) is not None:
        kept = {
            k.partition(".")[2]: v for k, v in memory.items() if k.startswith("kl_coefficient.")
        }
        if kept:
            adaptive.set_state(kept)
