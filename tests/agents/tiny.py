"""Tiny tasks: few enough responses that every expectation is a sum over all of them.

The exact numbers come from a float64 copy of the policy that reads one prefix at a time, without
padding, cache or `Policy.evaluate`: none of the code under test but the network's own layers.
"""

import copy
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor

from textrl_agents.episodes import Episodes
from textrl_agents.on_policy import OnPolicyAgent
from textrl_agents.policies import CausalLMPolicy, NetworkPolicy, Policy, ResidualPolicy, Sampling
from textrl_envs.core import FinishReason
from textrl_envs.language_models.causal import CausalLanguageModel
from textrl_envs.language_models.ngram import NGramModel
from textrl_envs.prompts import Prompt, PromptTable
from textrl_envs.task import Task
from textrl_envs.vector_env import TextVectorEnv
from textrl_envs.wrappers.vector import KLPenalty

EOS = 0
"""No padding token: pad is EOS, as in many real tokenizers, so that a mask by id would fail."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Response = tuple[int, ...]


def word_tokenizer(size: int = 4) -> Any:
    """Returns a tokenizer of "<eos>", "a", "b", ..."""
    from transformers import PreTrainedTokenizerFast

    words = ["<eos>", *"abcdefghijklmnopqrstuvwxyz"][:size]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, eos_token="<eos>"
    )


def random_ngram(size: int = 4, *, seed: int = 0, spread: float = 1.0) -> NGramModel:
    """Returns a bigram model with full support."""
    logits = np.random.default_rng(seed).normal(size=(size, size)) * spread
    return NGramModel(logits - np.log(np.exp(logits).sum(-1, keepdims=True)))


def all_responses(size: int, limit: int) -> list[Response]:
    """Returns every response: those that EOS ends, and those that the limit ends."""
    words = range(1, size)
    stopped = [(*text, EOS) for n in range(limit) for text in itertools.product(words, repeat=n)]
    return stopped + list(itertools.product(words, repeat=limit))


class TableReward:
    """A random score for every prompt and response; counts how often it was asked."""

    def __init__(self, prompts: int, responses: Sequence[Response], *, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.table = {
            (prompt, response): float(rng.normal())
            for prompt in range(prompts)
            for response in responses
        }
        self.scored = 0

    def __call__(
        self,
        prompts: Sequence[str],
        responses: Sequence[str],
        *,
        prompt_ids: Sequence[Ints],
        response_ids: Sequence[Ints],
        metadata: Sequence[Mapping[str, Any]],
    ) -> list[float]:
        self.scored += len(response_ids)
        return [
            self.table[about["index"], tuple(ids.tolist())]
            for about, ids in zip(metadata, response_ids, strict=True)
        ]


def tiny_task(
    *,
    size: int = 4,
    limit: int = 3,
    prompts: Sequence[str] = ("a", "b a c"),
    beta: float = 0.3,
    seed: int = 0,
    reference: Any = None,
    reward: Any = None,
) -> Task:
    """Returns a task with a random score for every response, and a random bigram reference."""
    tokenizer = word_tokenizer(size)
    table = PromptTable(
        [Prompt(text=text, metadata={"index": i}) for i, text in enumerate(prompts)], tokenizer
    )
    reference = reference or random_ngram(size, seed=seed)
    return Task(
        tokenizer=tokenizer,
        prompts=table,
        reward=reward or TableReward(len(prompts), all_responses(size, limit), seed=seed + 1),
        max_new_tokens=limit,
        load_reference=lambda: reference,
        kl_coefficient=beta,
    )


def vector_env(task: Task, num_envs: int = 8, **settings: Any) -> TextVectorEnv:
    return TextVectorEnv(task, num_envs=num_envs, **settings)


def with_kl(task: Task, policy: Policy, num_envs: int = 8, **settings: Any) -> KLPenalty:
    return KLPenalty(vector_env(task, num_envs), policy=policy, **settings)


def ngram_of(task: Task) -> NGramModel:
    assert task.load_reference is not None
    reference = task.load_reference()
    assert isinstance(reference, NGramModel)
    return reference


def residual(
    task: Task, *, seed: int = 0, away: float = 0.0, max_tokens: int | None = None, **shape: Any
) -> ResidualPolicy:
    """Returns a small policy; `away` moves both of its heads from 0, by that deviation."""
    assert task.load_reference is not None
    shape = {"layers": 1, "width": 8, "heads": 2, **shape}
    policy = ResidualPolicy(
        task.load_reference(),
        max_tokens=max_tokens or task.max_tokens,
        seed=seed,
        device="cpu",
        **shape,
    )
    if away:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in (policy.head.weight, policy.value_head.weight, policy.value_head.bias):
                weight.normal_(0, away, generator=generator)
    return policy


def tiny_gpt2(size: int = 4, *, seed: int = 0, **settings: Any) -> Any:
    """Returns a random GPT-2 with dropout in its config, far from uniform."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=size,
        n_positions=64,
        n_layer=2,
        n_embd=16,
        n_head=2,
        initializer_range=0.4,
        bos_token_id=EOS,
        eos_token_id=EOS,
        **{"resid_pdrop": 0.3, "embd_pdrop": 0.3, "attn_pdrop": 0.3, **settings},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GPT2LMHeadModel(config)


def tiny_llama(size: int = 4, *, seed: int = 0) -> Any:
    """Returns a random Llama with grouped heads, far from uniform."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=size,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.4,
        bos_token_id=EOS,
        eos_token_id=EOS,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def causal_reference(model: Any, **settings: Any) -> CausalLanguageModel:
    return CausalLanguageModel(model, device="cpu", **settings)


def causal_policy(model: Any, **settings: Any) -> CausalLMPolicy:
    return CausalLMPolicy(model, device="cpu", **settings)


# --- Episodes by hand ---


def episodes_of(task: Task, policy: Policy, played: Sequence[tuple[int, Response]]) -> Episodes:
    """Writes (prompt index, response) as Episodes: what a collector would have noted.

    Needs a bigram reference: its log-probabilities are looked up in the table.
    """
    reference, beta = ngram_of(task).table, task.kl_coefficient
    table = task.prompts
    index = np.array([prompt for prompt, _ in played])
    responses = [list(response) for _, response in played]
    shape = len(played), max(map(len, responses))
    prompts = [table.token_ids[i, : table.lengths[i]].tolist() for i in index]
    texts = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]
    input_ids = np.zeros((len(played), max(map(len, texts))), np.int64)
    attention_mask = np.zeros(input_ids.shape, np.int8)
    response_mask = np.zeros(shape, np.bool_)
    ref_log_probs, task_rewards = np.zeros(shape), np.zeros(shape)
    for row, (text, response) in enumerate(zip(texts, responses, strict=True)):
        input_ids[row, : len(text)] = text
        attention_mask[row, : len(text)] = 1
        response_mask[row, : len(response)] = True
        start = len(text) - len(response)
        ref_log_probs[row, : len(response)] = [
            reference[text[i - 1], text[i]] for i in range(start, len(text))
        ]
        task_rewards[row, len(response) - 1] = score_of(task, int(index[row]), tuple(response))
    blank = Episodes(
        input_ids=input_ids,
        attention_mask=attention_mask,
        prompt_lengths=table.lengths[index],
        response_mask=response_mask,
        log_probs=np.zeros(shape),
        ref_log_probs=ref_log_probs,
        values=np.zeros(shape),
        entropies=np.zeros(shape),
        task_rewards=task_rewards,
        rewards=np.zeros(shape),
        bootstrap_values=np.zeros(len(played)),
        prompt_index=index,
        finish_reason=np.array(
            [FinishReason.STOP if r[-1] == EOS else FinishReason.LENGTH for r in responses],
            np.int64,
        ),
    )
    with torch.no_grad():
        found = policy.evaluate(blank)
    log_probs = on_tokens(blank, found.log_probs)
    penalty = beta * np.where(response_mask, log_probs - ref_log_probs, 0.0)
    return replace(
        blank,
        log_probs=log_probs,
        values=on_tokens(blank, found.values),
        entropies=on_tokens(blank, found.entropies),
        rewards=task_rewards - penalty,
    )


def widened(episodes: Episodes, more: int) -> Episodes:
    pad = ((0, 0), (0, more))
    changes: dict[str, Any] = {
        name: np.pad(getattr(episodes, name), pad)
        for name in (
            "attention_mask",
            "response_mask",
            "log_probs",
            "ref_log_probs",
            "values",
            "entropies",
            "task_rewards",
            "rewards",
        )
    }
    # Other ids than 0 behind the text: the mask must hide them.
    ids = np.pad(episodes.input_ids, pad, constant_values=2)
    return replace(episodes, input_ids=ids, **changes)


def on_tokens(episodes: Episodes, flat: Tensor) -> Floats:
    """Lays M numbers out as (B, T)."""
    array = np.zeros(episodes.response_mask.shape)
    array[episodes.response_mask] = flat.detach().double().numpy()
    return array


def score_of(task: Task, prompt: int, response: Response) -> float:
    scores: Any = task.reward(
        [""],
        [""],
        prompt_ids=[np.zeros(0, np.int64)],
        response_ids=[np.array(response)],
        metadata=[task.prompts.metadata[prompt]],
    )
    return float(scores[0])


def played_in(episodes: Episodes) -> list[tuple[int, Response]]:
    """Reads (prompt index, response) back from Episodes."""
    return [
        (int(prompt), tuple(ids[:n].tolist()))
        for prompt, ids, n in zip(
            episodes.prompt_index, episodes.response_ids, episodes.lengths, strict=True
        )
    ]


def all_episodes(task: Task) -> list[tuple[int, Response]]:
    responses = all_responses(task.vocabulary_size, task.max_new_tokens)
    return [(prompt, y) for prompt in range(len(task.prompts)) for y in responses]


# --- exact numbers ---


def twin_of(policy: Policy) -> Policy:
    """Returns a float64 copy with parameters of its own, in the same order."""
    return copy.deepcopy(policy).double()


@dataclass(frozen=True, slots=True)
class Exact:
    """All responses to all prompts, R in number, with gradients to the twin's parameters."""

    played: list[tuple[int, Response]]
    log_probs: list[Tensor]
    """log π of each token of each response, in nats."""
    ref_log_probs: list[Tensor]
    entropies: list[Tensor]
    """Of the distribution before each token."""
    values: list[Tensor]
    scores: Tensor
    beta: float
    num_prompts: int

    @property
    def log_prob(self) -> Tensor:
        """log π(y|x), [R]."""
        return torch.stack([x.sum() for x in self.log_probs])

    @property
    def ref_log_prob(self) -> Tensor:
        return torch.stack([x.sum() for x in self.ref_log_probs])

    @property
    def weights(self) -> Tensor:
        """Probability of each (prompt, response), without gradients; prompts are uniform."""
        return self.log_prob.detach().exp() / self.num_prompts

    @property
    def objective(self) -> Tensor:
        """J = E[r − β log(π / π_ref)]."""
        regularised = self.scores - self.beta * (self.log_prob - self.ref_log_prob)
        return (self.log_prob.exp() * regularised).sum() / self.num_prompts

    @property
    def reference_value(self) -> float:
        """J of the reference."""
        return float((self.ref_log_prob.exp() * self.scores).sum() / self.num_prompts)

    @property
    def optimum(self) -> float:
        """J* = mean over prompts of β log Σ_y π_ref(y) e^{r/β}."""
        exponents = self.ref_log_prob + self.scores / self.beta
        rows = exponents.reshape(self.num_prompts, -1)
        return float(self.beta * rows.logsumexp(1).mean())

    def returns_to_go(self, i: int) -> Tensor:
        """G_t of response i, without gradients."""
        ratio = (self.log_probs[i] - self.ref_log_probs[i]).detach()
        return self.scores[i] - self.beta * ratio.flip(0).cumsum(0).flip(0)


def next_outputs(twin: Policy, prefixes: Sequence[Response]) -> tuple[Tensor, Tensor]:
    """Returns log π(.|prefix) [n, V] and the value [n] of prefixes of one length."""
    assert isinstance(twin, NetworkPolicy)
    ids = torch.tensor(prefixes)
    hidden = twin.trunk(input_ids=ids, use_cache=False).last_hidden_state[:, -1]
    if isinstance(twin, ResidualPolicy):
        assert isinstance(twin.reference, NGramModel)
        logits = torch.from_numpy(twin.reference.table)[ids[:, -1]] + twin.head(hidden)
    else:
        assert isinstance(twin, CausalLMPolicy)
        logits = twin.model.get_output_embeddings()(hidden)[:, : twin.vocabulary_size]
    assert isinstance(twin.reference, NGramModel | None)
    rows = None if twin.reference is None else torch.from_numpy(twin.reference.table)[ids[:, -1]]
    return sampled_by_hand(logits, twin.sampling, rows), twin.value_head(hidden)[:, 0]


def sampled_by_hand(logits: Tensor, sampling: Sampling, ref_log_probs: Tensor | None) -> Tensor:
    """Returns the log-probabilities that are drawn from, [n, V]; log 1e-300 for the impossible."""
    rows = []
    for i, row in enumerate(logits / sampling.temperature):
        ranks = sorted((-logit, token) for token, logit in enumerate(row.tolist()))
        likeliest = [token for _, token in ranks][: sampling.top_k]
        totals = itertools.accumulate(row[likeliest].softmax(-1).tolist())
        count = 1 + sum(total < sampling.top_p for total in list(totals)[:-1])
        kept = torch.tensor(likeliest[:count])
        probabilities = torch.zeros_like(row).index_add(0, kept, row[kept].softmax(-1))
        if sampling.reference_share:
            assert ref_log_probs is not None
            probabilities = torch.lerp(
                probabilities, ref_log_probs[i].exp(), sampling.reference_share
            )
        rows.append(probabilities.clamp(min=1e-300).log())
    return torch.stack(rows)


def enumerate_exactly(task: Task, twin: Policy) -> Exact:
    """Reads every prefix on its own and multiplies the probabilities up."""
    reference = ngram_of(task).table
    table, words = task.prompts, range(1, task.vocabulary_size)
    log_probs: dict[Response, Tensor] = {}
    values: dict[Response, Tensor] = {}
    prompts: list[Response] = [
        tuple(table.token_ids[i, : table.lengths[i]].tolist()) for i in range(len(table))
    ]
    for prompt in prompts:
        for n in range(task.max_new_tokens):
            prefixes = [(*prompt, *text) for text in itertools.product(words, repeat=n)]
            rows, heads = next_outputs(twin, prefixes)
            log_probs.update(zip(prefixes, rows, strict=True))
            values.update(zip(prefixes, heads, strict=True))
    played = all_episodes(task)
    paths = [
        [((*prompts[i], *y[:t]), y[t]) for t in range(len(y))] for i, y in played
    ]  # (prefix, token)
    rows_of = [[log_probs[prefix] for prefix, _ in path] for path in paths]
    return Exact(
        played=played,
        log_probs=[
            torch.stack([log_probs[prefix][token] for prefix, token in path]) for path in paths
        ],
        ref_log_probs=[
            torch.from_numpy(np.array([reference[prefix[-1], token] for prefix, token in path]))
            for path in paths
        ],
        entropies=[torch.stack([-(r.exp() * r).sum() for r in rows]) for rows in rows_of],
        values=[torch.stack([values[prefix] for prefix, _ in path]) for path in paths],
        scores=torch.tensor([score_of(task, i, y) for i, y in played], dtype=torch.float64),
        beta=task.kl_coefficient,
        num_prompts=len(table),
    )


def flat_gradient(objective: Tensor, twin: Policy) -> Floats:
    """Returns the gradient of a number to all of the twin's parameters, as one vector."""
    parameters = list(twin.parameters())
    found = torch.autograd.grad(objective, parameters, allow_unused=True, retain_graph=True)
    parts = [
        torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)
    ]
    return torch.cat([part.reshape(-1) for part in parts]).double().numpy()


def relative_error(found: Floats, expected: Floats) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def gradients_of_update(agent: OnPolicyAgent, episodes: Episodes) -> list[Floats]:
    """Returns the gradient that each optimiser's step of an update would have used."""
    found: list[Floats] = []

    def take_instead_of_stepping() -> float:
        parts = [
            (torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1)
            for p in agent.policy.parameters()
        ]
        found.append(torch.cat(parts).double().numpy())
        agent.policy.zero_grad()
        return 0.0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agent, "step_optimizer", take_instead_of_stepping)
        agent.update(episodes, np.random.default_rng(0))
    return found
