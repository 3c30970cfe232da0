"""Stable-Baselines3's PPO on the comparison job: `.venv/bin/python sb3_ppo.py FOLDER`.

What a user of it would write: an environment a row, observations as flat arrays, and a features
extractor that reads the whole text again at every step, since the library has no place for a cache.
One of its updates optimises every token on its own text, so that an epoch reads
batch x new_tokens texts where the other libraries read batch.
"""

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import Tensor
from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel, GPT2Model

from textrl_benchmarks.speed.peers import harness
from textrl_envs.environments import build_task
from textrl_envs.observations import FLAT_PADDING
from textrl_envs.prompts import Prompt
from textrl_envs.task import Task
from textrl_envs.text_env import TextEnv


def main() -> None:
    """Runs the job and prints what it took."""
    arguments = harness.read_arguments(["ppo"])
    if arguments.job["lengths"] != "full":
        # It collects steps, not responses: the batch would be another one.
        harness.fail("This peer does jobs of full length alone; give a folder of such a one.")
    clock = harness.Clock(arguments)
    model = make_model(arguments, task_of(arguments))
    tokens = arguments.job["new_tokens"] * arguments.job["batch"]
    model.learn(arguments.updates * tokens, callback=Referee(arguments, clock))
    packages = ("stable-baselines3", "transformers", "torch")
    harness.report(clock, peer="stable-baselines3", packages=packages)


def task_of(arguments: harness.Arguments) -> Task:
    """Returns the job as a task: its prompts, and its reward model as the reward."""
    from textrl_envs.tokenizers import load_tokenizer

    return build_task(
        "text_bandit",
        {
            "tokenizer": load_tokenizer(str(arguments.folder / "tokenizer")),
            "prompts": [Prompt(token_ids=tuple(ids)) for ids in harness.prompts_of(arguments)],
            "reward": ModelReward(str(arguments.folder / "reward_model")),
            "max_new_tokens": arguments.job["new_tokens"],
        },
    )


def make_model(arguments: harness.Arguments, task: Task) -> PPO:
    """Returns PPO with the job's models and settings."""
    job = arguments.job
    folder = str(arguments.folder / "policy")
    model = PPO(
        "MlpPolicy",
        DummyVecEnv([lambda: TextEnv(task, obs="flat")] * job["batch"]),
        n_steps=job["new_tokens"],
        batch_size=job["batch"] * job["new_tokens"] // arguments.minibatches,
        n_epochs=arguments.epochs,
        learning_rate=job["learning_rate"],
        gamma=1.0,
        vf_coef=0.1,
        policy_kwargs={
            "features_extractor_class": Trunk,
            "features_extractor_kwargs": {"config": GPT2Config.from_pretrained(folder)},
            # A value model of its own, as the job has.
            "share_features_extractor": False,
            "net_arch": [],
            "ortho_init": False,
        },
        seed=job["seed"],
        device="cpu",
    )
    load_weights(model.policy, arguments)
    return model


def load_weights(policy: Any, arguments: harness.Arguments) -> None:  # noqa: ANN401 - of any kind
    """Copies the job's policy and value model into the library's policy."""
    actor = GPT2LMHeadModel.from_pretrained(arguments.folder / "policy")
    critic = GPT2ForSequenceClassification.from_pretrained(arguments.folder / "value_model")
    policy.pi_features_extractor.trunk.load_state_dict(actor.transformer.state_dict())
    policy.vf_features_extractor.trunk.load_state_dict(critic.transformer.state_dict())
    with torch.no_grad():
        policy.action_net.weight.copy_(actor.lm_head.weight)
        policy.action_net.bias.zero_()
        policy.value_net.weight.copy_(critic.score.weight)
        policy.value_net.bias.zero_()


class Trunk(BaseFeaturesExtractor):
    """Reads texts, and gives the hidden state of the last token of each."""

    def __init__(self, observation_space: gym.Space[Any], config: GPT2Config) -> None:
        super().__init__(observation_space, features_dim=config.n_embd)
        self.trunk: Any = GPT2Model(config)

    def forward(self, observations: Any) -> Tensor:  # noqa: ANN401 - either form
        """Returns (B, d) for texts (B, L) that are padded on the right."""
        if isinstance(observations, dict):
            ids, is_text = observations["input_ids"].long(), observations["attention_mask"] > 0
        else:
            ids = observations.long()
            is_text = ids != FLAT_PADDING
        lengths = is_text.sum(1)
        is_text = is_text[:, : int(lengths.max())]
        ids = ids[:, : is_text.shape[1]].clamp(min=0)
        hidden = self.trunk(ids, attention_mask=is_text.long(), use_cache=False)[0]
        last: Tensor = hidden[torch.arange(len(ids)), lengths - 1]
        return last


class ModelReward:
    """The job's reward model."""

    def __init__(self, folder: str) -> None:
        self._model: Any = GPT2ForSequenceClassification.from_pretrained(folder)
        self._model.train(False)

    def __call__(
        self,
        _prompts: Any,  # noqa: ANN401 - texts, which are not read
        _responses: Any,  # noqa: ANN401
        *,
        prompt_ids: list[NDArray[np.int64]],
        response_ids: list[NDArray[np.int64]],
        metadata: Any,  # noqa: ANN401
    ) -> list[float]:
        """Scores responses, one at a time: the environments end one by one."""
        texts = [np.concatenate(pair) for pair in zip(prompt_ids, response_ids, strict=True)]
        with torch.inference_mode():
            return [float(self._model(torch.from_numpy(text)[None]).logits) for text in texts]


class Referee(BaseCallback):
    """Charges the KL to the reference, in one forward of whole episodes, and keeps the time."""

    def __init__(self, arguments: harness.Arguments, clock: harness.Clock) -> None:
        super().__init__()
        self._job, self._clock = arguments.job, clock
        self._reference: Any = GPT2LMHeadModel.from_pretrained(arguments.folder / "policy")

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if self._clock.is_running:
            self._end_update()
        self._clock.start()

    def _on_rollout_end(self) -> None:
        self._clock.end("generate")
        self._clock.note_lengths([self._job["new_tokens"]] * self._job["batch"])
        buffer: Any = self.model.rollout_buffer  # type: ignore[attr-defined]
        buffer.rewards -= self._job["kl_coefficient"] * self._log_ratio(buffer)
        # Every episode ends with the roll-out: what follows counts for nothing.
        ended = np.ones(self._job["batch"], np.bool_)
        buffer.compute_returns_and_advantage(torch.zeros(len(ended)), ended)
        self._clock.end("score")

    def _on_training_end(self) -> None:
        self._end_update()

    def _end_update(self) -> None:
        self._clock.end("optimise")
        self._clock.end_update()

    def _log_ratio(self, buffer: Any) -> NDArray[np.float32]:  # noqa: ANN401 - the library's own
        actions = torch.from_numpy(buffer.actions[..., 0].T).long()
        prompts = torch.from_numpy(buffer.observations[0, :, : self._job["prompt_tokens"]]).long()
        texts = torch.cat([prompts, actions], 1)
        with torch.inference_mode():
            logits = self._reference(texts).logits[:, prompts.shape[1] - 1 : -1]
            scores = logits.log_softmax(-1).gather(-1, actions[..., None])[..., 0]
        found: NDArray[np.float32] = buffer.log_probs - scores.numpy().T
        return found


if __name__ == "__main__":
    main()
