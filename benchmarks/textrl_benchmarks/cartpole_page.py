"""The page of CartPole: PPO's losses and advantages outside text, beside CleanRL's figures.

python -m textrl_benchmarks.cartpole_page --seeds 0 1 2 3 4 --workers 2 --out docs/cartpole.md
"""

import platform
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
import tyro

from textrl_benchmarks.cartpole import GOAL, LAST_EPISODES, Returns, Settings, train

__all__ = ["main", "page"]

PAGE = """# CartPole: the same arithmetic outside text

PPO's losses (`clipped_policy_loss`, `clipped_value_loss`, `entropy_loss`) and advantages
(`generalised_advantages`, `standardise`), imported from `textrl_agents` as they are, train two
small networks on Gymnasium's CartPole-v1, where other people's figures stand beside ours. What
surrounds them is one file, `benchmarks/textrl_benchmarks/cartpole.py`: no text, no collector and no
policy of this project.

Rollouts are cut into fragments of one episode each, which are the rows of the advantages. A
fragment whose episode terminated has nothing more to come. One that the time limit or the end of
the rollout cut off is bootstrapped by the value.

Mean training return of the last {last} episodes, actions sampled, after so many steps of {envs}
environments together. 500 is the most there is, and the task counts as solved at {goal:.0f}.

{table}

Mean and standard deviation of the last mean over seeds: **{mean:.2f} ± {deviation:.2f}**. CleanRL's
page reports 490.04 ± 6.12 for its ppo.py, three seeds, and 497.54 ± 4.02 for OpenAI Baselines. It
is measured likewise: of each run the mean of its last {last} training returns after 500,000 steps;
of these means the mean and standard deviation over seeds (`rlops` of openrlbenchmark, which makes
CleanRL's tables). The settings are those of CleanRL's ppo.py. Two things differ: CleanRL does not
bootstrap at the time limit, and it scales advantages in each minibatch instead of the whole batch.

*`{command}`; {versions}; one thread a run.*
"""


def page(runs: dict[int, Returns], settings: Settings) -> str:
    """Returns docs/cartpole.md."""
    marks = [settings.total_steps * part // 5 for part in range(1, 6)]
    head = ["seed", *(f"{mark:,}" for mark in marks), f"first at {GOAL:.0f}"]
    lines = [head, ["---:"] * len(head)]
    for seed, run in runs.items():
        solved = run.solved_at()
        means = [f"{run.mean_at(mark):.1f}" for mark in marks]
        lines.append([str(seed), *means, "never" if solved is None else f"{solved:,}"])
    final = np.array([run.mean_at(settings.total_steps) for run in runs.values()])
    seeds = " ".join(map(str, runs))
    return PAGE.format(
        last=LAST_EPISODES,
        envs=settings.num_envs,
        goal=GOAL,
        table="\n".join(f"| {' | '.join(line)} |" for line in lines),
        count=len(runs),
        mean=final.mean(),
        deviation=final.std(),
        command=f"python -m textrl_benchmarks.cartpole_page --seeds {seeds} "
        f"--total-steps {settings.total_steps} --out docs/cartpole.md",
        versions=f"Python {platform.python_version()}, gymnasium {gym.__version__}, "
        f"torch {torch.__version__}, numpy {np.__version__}",
    )


def main(
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    total_steps: int = 500_000,
    workers: int = 1,
    out: Path | None = None,
) -> None:
    """Trains once a seed, prints the page, and writes it.

    Args:
        seeds: one run each.
        total_steps: of each run.
        workers: processes side by side.
        out: the page; it is printed alone where there is none.
    """
    settings = Settings(total_steps=total_steps)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        found = list(pool.map(train, seeds, [settings] * len(seeds)))
    text = page(dict(zip(seeds, found, strict=True)), settings)
    print(text)  # noqa: T201
    if out is not None:
        out.write_text(text)


if __name__ == "__main__":
    tyro.cli(main)
