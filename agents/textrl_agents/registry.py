"""Agents by name: those of the entry-point group `textrl_agents`, and `path/to/file.py:MyAgent`."""

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from textrl_envs.errors import InvalidInputError, nearest
from textrl_envs.rewards.loading import load_object

if TYPE_CHECKING:
    from textrl_agents.policies.base import Policy

__all__ = ["agent_class", "agent_names", "make"]

GROUP = "textrl_agents"


def agent_names() -> list[str]:
    """Returns the names of all installed agents, sorted."""
    return sorted({entry.name for entry in entry_points(group=GROUP)})


def agent_class(name: str) -> Any:  # noqa: ANN401 - a class that follows `Agent`
    """Returns the class of that name, or of `module:Class` or `path/to/file.py:Class`.

    Raises:
        InvalidInputError: an unknown name, or a file without that class.
    """
    if ":" in name:
        loaded = load_object(name, "agent")
        if not hasattr(loaded, "make_config"):
            raise InvalidInputError(
                f"{name} is no agent; give a subclass of textrl_agents.on_policy.OnPolicyAgent."
            )
        return loaded
    found = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name not in found:
        hint = " An agent in a file is FILE.py:CLASS." if name.endswith(".py") else ""
        raise InvalidInputError(f"Unknown agent {name!r}. {nearest(name, found)}{hint}")
    return found[name].load()


def make(
    name: str,
    envs: Any,  # noqa: ANN401 - a vector environment, wrapped or not
    *,
    policy: "Policy | str | None" = None,
    seed: int = 0,
    device: str = "auto",
    **settings: Any,  # noqa: ANN401 - the agent's own
) -> Any:  # noqa: ANN401 - follows `Agent`
    """Makes an agent for an environment.

    Args:
        name: "ppo", "reinforce", an installed agent, or `path/to/file.py:MyAgent`.
        envs: the environment it is to learn in; gives the vocabulary and the reference.
        policy: a policy, a Transformers folder to train, or "table" (`TablePolicy`); None makes the
            one that suits the environment (`textrl_agents.policies.make_policy`).
        seed: of the policy's new weights, and of all sampling.
        device: "auto", "cpu", "cuda", ...
        settings: fields of the agent's config, such as `learning_rate=1e-3`.

    Raises:
        InvalidInputError: an unknown agent or setting, or a policy that does not fit.
    """
    found = agent_class(name)
    config = found.make_config(**settings)  # before the model is loaded: a typo answers at once
    if policy is None or isinstance(policy, str):
        # Not above: it loads torch, which listing agents does not need.
        from textrl_agents.policies.loading import make_policy

        policy = make_policy(envs, model=policy, seed=seed, device=device)
    return found(policy, config=config, seed=seed)
