"""PPO in one file, to be read from top to bottom and changed: no agent of this suite is imported.

python examples/cleanrl_ppo.py                        # a minute on one core
python examples/cleanrl_ppo.py --env-id textrl/LengthHack-v0 --seed 1

The environment is the native vector form, `gym.make_vec(id, obs="flat")`: one array of token ids,
padded with -1. The policy adds a small network to the logits of the frozen reference, so that
training begins at the reference, and every token is charged β (log π − log π_ref). At the end fresh
episodes are played, and their return is placed between the reference's, 0, and the exact optimum's,
1.
"""

import time
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import torch
import tyro
from torch import Tensor, nn
from torch.distributions import Categorical

import textrl_envs  # noqa: F401 - registers the environments
from textrl_envs.optimum import optimum


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the command line may change."""

    env_id: str = "textrl/Keyword-v0"
    """An environment with a reference and an exact optimum."""
    seed: int = 1
    """Of the network's first weights, of the prompts and of the sampling."""
    threads: int = 1
    """Of torch; a network as small as this one is slower on more."""
    total_tokens: int = 120_000
    """Tokens that are generated in training."""
    num_envs: int = 64
    """Texts that are written at once."""
    num_steps: int = 32
    """Tokens of each text between two updates."""
    learning_rate: float = 3e-3
    """Adam's at the start; it falls linearly to 0."""
    gamma: float = 1.0
    """The discount. A response is short, and its last token is worth what its first is."""
    gae_lambda: float = 0.95
    """λ of generalised advantage estimation."""
    num_minibatches: int = 4
    """Parts of a rollout, an optimiser's step each."""
    update_epochs: int = 4
    """Times that a rollout is gone through."""
    clip_coefficient: float = 0.2
    """ε: the ratio of new and old policy is followed within 1 ± ε."""
    entropy_coefficient: float = 0.0
    """Weight of the entropy bonus; the KL penalty already keeps the policy from collapsing."""
    value_coefficient: float = 0.5
    """Weight of the value loss."""
    max_gradient_norm: float = 0.5
    """Gradients are scaled down to this norm."""
    eval_episodes: int = 2048
    """Fresh episodes that are played at the end."""


class TokenNetwork(nn.Module):
    """Reads a padded text; gives the next token's logits, added to the reference's, and a value."""

    def __init__(self, vocabulary_size: int, length: int, *, width: int = 64) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary_size + 1, width, padding_idx=0)  # 0 is the padding
        self.places = nn.Embedding(length, width)
        self.attention = nn.MultiheadAttention(width, num_heads=4, batch_first=True)
        self.hidden = nn.Sequential(nn.Linear(2 * width, 2 * width), nn.Tanh())
        self.policy_head = nn.Linear(2 * width, vocabulary_size)
        self.value_head = nn.Linear(2 * width, 1)
        for head in (self.policy_head, self.value_head):  # training begins at the reference
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)

    def forward(self, obs: Tensor, reference: Tensor) -> tuple[Categorical, Tensor]:
        """Returns the distribution over V tokens and the value, [B], of texts [B, L].

        Args:
            obs: token ids, -1 behind the text, [B, L].
            reference: the reference's log-probabilities of the next token, [B, V].
        """
        is_padding = obs < 0
        last = (~is_padding).sum(1) - 1  # the column of the newest token
        texts = self.tokens(obs + 1) + self.places.weight  # [B, L, width]
        newest = texts[torch.arange(len(obs)), last]
        # The newest token asks all tokens; its place says how much room is left.
        found, _ = self.attention(
            newest[:, None], texts, texts, key_padding_mask=is_padding, need_weights=False
        )
        hidden = self.hidden(torch.cat([newest, found[:, 0]], dim=1))
        logits = reference + self.policy_head(hidden)
        return Categorical(logits=logits), self.value_head(hidden)[:, 0]


def generalised_advantages(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    is_end: Tensor,
    *,
    gamma: float,
    gae_lambda: float,
) -> Tensor:
    """Returns A_t = δ_t + γ λ A_{t+1} with δ_t = r_t + γ V(s_{t+1}) − V(s_t), all [T, N].

    Args:
        rewards: r_t, the charge for the KL included.
        values: V(s_t).
        next_values: V of what followed: 0 where the episode terminated, and the value of its last
            observation, not of the next episode's first, where it was truncated.
        is_end: terminated or truncated; nothing is passed back over an end of either kind.
        gamma: the discount.
        gae_lambda: λ.
    """
    deltas = rewards + gamma * next_values - values
    advantages = torch.zeros_like(deltas)
    following = torch.zeros_like(deltas[0])
    for t in reversed(range(len(deltas))):
        following = deltas[t] + gamma * gae_lambda * following * ~is_end[t]
        advantages[t] = following
    return advantages


def ppo_loss(
    network: TokenNetwork, batch: list[Tensor], settings: Settings
) -> tuple[Tensor, dict[str, float]]:
    """Returns the clipped loss of some tokens, and numbers to log.

    Args:
        network: what is trained.
        batch: of each token the text before it, the reference's log-probabilities, the token, its
            log-probability when it was sampled, its advantage and the return that the value should
            have predicted.
        settings: ε and the weights.
    """
    obs, reference, actions, old_log_probs, advantages, returns = batch
    policy, values = network(obs, reference)
    log_ratio = policy.log_prob(actions) - old_log_probs
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - settings.clip_coefficient, 1 + settings.clip_coefficient)
    advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    policy_loss = -torch.minimum(advantages * ratio, advantages * clipped).mean()
    value_loss = 0.5 * (values - returns).square().mean()
    entropy = policy.entropy().mean()
    loss = (
        policy_loss
        + settings.value_coefficient * value_loss
        - settings.entropy_coefficient * entropy
    )
    approximate_kl = (ratio - 1 - log_ratio).mean()  # KL(old ‖ new), in nats a token
    return loss, {"value loss": value_loss.item(), "step": approximate_kl.item()}


def main(settings: Settings) -> None:
    """Trains, then prints the score against the optimum."""
    torch.manual_seed(settings.seed)
    torch.set_num_threads(settings.threads)
    # "SameStep": a text that ends begins anew in the same step, so that no token is wasted. Its
    # last observation is in infos["final_obs"].
    envs = gym.make_vec(
        settings.env_id, num_envs=settings.num_envs, obs="flat", autoreset_mode="SameStep"
    )
    length, vocabulary_size = envs.single_observation_space.shape[0], envs.single_action_space.n
    model, beta = envs.unwrapped.reference, envs.unwrapped.kl_coefficient
    network = TokenNetwork(vocabulary_size, length)
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.learning_rate, eps=1e-5)

    def read(texts: np.ndarray) -> tuple[Tensor, Tensor]:
        """Returns texts and the reference's log-probabilities of their next tokens."""
        return torch.from_numpy(texts), torch.from_numpy(model.next_log_probs(texts)).float()

    # --- a rollout: T steps of N texts ---
    shape = settings.num_steps, settings.num_envs
    obs = torch.zeros(*shape, length, dtype=torch.long)
    reference = torch.zeros(*shape, vocabulary_size)
    actions = torch.zeros(shape, dtype=torch.long)
    log_probs, rewards, values, next_values = (torch.zeros(shape) for _ in range(4))
    is_end = torch.zeros(shape, dtype=torch.bool)

    batch_size = settings.num_steps * settings.num_envs
    iterations = max(settings.total_tokens // batch_size, 1)
    started = time.process_time()
    texts, _ = envs.reset(seed=settings.seed)
    for iteration in range(iterations):
        optimizer.param_groups[0]["lr"] = settings.learning_rate * (1 - iteration / iterations)
        scores, charged = [], 0.0

        # --- collect ---
        for t in range(settings.num_steps):
            obs[t], reference[t] = read(texts)
            with torch.no_grad():
                policy, values[t] = network(obs[t], reference[t])
            actions[t] = policy.sample()
            log_probs[t] = policy.log_prob(actions[t])
            texts, score, terminated, truncated, infos = envs.step(actions[t].numpy())

            # The KL penalty: each token pays for leaving the reference.
            log_ratio = log_probs[t] - reference[t].gather(1, actions[t][:, None])[:, 0]
            rewards[t] = torch.from_numpy(score) - beta * log_ratio
            is_end[t] = torch.from_numpy(terminated | truncated)

            # A text that terminated has been scored, and nothing follows it. One that was cut from
            # outside would have gone on from its last observation. The environments here only
            # terminate; a time limit around them truncates.
            following = texts.copy()
            for row in np.flatnonzero(truncated):
                following[row] = infos["final_obs"][row]
            with torch.no_grad():
                next_values[t] = network(*read(following))[1] * torch.from_numpy(~terminated)
            scores += score[terminated | truncated].tolist()
            charged += float(log_ratio.sum())

        # --- advantages ---
        advantages = generalised_advantages(
            rewards,
            values,
            next_values,
            is_end,
            gamma=settings.gamma,
            gae_lambda=settings.gae_lambda,
        )

        # --- minibatches ---
        fields = obs, reference, actions, log_probs, advantages, advantages + values
        rollout = [field.flatten(0, 1) for field in fields]
        for _ in range(settings.update_epochs):
            for rows in torch.randperm(batch_size).chunk(settings.num_minibatches):
                loss, numbers = ppo_loss(network, [field[rows] for field in rollout], settings)
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(network.parameters(), settings.max_gradient_norm)
                optimizer.step()

        # --- log ---
        episodes = max(len(scores), 1)
        print(
            f"tokens {(iteration + 1) * batch_size:>7} | reward {sum(scores) / episodes:.3f} | "
            f"KL {charged / episodes:.2f} | value loss {numbers['value loss']:.4f} | "
            f"step {numbers['step']:.4f} nats | {time.process_time() - started:.0f} s"
        )
    report(network, settings)


@torch.no_grad()
def play(network: TokenNetwork, envs: gym.vector.VectorEnv, *, seed: int) -> tuple[Tensor, Tensor]:
    """Plays one fresh episode a row; returns their scores and KL in nats, [N] both.

    The environment waits where a row has ended ("Disabled" autoreset): were the first episodes to
    end taken, short ones would be preferred.
    """
    scores, kl = torch.zeros(envs.num_envs), torch.zeros(envs.num_envs)
    is_playing = torch.ones(envs.num_envs, dtype=torch.bool)
    obs, _ = envs.reset(seed=seed)
    while is_playing.any():
        reference = torch.from_numpy(envs.unwrapped.reference.next_log_probs(obs)).float()
        policy, _ = network(torch.from_numpy(obs), reference)
        actions = policy.sample()
        log_ratio = policy.log_prob(actions) - reference.gather(1, actions[:, None])[:, 0]
        kl += log_ratio * is_playing
        obs, rewards, terminated, truncated, _ = envs.step(actions.numpy())
        scores += torch.from_numpy(rewards)  # 0 where a row waits
        is_playing &= torch.from_numpy(~(terminated | truncated))
    return scores, kl


def report(network: TokenNetwork, settings: Settings) -> None:
    """Prints the score of fresh episodes against the optimum."""
    envs = gym.make_vec(
        settings.env_id, num_envs=settings.eval_episodes, obs="flat", autoreset_mode="Disabled"
    )
    scores, kl = play(network, envs, seed=settings.seed + 1_000_000)
    returns = scores - envs.unwrapped.kl_coefficient * kl
    best = optimum(envs)
    error = float(returns.std()) / len(returns) ** 0.5 / (best.value - best.reference_value)
    print(
        f"reward {scores.mean():.3f} | KL {kl.mean():.3f} | return {returns.mean():.3f}, the "
        f"reference's {best.reference_value:.3f}, the optimum {best.value:.3f}\n"
        f"normalised score {best.normalise(float(returns.mean())):.3f} ± {error:.3f}"
    )


if __name__ == "__main__":
    main(tyro.cli(Settings))
