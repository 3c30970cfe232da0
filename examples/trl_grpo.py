"""TRL's GRPO, or RLOO, on an environment of this suite, measured against the exact optimum.

    python examples/trl_grpo.py
    python examples/trl_grpo.py --env textrl/ExactLength-v0 --steps 600 --algorithm rloo

TRL trains Transformers models, and the reference of most environments is a table. So a tiny GPT-2
first learns the reference's distributions; TRL goes on from there. TRL samples and updates by
itself: the environment gives the prompts, and scores what TRL has sampled, token by token.
"""

import argparse
import tempfile
from typing import Any

import gymnasium as gym
import torch
from datasets import disable_progress_bars
from transformers import GPT2Config, GPT2LMHeadModel
from trl import (  # type: ignore[attr-defined]
    GRPOConfig,
    GRPOTrainer,
    RLOOConfig,
    RLOOTrainer,
)

import textrl_envs  # noqa: F401 - registers the environments
from textrl_agents.policies import CausalLMPolicy, make_policy
from textrl_agents.serving.distillation import distil
from textrl_benchmarks.evaluation import Evaluation, evaluate
from textrl_envs.interop.trl import trl_dataset, trl_reward, trl_settings
from textrl_envs.wrappers.vector import KLPenalty

ALGORITHMS = {"grpo": (GRPOTrainer, GRPOConfig), "rloo": (RLOOTrainer, RLOOConfig)}
GROUP = 8
"""Responses to a prompt."""


def main() -> None:
    """Clones the reference, trains the clone by TRL, and prints how good both are."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", default="textrl/Brackets-v0")
    parser.add_argument("--algorithm", choices=ALGORITHMS, default="grpo")
    parser.add_argument("--clone-tokens", type=int, default=60_000)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    envs = gym.make_vec(options.env, num_envs=64)
    model = clone_reference(envs, tokens=options.clone_tokens, seed=options.seed)
    print_evaluation("clone of the reference", measure(model, envs))
    model = train(model, envs, options.algorithm, steps=options.steps, seed=options.seed)
    print_evaluation(f"after {options.algorithm.upper()} by TRL", measure(model, envs))


def clone_reference(envs: Any, *, tokens: int, seed: int = 0) -> GPT2LMHeadModel:  # noqa: ANN401
    """Returns a tiny GPT-2 that has learnt what the environment's reference says."""
    task = envs.unwrapped.task
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=task.vocabulary_size,
        n_positions=task.max_tokens,
        n_embd=64,
        n_layer=2,
        n_head=4,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=task.tokenizer.eos_token_id,
        pad_token_id=task.tokenizer.pad_token_id,
    )
    student = CausalLMPolicy(GPT2LMHeadModel(config))
    # A policy that was not trained is the reference; it also writes the texts that are learnt from.
    teacher = make_policy(envs)
    distil(
        teacher, student, envs, total_tokens=tokens, seed=seed, samples="teacher",
        learning_rate=3e-3, epochs=1,
    )  # fmt: skip
    model: GPT2LMHeadModel = student.model
    return model


def train(
    model: GPT2LMHeadModel,
    envs: Any,  # noqa: ANN401
    algorithm: str = "grpo",
    *,
    steps: int,
    seed: int = 0,
) -> GPT2LMHeadModel:
    """Trains a model by TRL, the environment being its reward function."""
    trainer_class, config_class = ALGORITHMS[algorithm]
    with tempfile.TemporaryDirectory() as out:
        # TRL reads its own reference, which β keeps to, from the folder that the model is from.
        model.save_pretrained(f"{out}/clone")
        trainer = trainer_class(
            model=f"{out}/clone",
            processing_class=envs.unwrapped.task.tokenizer,
            train_dataset=trl_dataset(envs),
            reward_funcs=trl_reward(envs, seed=seed),
            args=config_class(
                **trl_settings(envs),
                output_dir=out,
                max_steps=steps,
                num_generations=GROUP,
                per_device_train_batch_size=64,
                gradient_accumulation_steps=1,
                learning_rate=1e-3,
                seed=seed,
                # TRL's defaults are for large models on a GPU.
                bf16=False,
                activation_checkpointing=False,
                use_cpu=True,
                logging_strategy="no",
                report_to="none",
                save_strategy="no",
                disable_tqdm=True,
            ),
        )
        trainer.train()
    return trainer.model  # type: ignore[no-any-return]


def measure(model: GPT2LMHeadModel, envs: Any) -> Evaluation:  # noqa: ANN401
    """Plays a model on the environment and charges its KL from the environment's reference."""
    policy = CausalLMPolicy(model, vocabulary_size=envs.unwrapped.task.vocabulary_size)
    return evaluate(policy, KLPenalty(envs, policy=policy), episodes=1024)


def print_evaluation(name: str, found: Evaluation) -> None:
    """Prints an evaluation in a line."""
    print(
        f"{name}: reward {found.reward} | KL {found.kl} | normalised score {found.normalised_score}"
    )


if __name__ == "__main__":
    disable_progress_bars()
    main()
