"""Agents by name: those of the entry-point group `textrl_agents`, and `path/to/file.py:MyAgent`.

An agent is a subclass of `OnPolicyAgent`, or any class with a classmethod
`make(envs, *, seed, device, **settings)` whose instances follow `textrl_agents.agent.Agent`.
"""

import inspect
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from textrl_envs.errors import InvalidInputError, nearest
from textrl_envs.rewards.loading import load_object

if TYPE_CHECKING:
    from collections.abc import Mapping

    from textrl_agents.policies.base import Policy
    from textrl_agents.policies.lora import Lora
    from textrl_agents.policies.sampling import Sampling

__all__ = ["agent_class", "agent_names", "make"]

GROUP = "textrl_agents"


def agent_names() -> list[str]:
    """Returns the names of all installed agents, sorted."""
    return sorted({entry.name for entry in entry_points(group=GROUP)})


def agent_class(name: str) -> Any:  # noqa: ANN401 - a class that follows `Agent`
    """Returns the class of that name, or of `module:Class` or `path/to/file.py:Class`.

    Raises:
        InvalidInputError: an unknown name, a file without that class, or something that is no
            agent.
    """
    loaded = load_object(name, "agent") if ":" in name else _installed(name)
    if not isinstance(loaded, type) or not (_has_config(loaded) or hasattr(loaded, "make")):
        raise InvalidInputError(
            f"{name} is no agent; give a subclass of textrl_agents.on_policy.OnPolicyAgent, or a "
            "class with a classmethod make(envs, *, seed, device, **settings)."
        )
    return loaded


def _installed(name: str) -> Any:  # noqa: ANN401 - whatever the entry point leads to
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
    value_model: str | None = None,
    sampling: "Sampling | Mapping[str, Any] | None" = None,
    lora: "Lora | Mapping[str, Any] | None" = None,
    seed: int = 0,
    device: str = "auto",
    **settings: Any,  # noqa: ANN401 - the agent's own
) -> Any:  # noqa: ANN401 - follows `Agent`
    """Makes an agent for an environment.

    Args:
        name: "ppo", "reinforce", an installed agent, or `path/to/file.py:MyAgent`.
        envs: the environment it is to learn in; gives the vocabulary and the reference.
        policy: a policy, a Transformers folder to train, "table" (`TablePolicy`) or "lstm"
            (`LSTMPolicy`); None makes the one that suits the environment
            (`textrl_agents.policies.make_policy`).
        value_model: the folder of a Transformers decoder that gives the values, such as a reward
            model; None gives the policy a value head on its own trunk.
        sampling: how the new policy samples, such as `{"top_k": 5}`
            (`textrl_agents.policies.Sampling`); None samples from it as it is.
        lora: train low-rank adapters of a Transformers model alone, such as `{"rank": 8}`
            (`textrl_agents.policies.Lora`); None trains the whole policy.
        seed: of the policy's new weights, and of all sampling.
        device: "auto", "cpu", "cuda", ...
        settings: fields of the agent's config, such as `learning_rate=1e-3`; or what the `make` of
            an agent of another kind takes.

    Raises:
        InvalidInputError: an unknown agent or setting, a policy that does not fit, or one for an
            agent that makes its own; `value_model`, `sampling` or `lora` for a policy that is there
            already.
    """
    found = agent_class(name)
    if not _has_config(found):
        given = {"value_model": value_model, "sampling": sampling, "lora": lora}
        own = {**{k: v for k, v in given.items() if v is not None}, **settings}
        return _make_other(name, found, envs, policy, {"seed": seed, "device": device, **own})
    config = found.make_config(**settings)  # before the model is loaded: a typo answers at once
    if policy is None or isinstance(policy, str):
        # Not above: it loads torch, which listing agents does not need.
        from textrl_agents.policies.loading import make_policy
        from textrl_agents.policies.sampling import Sampling

        policy = make_policy(
            envs,
            model=policy,
            value_model=value_model,
            sampling=Sampling.of(sampling),
            lora=lora,
            seed=seed,
            device=device,
        )
    elif value_model is not None:
        raise InvalidInputError(
            "The policy is there already, and its value with it; leave value_model out, or let "
            "make_policy make the policy."
        )
    elif sampling is not None:
        raise InvalidInputError(
            f"The policy has a sampling of its own, {policy.sampling}; leave sampling out, or let "
            "make_policy make the policy."
        )
    elif lora is not None:
        raise InvalidInputError(
            "The policy is there already; leave lora out, or let make_policy make the policy."
        )
    return found(policy, config=config, seed=seed)


def _has_config(found: type) -> bool:
    """Tells whether an agent is of the first kind: a config, and a policy that it is given."""
    return hasattr(found, "make_config")


def _make_other(
    name: str,
    found: Any,  # noqa: ANN401 - a class with `make`
    envs: Any,  # noqa: ANN401 - a vector environment
    policy: object,
    settings: dict[str, Any],
) -> Any:  # noqa: ANN401 - follows `Agent`
    if policy is not None:
        raise InvalidInputError(f"{name} makes its own policy; leave policy out. Got {policy!r}.")
    _check_settings(name, found.make, settings)
    agent = found.make(envs, **settings)
    missing = [method for method in ("act", "learn") if not callable(getattr(agent, method, None))]
    if missing:
        raise InvalidInputError(
            f"{name} made {agent!r:.100}, which has no {' and no '.join(missing)}. "
            "An agent has both: textrl_agents.agent.Agent."
        )
    return agent


def _check_settings(name: str, make: Any, settings: dict[str, Any]) -> None:  # noqa: ANN401
    """Checks the settings before anything is made, so that a typo answers at once."""
    parameters = inspect.signature(make).parameters
    if any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
        return
    known = list(parameters)[1:]  # the first is the environment
    for key in ("seed", "device"):
        if key not in known:
            raise InvalidInputError(
                f"{name}.make must take {key}; expected make(envs, *, seed, device, **settings)."
            )
    for key in settings:
        if key not in known:
            own = [one for one in known if one not in ("seed", "device")]
            hint = nearest(key, own) if own else "It has none."
            raise InvalidInputError(f"{name} has no setting {key!r}. {hint}")
