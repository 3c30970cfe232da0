"""What `textrl train` does: make, train, evaluate, and write a run folder.

train(options)       a new run
resume(path)         goes on with a run that was stopped or killed, to the same end
complete(options)    whichever of the two is needed, or neither
"""

import contextlib
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from rich.console import Console

import textrl_agents
from textrl_agents.agent import StopTraining
from textrl_agents.policies import CausalLMPolicy, FixedPolicy
from textrl_agents.registry import agent_class
from textrl_benchmarks.commands.environment_options import (
    EnvironmentOptions,
    check_numbers,
    make_environment,
    read_settings,
)
from textrl_benchmarks.commands.train import Train
from textrl_benchmarks.evaluation import Evaluation, evaluate
from textrl_benchmarks.plot import plot_curves
from textrl_benchmarks.progress import TrainingDisplay
from textrl_benchmarks.report import print_evaluations, print_samples
from textrl_benchmarks.run_folder import RunFolder
from textrl_envs.errors import InvalidInputError
from textrl_envs.optimum import Optimum, has_exact_optimum, optimum
from textrl_envs.wrappers.vector import AdaptiveCoefficient, KLPenalty

__all__ = ["complete", "resume", "train"]


def train(options: Train) -> bool:
    """Trains a new agent; returns whether it came to its end, and was not interrupted.

    Raises:
        InvalidInputError: options that cannot be used, or a folder that cannot be written.
    """
    _check(options)
    _check_agent(options.agent)
    torch.set_num_threads(options.threads)
    base = _make(options, options.environment)
    held_out = _held_out(options, base)
    agent = textrl_agents.make(
        options.agent,
        base,
        policy=options.environment.model if options.policy == "auto" else options.policy,
        sampling=read_settings(options.sampling_args) or None,
        lora=read_settings(options.lora_args) or None,
        seed=options.seed,
        device=options.device,
        **_agent_settings(options),
    )
    _check_batch(options, agent)
    _with_penalty(options, base, agent)  # what is wrong with it shows before a folder is made
    name = f"{options.environment.env.rpartition('/')[2]}-{agent.name}-{options.seed}"
    folder = RunFolder.create(options.out, name=name)
    folder.write_config(_to_plain(options), agent.config)
    return _run(options, agent, base, held_out, folder)


def resume(path: Path) -> bool:
    """Goes on with a run, with the options it was begun with; returns as `train` does.

    Raises:
        InvalidInputError: the folder holds no run with a checkpoint.
    """
    folder = RunFolder.open(path)
    options = _from_plain(folder.options())
    torch.set_num_threads(options.threads)
    base = _make(options, options.environment)
    agent = agent_class(options.agent).load(folder.checkpoint(), device=options.device)
    Console().print(f"resumed at {agent.tokens:,} tokens", highlight=False)
    return _run(options, agent, base, _held_out(options, base), folder)


def complete(options: Train) -> None:
    """Makes the run of `options.out`: none where it has a result, the rest where it was begun.

    Raises:
        KeyboardInterrupt: the run was interrupted; so shall be what makes many of them.
    """
    assert options.out is not None
    folder = RunFolder(options.out)
    if (folder.path / "result.json").exists():
        return
    if not (resume(options.out) if folder.has_checkpoint() else train(options)):
        raise KeyboardInterrupt


def _run(
    options: Train,
    agent: Any,  # noqa: ANN401 - any agent of the suite
    base: Any,  # noqa: ANN401 - a vector environment
    held_out: Any,  # noqa: ANN401 - a vector environment
    folder: RunFolder,
) -> bool:
    console = Console()
    _print_start(console, options, agent, folder)
    envs = _with_penalty(options, base, agent)
    before = _evaluate_reference(options, held_out, envs)
    if not _learn(options, agent, envs, folder, console):
        return False
    after = evaluate(
        agent, _at_same_price(held_out, envs), episodes=options.eval_episodes, seed=options.seed
    )
    if isinstance(agent.policy, CausalLMPolicy):
        # With its tokenizer the checkpoint's policy is a Transformers folder like any other.
        base.unwrapped.task.tokenizer.save_pretrained(folder.checkpoint() / "policy")
    _finish(folder, agent, {**before, "trained": after}, options, console, envs=envs)
    return True


def _optimum(options: Train, envs: Any) -> Optimum | None:  # noqa: ANN401
    """Returns the optimum that the run is to be seen beside, if it has one."""
    if options.kl_target is not None or not isinstance(envs, KLPenalty):
        return None
    return optimum(envs) if has_exact_optimum(envs) else None


def _make(options: Train, environment: EnvironmentOptions) -> Any:  # noqa: ANN401
    return make_environment(environment.env, environment.parameters(), options.num_envs)


def _check(options: Train) -> None:
    check_numbers(options, positive=("total_tokens", "num_envs", "threads", "checkpoint_seconds"))
    if options.policy != "auto" and options.environment.model is not None:
        raise InvalidInputError(
            f"The policy {options.policy!r} has no model to start from; give --policy or --model."
        )
    if options.kl_target is not None and not 0 < options.kl_target < float("inf"):
        raise InvalidInputError(f"--kl-target must be positive; got {options.kl_target}.")
    if options.eval_episodes < max(2, options.num_envs):
        raise InvalidInputError(
            f"--eval-episodes must be at least --num-envs, {options.num_envs}, and 2; "
            f"got {options.eval_episodes}."
        )


def _check_agent(name: str) -> None:
    if not hasattr(agent_class(name), "make_config"):
        raise InvalidInputError(
            f"textrl train trains subclasses of textrl_agents.on_policy.OnPolicyAgent, whose runs "
            f"it can save and resume; {name} is an agent of another kind. "
            "Give it to textrl leaderboard, or call its learn."
        )


def _agent_settings(options: Train) -> dict[str, Any]:
    settings = read_settings(options.agent_args)
    for name in ("policy", "sampling", "seed", "device"):
        if name in settings:
            raise InvalidInputError(
                f"{name} is no setting of an agent, but an option; see textrl train --help."
            )
    return settings


def _check_batch(options: Train, agent: Any) -> None:  # noqa: ANN401 - any agent of the suite
    count = agent.config.episodes_per_batch
    if count < options.num_envs or count % agent.group_size:
        raise InvalidInputError(
            f"episodes_per_batch must be at least --num-envs, {options.num_envs}, and a multiple "
            f"of the group size, {agent.group_size}; got {count}. "
            "Set it by --agent-args episodes_per_batch=..."
        )


def _held_out(options: Train, base: Any) -> Any:  # noqa: ANN401 - a vector environment
    if options.eval_prompts is None:
        return base
    changed = replace(options.environment, prompts=options.eval_prompts)
    return _make(options, changed)


def _with_penalty(options: Train, base: Any, agent: Any) -> Any:  # noqa: ANN401
    if base.unwrapped.reference is None:
        if options.kl_target is not None or options.environment.kl_coefficient is not None:
            raise InvalidInputError(
                "A KL penalty needs a reference; give the environment one, or neither --kl-target "
                "nor --kl-coefficient."
            )
        return base
    coefficient: float | AdaptiveCoefficient | None = None
    if options.kl_target is not None:
        coefficient = AdaptiveCoefficient(
            value=base.unwrapped.kl_coefficient, target=options.kl_target
        )
    return KLPenalty(base, policy=agent.policy, coefficient=coefficient)


def _at_same_price(held_out: Any, envs: Any) -> Any:  # noqa: ANN401 - vector environments
    """Returns the held-out environment with the training's reference, and β as it stands now."""
    if not isinstance(envs, KLPenalty):
        return held_out
    charge = envs.charge
    return KLPenalty(
        held_out,
        policy=charge.policy,
        reference=charge.reference,
        coefficient=charge.coefficient,
    )


def _evaluate_reference(
    options: Train,
    held_out: Any,  # noqa: ANN401 - a vector environment
    envs: Any,  # noqa: ANN401 - a vector environment
) -> dict[str, Evaluation]:
    if not isinstance(envs, KLPenalty):
        return {}
    found = evaluate(
        FixedPolicy(envs.charge.reference),
        _at_same_price(held_out, envs),
        episodes=options.eval_episodes,
        seed=options.seed,
    )
    return {"reference": found}


def _learn(
    options: Train,
    agent: Any,  # noqa: ANN401
    envs: Any,  # noqa: ANN401
    folder: RunFolder,
    console: Console,
) -> bool:
    """Trains with a display and checkpoints; Ctrl-C ends it after the current iteration.

    Returns:
        Whether the budget was spent.
    """
    display = TrainingDisplay(options.total_tokens, console)
    marks = {"time": time.monotonic(), "tokens": float(agent.tokens), "saved": time.monotonic()}
    with display.live(), _interrupt_asks() as is_asked:

        def progress(row: Mapping[str, float]) -> None:
            now = time.monotonic()
            rate = (row["tokens"] - marks["tokens"]) / (now - marks["time"])
            folder.add_timing(
                {
                    "iteration": row["iteration"],
                    "tokens": row["tokens"],
                    "seconds": round(now - marks["time"], 4),
                    "tokens_per_second": round(rate, 1),
                }
            )
            marks["time"], marks["tokens"] = now, row["tokens"]
            display.show(row, rate)
            if now - marks["saved"] >= options.checkpoint_seconds:
                folder.save(agent)
                marks["saved"] = time.monotonic()
            if is_asked():
                raise StopTraining

        agent.learn(envs, total_tokens=options.total_tokens, progress=progress)
        was_stopped = is_asked()
    folder.save(agent)
    if was_stopped:
        console.print(
            f"stopped at {agent.tokens:,} of {options.total_tokens:,} tokens; "
            f"go on with: textrl train --resume {folder.path}",
            highlight=False,
            soft_wrap=True,
        )
    return not was_stopped


@contextlib.contextmanager
def _interrupt_asks() -> Iterator[Any]:
    """Turns the first Ctrl-C into a request; a second one interrupts at once."""
    asked: list[bool] = []

    def ask(_signal: int, _frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(True)

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, before)


def _print_start(console: Console, options: Train, agent: Any, folder: RunFolder) -> None:  # noqa: ANN401
    count = sum(p.numel() for p in agent.policy.parameters())
    console.print(
        f"{agent.name} on {options.environment.env}: {type(agent.policy).__name__} of {count:,} "
        f"parameters on {agent.policy.device}, {options.total_tokens:,} tokens, "
        f"seed {options.seed}\nrun folder {folder.path}",
        highlight=False,
        soft_wrap=True,
    )


def _finish(
    folder: RunFolder,
    agent: Any,  # noqa: ANN401
    evaluations: dict[str, Evaluation],
    options: Train,
    console: Console,
    *,
    envs: Any,  # noqa: ANN401 - a vector environment
) -> None:
    folder.write_result(evaluations)
    title = f"{agent.name} on {options.environment.env}, seed {options.seed}"
    best = _optimum(options, envs)
    plot_curves(agent.log.rows, evaluations, folder.path / "curves.png", title=title, best=best)
    print_samples(console, evaluations, count=4)
    console.print()
    print_evaluations(console, evaluations)
    if options.kl_target is not None and has_exact_optimum(envs):
        found = evaluations["trained"]
        most = optimum(envs).most_reward(found.kl.mean)
        console.print(
            f"no policy of this KL has a mean reward above {most:.3f}: "
            f"{most - found.reward.mean:.3f} from the frontier",
            highlight=False,
        )
    console.print(f"\nresults in {folder.path}", highlight=False, soft_wrap=True)


def _to_plain(options: Train) -> dict[str, Any]:
    plain = asdict(options)
    del plain["resume"]
    plain["out"] = str(options.out) if options.out else None
    for name in ("model", "prompts", "reward"):  # found again from any folder
        plain["environment"][name] = _absolute(plain["environment"][name])
    plain["eval_prompts"] = _absolute(plain["eval_prompts"])
    return plain


def _absolute(name: str | None) -> str | None:
    """Returns the full path of a name that leads to a file or folder, and any other as it is."""
    place, colon, attribute = (name or "").partition(".py:")
    path = Path(place + ".py" if colon else place)
    if not name or not path.exists():
        return name
    return f"{path.resolve()}{':' + attribute if colon else ''}"


def _from_plain(plain: dict[str, Any]) -> Train:
    try:
        environment = dict(plain["environment"])
        environment["env_args"] = tuple(environment["env_args"])
        rest = {key: value for key, value in plain.items() if key != "environment"}
        rest["agent_args"] = tuple(rest["agent_args"])
        for name in ("sampling_args", "lora_args"):
            rest[name] = tuple(rest.get(name, ()))
        rest["out"] = Path(rest["out"]) if rest["out"] else None
        return Train(environment=EnvironmentOptions(**environment), **rest)
    except (KeyError, TypeError) as error:
        raise InvalidInputError(f"The run's config.json is broken: {error}.") from error
