"""This project on the comparison job: `.venv/bin/python textrl.py FOLDER`.

ppo            policy and value on one trunk
ppo_separate   a value model of its own, as TRL has it
rloo           REINFORCE with the leave-one-out baseline, one step a batch
"""

from collections.abc import Mapping
from typing import Any

from transformers import GPT2ForSequenceClassification, GPT2LMHeadModel

from textrl_agents.episodes import Episodes
from textrl_agents.memory import keep_freed_memory
from textrl_agents.on_policy import OnPolicyAgent
from textrl_agents.policies import CausalLMPolicy, Sampling
from textrl_agents.ppo import PPO, PPOConfig
from textrl_agents.reinforce import REINFORCE, REINFORCEConfig
from textrl_benchmarks.speed.peers import harness
from textrl_envs.language_models.causal import CausalLanguageModel
from textrl_envs.prompts import Prompt
from textrl_envs.rewards.classifier import ClassifierReward
from textrl_envs.vector_env import TextVectorEnv
from textrl_envs.wrappers.vector import KLPenalty


def main() -> None:
    """Runs the job and prints what it took."""
    arguments = harness.read_arguments(["ppo", "ppo_separate", "rloo"])
    if arguments.algorithm == "rloo" and arguments.steps != 1:
        harness.fail("REINFORCE takes one step a batch: give --epochs 1 --minibatches 1.")
    clock = harness.Clock(arguments)
    keep_freed_memory()  # as the command line does
    agent = make_agent(arguments)
    envs = make_envs(arguments, agent)
    watch(agent, clock)
    clock.start()

    def end_of_update(_: Mapping[str, float]) -> None:
        clock.end("optimise")
        clock.end_update()

    updates = arguments.updates * arguments.job["batch"]
    for _ in range(arguments.updates):
        agent.learn(envs, total_tokens=agent.tokens + 1, progress=end_of_update)
    assert agent.iteration * arguments.job["batch"] == updates
    harness.report(clock, peer="textrl-envs", packages=("textrl-envs", "transformers", "torch"))


def make_envs(arguments: harness.Arguments, agent: OnPolicyAgent) -> KLPenalty:
    """Returns the job as an environment: its prompts, reward model, reference and KL."""
    from textrl_envs.tokenizers import load_tokenizer

    folder, job = arguments.folder, arguments.job
    reward_model = GPT2ForSequenceClassification.from_pretrained(folder / "reward_model")
    envs = TextVectorEnv(
        "text_bandit",
        num_envs=job["batch"],
        tokenizer=load_tokenizer(str(folder / "tokenizer")),
        prompts=[Prompt(token_ids=tuple(ids)) for ids in harness.prompts_of(arguments)],
        reward=ClassifierReward(reward_model, device="cpu"),
        max_new_tokens=job["new_tokens"],
        reference=CausalLanguageModel(load_policy(arguments), device="cpu"),
        kl_coefficient=job["kl_coefficient"],
    )
    return KLPenalty(envs, policy=agent.policy)


def load_policy(arguments: harness.Arguments) -> Any:  # noqa: ANN401 - Transformers' own
    """Returns the job's language model."""
    return GPT2LMHeadModel.from_pretrained(arguments.folder / "policy")


def make_agent(arguments: harness.Arguments) -> OnPolicyAgent:
    """Returns the agent with the job's models and settings."""
    job = arguments.job
    value_model = None
    if arguments.algorithm == "ppo_separate":
        path = arguments.folder / "value_model"
        value_model = GPT2ForSequenceClassification.from_pretrained(path)
    policy = CausalLMPolicy(
        load_policy(arguments),
        value_model=value_model,
        sampling=Sampling(temperature=job["temperature"]),
        device="cpu",
    )
    common: dict[str, Any] = {
        "episodes_per_batch": job["batch"],
        "learning_rate": job["learning_rate"],
        "learning_rate_schedule": "constant",
    }
    if arguments.algorithm == "rloo":
        return REINFORCE(policy, config=REINFORCEConfig(group_size=4, **common), seed=job["seed"])
    settings = PPOConfig(epochs=arguments.epochs, minibatches=arguments.minibatches, **common)
    return PPO(policy, config=settings, seed=job["seed"])


def watch(agent: OnPolicyAgent, clock: harness.Clock) -> None:
    """Ends the first phase, roll-out and scoring together, where the agent's update begins."""
    update = agent.update

    def watched(episodes: Episodes, *rest: Any) -> dict[str, float]:  # noqa: ANN401
        clock.end("generate and score")
        clock.note_lengths(episodes.lengths.tolist())
        return update(episodes, *rest)

    agent.update = watched  # type: ignore[assignment, method-assign]


if __name__ == "__main__":
    main()
