"""What the example board is made of: agents, environments, files of a cell. All of it invented."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from textrl_benchmarks.leaderboard.cell import Cell, canonical_json, sha256

JSON = dict[str, Any]

HOSTILE = (
    '<img src="https://example.invalid/x.png" onerror="window.hacked = 1">',
    "</script><script>window.hacked = 2</script>",
    "\u2028",
    "<!--",
)
"""What a response may say without the page obeying."""

ENVIRONMENTS = {
    "Keyword": ["sparse credit"],
    "KeywordDense": ["dense credit"],
    "LongKeyword": ["sparse credit", "long horizon"],
    "ExactLength": ["when to end"],
    "Brackets": ["structure"],
    "Format": ["structure"],
    "Parity": ["exploration"],
    "Passcode": ["exploration"],
    "SumVerify": ["many prompts"],
    "Mixture": ["many prompts"],
    "KLTrade": ["reward against KL"],
    "LengthHack": ["reward against KL", "when to end"],
}
AGENTS = {
    "ppo": ("ppo", "auto", 0.93),
    "reinforce": ("reinforce", "auto", 0.78),
    "expert_iteration": ("expert_iteration", "auto", 0.86),
    "ppo_table": ("ppo", "table", 0.7),
    "grpo": ("grpo", "auto", 0.9),
    "rloo": ("reinforce", "auto", 0.81),
    "a2c": ("a2c", "auto", 0.55),
    "trpo": ("trpo", "auto", 0.74),
    "sb3_ppo": ("sb3_ppo", "auto", 0.6),
    "sb3_a2c": ("sb3_a2c", "auto", 0.3),
    "best_of_16": ("best_of_n", "auto", 0.62),
    "my_agent": ("my_agent.py:MyAgent", "auto", 0.45),
}
FIXED = {
    "optimum": ("optimum", 1.0),
    "reference": ("reference", 0.0),
    "null_constant": ("null", -0.5),
    "null_echo": ("null", -math.inf),
    "null_empty": ("null", -0.7),
    "null_repeat": ("null", -1.6),
    "null_uniform": ("null", -7.4),
}
UNKNOWN_KL, FAILING = "my_agent", "sb3_a2c"
PROMPTS = ("the old king", "once upon a time", "in the north", "a girl", "the fox", "one night")
STORY = (
    "the dragon slept under a mountain of gold and a small brave sailor sang until it woke . "
    "she gave the king her lantern ; nobody saw where he went"
)
TAUS = [round(-1 + i / 20, 2) for i in range(43)]

MANIFEST: JSON = {
    "git": {"commit": sha256(b"an example")[:40], "is_dirty": False},
    "versions": {"python": "3.11.2", "numpy": "2.4.6", "torch": "2.13.0"},
    "pip_freeze_sha256": sha256(b"pip freeze"),
    "platform": "Linux x86_64",
    "cpu": "an example processor",
    "gpu": None,
    "threads": 1,
    "start": "2026-01-01T00:00:00+00:00",
    "end": "2026-01-01T00:00:40+00:00",
    "wall_seconds": 40.1,
    "cpu_seconds": 38.2,
    "argv": ["textrl", "leaderboard", "run", "--suite", "example"],
}


@dataclass(frozen=True)
class Environment:
    """Score against KL is s (1 − exp(−KL / k)); its slope at the optimum is β."""

    id: str
    tags: list[str]
    top: float
    k: float
    best_kl: float

    @property
    def beta(self) -> float:
        return self.top / self.k * math.exp(-self.best_kl / self.k)

    @property
    def optimum(self) -> float:
        return self.score(self.best_kl) - self.beta * self.best_kl

    def score(self, kl: float) -> float:
        return self.top * (1 - math.exp(-kl / self.k))

    def as_dict(self) -> JSON:
        kls = np.linspace(0, 3 * self.best_kl, 40)
        return {
            "id": self.id,
            "tags": self.tags,
            "budget_tokens": 60_000,
            "kl_coefficient": digits(self.beta),
            "reference_value": 0.0,
            "optimum_value": digits(self.optimum),
            "frontier": [{"kl": digits(kl), "score": digits(self.score(kl))} for kl in kls],
        }


def digits(value: float) -> float:
    """Returns six significant digits, as stored samples have."""
    return float(f"{value:.6g}")


def cell_files(spec: Cell, record: JSON, env: Environment, is_off: bool) -> JSON:
    anchors = {"reference": 0.0, "optimum": env.optimum, "kl_coefficient": env.beta}
    result = {
        "episodes": 512,
        "tokens": 61_440 if spec.budget_tokens else 0,
        **{key: record[key] for key in ("score", "kl", "normalised_score", "gold", "length")},
        "score_error": 0.006,
        "is_off_reference": is_off,
        "distinct": record["distinct"],
        "commonest": record["commonest"],
        "anchors": anchors,
    }
    files = {"spec.json": spec.as_dict(), "manifest.json": MANIFEST, "result.json": result}
    sums = [f"{sha256(canonical_json(content))}  {name}" for name, content in files.items()]
    return {
        "spec": spec.as_dict(),
        "manifest": MANIFEST,
        "result": result,
        "sha256sums": "\n".join(sums) + "\n",
    }


def failure(spec: Cell) -> JSON:
    message = f"expected a Box observation, got a Dict {HOSTILE[1]}"
    return {
        "cell": spec.folder_name,
        "agent": spec.agent,
        "env": spec.env_id,
        "seed": spec.seed,
        "type": "ValueError",
        "message": message,
        "traceback": f"Traceback (most recent call last):\n  ...\nValueError: {message}",
        "spec": spec.as_dict(),
        "manifest": MANIFEST,
    }
