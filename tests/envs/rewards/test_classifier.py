"""ClassifierReward: the classifier's own logit at the last token of each text."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from textrl_envs.errors import InvalidInputError
from textrl_envs.rewards.classifier import ClassifierReward
from textrl_envs.vector_env import TextVectorEnv

BuildLM = Callable[..., Any]
Texts = list[tuple[list[int], list[int]]]

families = pytest.mark.parametrize("family", ["GPT2", "Llama", "Mistral"])


@pytest.fixture
def build_classifier(build_lm: BuildLM) -> Callable[..., Any]:
    """Returns a function that builds a tiny sequence classifier: `build_classifier("Llama")`."""
    import transformers

    def build(family: str, *, num_labels: int = 1, **changes: Any) -> Any:
        config = build_lm(family, num_labels=num_labels, **changes).config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            return getattr(transformers, f"{family}ForSequenceClassification")(config)

    return build


def score(reward: ClassifierReward, texts: Texts) -> Any:
    prompts, responses = ([np.array(part) for part in parts] for parts in zip(*texts, strict=True))
    return reward(
        [""] * len(texts),
        [""] * len(texts),
        prompt_ids=prompts,
        response_ids=responses,
        metadata=[{}] * len(texts),
    )


@torch.no_grad()
def own_logits(model: Any, texts: Texts) -> list[float]:
    """Asks Transformers about each text by itself: a batch would need a padding token."""
    return [float(model(input_ids=torch.tensor([x + y])).logits[0, 0]) for x, y in texts]


def draw(rng: np.random.Generator, count: int, longest: int = 12) -> Texts:
    def part() -> list[int]:
        return [int(t) for t in rng.integers(32, size=rng.integers(1, longest))]

    return [(part(), part()) for _ in range(count)]


@families
def test_the_score_is_the_models_own_logit(
    build_classifier: Callable[..., Any], family: str
) -> None:
    model = build_classifier(family)
    reward, rng = ClassifierReward(model, device="cpu"), np.random.default_rng(0)
    # Ragged, larger, smaller, one text alone, longer, the same again.
    batches = [draw(rng, count, longest) for count, longest in ((3, 4), (9, 6), (2, 20), (1, 30))]
    for texts in [*batches, batches[0]]:
        found = score(reward, texts)
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, own_logits(model, texts), rtol=0, atol=1e-4)
    assert np.ptp(own_logits(model, batches[1])) > 0.1  # or this tests nothing


def test_a_response_that_grows_is_scored_as_it_stands(
    build_classifier: Callable[..., Any],
) -> None:
    model = build_classifier("GPT2")
    reward, rng = ClassifierReward(model, device="cpu"), np.random.default_rng(1)
    texts = draw(rng, 4)
    for _ in range(5):
        for _, response in texts:
            response.append(int(rng.integers(32)))
        found = score(reward, texts)
        np.testing.assert_allclose(found, own_logits(model, texts), rtol=0, atol=1e-4)


def test_a_token_that_also_pads_is_read_where_it_was_written(
    build_classifier: Callable[..., Any],
) -> None:
    """Transformers itself would look at the last token that is not padding; EOS often is."""
    model = build_classifier("GPT2", pad_token_id=0)
    reward = ClassifierReward(model, device="cpu")
    texts: Texts = [([5, 6], [7, 0]), ([5, 6], [7]), ([0, 5], [0, 0])]
    with torch.no_grad():
        hidden = [
            model.transformer(torch.tensor([x + y])).last_hidden_state[0, -1] for x, y in texts
        ]
        expected = [float(model.score(h)[0]) for h in hidden]
    np.testing.assert_allclose(score(reward, texts), expected, rtol=0, atol=1e-4)
    assert abs(expected[0] - expected[1]) > 1e-2


def test_the_model_is_frozen_and_out_of_training_mode(
    build_classifier: Callable[..., Any],
) -> None:
    model = build_classifier("GPT2", resid_pdrop=0.5, embd_pdrop=0.5)
    reward = ClassifierReward(model.train(), device="cpu")
    texts = draw(np.random.default_rng(0), 3)
    first = score(reward, texts)
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    np.testing.assert_array_equal(score(reward, texts), first)


def test_an_environment_pays_what_the_classifier_says(
    build_classifier: Callable[..., Any], make_task: Callable[..., Any]
) -> None:
    model = build_classifier("Llama")
    task = make_task(reward=ClassifierReward(model, device="cpu"), max_new_tokens=2)
    envs = TextVectorEnv(task, num_envs=3)
    obs: Any = envs.reset(seed=0, options={"prompt_index": np.arange(3)})[0]
    prompts = [ids[mask != 0].tolist() for ids, mask in zip(*obs.values(), strict=True)]
    envs.step(np.array([9, 10, 11]))
    _, rewards, terminated, *_ = envs.step(np.array([12, 13, 1]))
    assert terminated.all()
    texts = list(zip(prompts, [[9, 12], [10, 13], [11, 1]], strict=True))
    np.testing.assert_allclose(rewards, own_logits(model, texts), rtol=0, atol=1e-4)


@pytest.mark.parametrize("num_labels", [2, 3])
def test_a_classifier_of_several_classes_is_refused(
    build_classifier: Callable[..., Any], num_labels: int
) -> None:
    model = build_classifier("GPT2", num_labels=num_labels)
    with pytest.raises(InvalidInputError, match=r"one output; got GPT2ForS.*num_labels=1"):
        ClassifierReward(model)


def test_a_language_model_is_refused(build_lm: BuildLM) -> None:
    for model in (build_lm("GPT2"), build_lm("Llama").base_model):
        with pytest.raises(InvalidInputError, match="Expected a sequence classifier"):
            ClassifierReward(model)


def test_a_text_longer_than_the_models_positions_is_refused(
    build_classifier: Callable[..., Any],
) -> None:
    reward = ClassifierReward(build_classifier("GPT2"), device="cpu")
    with pytest.raises(InvalidInputError, match="The text has 66 tokens; the model has 64"):
        score(reward, [([1] * 33, [2] * 33)])
