"""PrefixReader and SlotCache: a memo that may be asked anything, and always answers the truth."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from textrl_envs.errors import InvalidInputError
from textrl_envs.language_models.fast.decode import LeanTrunk
from textrl_envs.language_models.prefix_reader import PrefixReader, weights_version
from textrl_envs.language_models.slot_cache import SlotCache

BuildLM = Callable[..., Any]
WIDTH = 40

families = pytest.mark.parametrize("family", ["GPT2", "Llama"])


def flat(texts: list[list[int]], width: int = WIDTH) -> Any:
    return np.array([text + [-1] * (width - len(text)) for text in texts])


def as_dict(texts: list[list[int]]) -> Any:
    ids = flat(texts)
    return {"input_ids": np.where(ids < 0, 0, ids), "attention_mask": (ids >= 0).astype(np.int8)}


def left_padded(texts: list[list[int]]) -> Any:
    return np.array([[-1] * (WIDTH - len(text)) + text for text in texts])


@torch.no_grad()
def truth(trunk: Any, texts: list[list[int]]) -> Any:
    """Reads the texts by one plain forward: right padding lies behind what is looked at."""
    ids = torch.from_numpy(np.maximum(flat(texts), 0))
    mask = torch.from_numpy((flat(texts) >= 0).astype(np.int64))
    hidden = trunk(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    return torch.stack([hidden[row, len(text) - 1] for row, text in enumerate(texts)])


def assert_true(reader: PrefixReader, trunk: Any, texts: list[list[int]]) -> None:
    torch.testing.assert_close(reader.read(flat(texts)), truth(trunk, texts), rtol=0, atol=1e-4)


@pytest.fixture
def tokens_read() -> Iterator[Callable[[Any], list[int]]]:
    """Returns a function that counts the tokens, padding included, of each forward of a trunk."""
    handles = []
    lean = LeanTrunk.read

    def watch(trunk: Any) -> list[int]:
        counts: list[int] = []

        def note(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
            counts.append(kwargs["input_ids"].numel())

        def note_lean(self: LeanTrunk, tokens: Any, *rest: Any) -> Any:
            counts.append(tokens.size)
            return lean(self, tokens, *rest)

        handles.append(trunk.register_forward_pre_hook(note, with_kwargs=True))
        patch.setattr(LeanTrunk, "read", note_lean)
        return counts

    with pytest.MonkeyPatch.context() as patch:
        yield watch
    for handle in handles:
        handle.remove()


class Rows:
    """Texts as vector environments make them: each grows by a token, or begins anew."""

    def __init__(self, seed: int, count: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.texts = [self.prompt() for _ in range(count)]

    def prompt(self) -> list[int]:
        return self.tokens(int(self.rng.integers(1, 10)))

    def tokens(self, count: int) -> list[int]:
        return [int(token) for token in self.rng.integers(32, size=count)]

    def advance(self) -> None:
        for row, text in enumerate(self.texts):
            begins = len(text) == WIDTH or self.rng.random() < 0.08
            self.texts[row] = self.prompt() if begins else text + self.tokens(1)

    def disturb(self) -> None:
        """Edits a token somewhere, or takes the last tokens of a row back, or exchanges rows."""
        row = int(self.rng.integers(len(self.texts)))
        text = self.texts[row]
        kind = self.rng.integers(3)
        if kind == 0:
            text[int(self.rng.integers(len(text)))] ^= 1
        elif kind == 1:
            del text[1 + len(text) // 2 :]
        else:
            self.texts[0], self.texts[row] = self.texts[row], self.texts[0]


@families
def test_two_hundred_steps_with_staggered_resets_agree_with_the_plain_model(
    build_lm: BuildLM, family: str
) -> None:
    trunk = build_lm(family).base_model
    reader, rows = PrefixReader(trunk), Rows(seed=0, count=7)
    for step in range(200):
        if step % 10 != 9:  # or the same texts are asked again
            rows.advance()
        if step % 7 == 6:
            rows.disturb()
        # Now and then fewer rows are asked, one alone among them.
        asked = rows.texts[: 1 + step % 7] if step % 5 == 4 else rows.texts
        form = [flat, as_dict, left_padded][step % 3]
        found, expected = reader.read(form(asked)), truth(trunk, asked)
        assert float((found - expected).abs().max()) < 1e-4, f"step {step}"


@families
def test_reading_afresh_agrees_with_the_plain_model_whatever_the_padding(
    build_lm: BuildLM, family: str
) -> None:
    trunk = build_lm(family).base_model
    reader, rows = PrefixReader(trunk, use_cache=False), Rows(seed=1, count=5)
    for form in (flat, as_dict, left_padded):
        rows.advance()
        found, expected = reader.read(form(rows.texts)), truth(trunk, rows.texts)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@families
def test_only_what_is_new_is_read(
    build_lm: BuildLM, family: str, tokens_read: Callable[[Any], list[int]]
) -> None:
    trunk = build_lm(family).base_model
    reader, rows = PrefixReader(trunk), Rows(seed=2, count=8)
    counts = tokens_read(trunk)

    def cost() -> int:
        counts.clear()
        reader.read(flat(rows.texts))
        return sum(counts)

    rows.texts = [rows.tokens(6) for _ in range(8)]
    assert cost() == 8 * 6
    assert cost() == 0  # asked again
    for row in range(8):
        rows.texts[row] = rows.texts[row] + rows.tokens(1)
    assert cost() == 8
    for row in range(3):
        rows.texts[row] = rows.texts[row] + rows.tokens(1)
    assert cost() == 3  # the rows that wait cost nothing
    rows.texts[5] = rows.tokens(4)
    assert cost() == 4  # a row that begins anew is read alone
    rows.texts[6] = [*rows.texts[6][:4], rows.texts[6][4] ^ 1, *rows.texts[6][5:]]
    assert cost() == 3  # of an edited row, what follows the edit: tokens 4, 5 and 6 of 7
    counts.clear()
    reader.read(flat(rows.texts[:2]))
    assert counts == []  # fewer rows, nothing new


def test_a_row_that_lost_its_last_tokens_is_read_again(build_lm: BuildLM) -> None:
    trunk = build_lm("GPT2").base_model
    reader, others = PrefixReader(trunk), [[7, 8, 9], [10]]
    assert_true(reader, trunk, [[1, 2, 3, 4], *others])
    assert_true(reader, trunk, [[1, 2], *others])
    assert_true(reader, trunk, [[1, 2, 3, 4], *others])


def test_tokens_equal_to_the_padding_behind_them_are_text_once_the_mask_says_so(
    build_lm: BuildLM,
) -> None:
    trunk = build_lm("GPT2").base_model
    reader, others = PrefixReader(trunk), [[7, 8, 9], [10]]
    for text in ([1, 2], [1, 2, 0, 0], [1, 2, 0, 0, 0]):
        found = reader.read(as_dict([text, *others]))  # 0 is also what pads
        torch.testing.assert_close(found, truth(trunk, [text, *others]), rtol=0, atol=1e-4)


@families
def test_a_larger_batch_or_a_longer_text_may_come_later(build_lm: BuildLM, family: str) -> None:
    trunk = build_lm(family).base_model
    reader, rows = PrefixReader(trunk), Rows(seed=3, count=9)
    for count, width in ((2, 12), (9, 12), (3, 30), (9, 40), (1, 11)):
        texts = [text[:10] for text in rows.texts[:count]]
        found = reader.read(flat(texts, width))
        torch.testing.assert_close(found, truth(trunk, texts), rtol=0, atol=1e-4)


@families
def test_an_answer_does_not_depend_on_the_other_rows(build_lm: BuildLM, family: str) -> None:
    trunk = build_lm(family).base_model
    texts = Rows(seed=4, count=6).texts
    together = PrefixReader(trunk).read(flat(texts))
    for row, text in enumerate(texts):
        alone = PrefixReader(trunk).read(flat([text], len(text)))
        torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-5)


@pytest.mark.parametrize("how", ["optimizer", "fused optimizer", "in place", "loading"])
def test_new_weights_are_noticed(build_lm: BuildLM, how: str) -> None:
    trunk = build_lm("GPT2").base_model
    reader, texts = PrefixReader(trunk), Rows(seed=5, count=3).texts
    before = reader.read(flat(texts)).clone()
    if how.endswith("optimizer"):  # torch does not count what a fused one writes
        is_fused = how.startswith("fused")
        optimizer = torch.optim.Adam(trunk.parameters(), lr=0.05, fused=is_fused)
        trunk(input_ids=torch.tensor([[1, 2, 3]])).last_hidden_state.square().sum().backward()
        optimizer.step()
    elif how == "in place":
        with torch.no_grad():
            trunk.wte.weight[:, 0] += 1.0
    else:
        trunk.load_state_dict(build_lm("GPT2", seed=9).base_model.state_dict())
    assert float((truth(trunk, texts) - before).abs().max()) > 0.1  # or this tests nothing
    assert_true(reader, trunk, texts)


def test_weights_that_were_exchanged_are_followed_once_it_was_told_to_forget(
    build_lm: BuildLM,
) -> None:
    trunk = build_lm("GPT2").base_model
    reader, texts = PrefixReader(trunk), [[1, 2, 3], [4]]
    reader.read(flat(texts))
    trunk.load_state_dict(build_lm("GPT2", seed=9).base_model.state_dict(), assign=True)
    reader.forget()
    assert_true(reader, trunk, texts)
    with torch.no_grad():
        trunk.wte.weight[:, 0] += 1.0
    assert_true(reader, trunk, texts)


def test_the_version_changes_when_an_answer_may_have_changed(build_lm: BuildLM) -> None:
    reader = PrefixReader(build_lm("GPT2").base_model)
    texts = [[1, 2], [3]]
    reader.read(flat(texts))
    version = reader.version
    reader.read(flat(texts))
    assert reader.version == version
    reader.read(flat([[1, 2], [4]]))
    assert reader.version != version


@families
@pytest.mark.parametrize("use_fast_path", [True, False])
def test_reading_that_was_interrupted_leaves_nothing_wrong_behind(
    family: str, use_fast_path: bool, build_lm: BuildLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys and values of another text may be in the slots then, and are not to be trusted."""
    trunk = build_lm(family).base_model
    reader = PrefixReader(trunk, use_fast_path=use_fast_path)
    first, second = [1, 2, 3, 4, 5, 6], [1, 2, 9, 8, 7, 6, 5]
    reader.read(flat([first]))

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:  # behind all layers
        if use_fast_path:
            patch.setattr(reader._lean, "_norm", interrupt)
        else:
            patch.setattr(trunk.ln_f if family == "GPT2" else trunk.norm, "forward", interrupt)
        with pytest.raises(KeyboardInterrupt):
            reader.read(flat([second]))
    assert_true(reader, trunk, [first])
    assert_true(reader, trunk, [second])


def test_versions_of_weights_tell_a_write_from_a_read(build_lm: BuildLM) -> None:
    trunk = build_lm("GPT2").base_model
    before = weights_version(trunk.parameters())
    trunk(input_ids=torch.tensor([[1]]))
    assert weights_version(trunk.parameters()) == before
    with torch.no_grad():
        trunk.wte.weight.mul_(1.0)
    assert weights_version(trunk.parameters()) != before


def test_forgetting_changes_no_answer(build_lm: BuildLM) -> None:
    trunk = build_lm("GPT2").base_model
    reader, texts = PrefixReader(trunk), [[1, 2, 3], [4, 5]]
    reader.read(flat(texts))
    reader.forget()
    assert_true(reader, trunk, [[1, 2, 3, 6], [4, 5]])


def test_dropout_is_off_even_if_the_trunk_was_put_into_training_mode(build_lm: BuildLM) -> None:
    trunk = build_lm("GPT2", resid_pdrop=0.5, embd_pdrop=0.5).base_model
    reader, texts = PrefixReader(trunk), [[1, 2, 3], [4, 5]]
    expected = truth(trunk, texts)
    trunk.train()
    torch.testing.assert_close(reader.read(flat(texts)), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("use_cache", [True, False])
def test_a_text_longer_than_the_models_positions_is_refused(
    build_lm: BuildLM, use_cache: bool
) -> None:
    reader = PrefixReader(build_lm("GPT2").base_model, use_cache=use_cache)
    texts = [[1] * 65, [2]]
    with pytest.raises(InvalidInputError, match="The text has 65 tokens; the model has 64 posit"):
        reader.read(flat(texts, 70))


@families
def test_a_text_may_be_short_in_an_observation_longer_than_the_positions(
    build_lm: BuildLM, family: str
) -> None:
    trunk = build_lm(family).base_model
    reader, text = PrefixReader(trunk), [1, 2] * 32  # all 64 positions
    reader.read(flat([text[:-1]], 90))
    with torch.no_grad():
        expected = trunk(input_ids=torch.tensor([text])).last_hidden_state[:, -1]
    torch.testing.assert_close(reader.read(flat([text], 90)), expected, rtol=0, atol=1e-4)


def test_a_token_looks_at_its_own_row_up_to_itself() -> None:
    cache = SlotCache(num_layers=1, num_slots=3, num_columns=4)
    mask = cache.aim(
        torch.tensor([0, 2]),
        torch.tensor([[-1, 0], [1, 2]]),  # the first token of row 0 is padding
        end=3,
        is_in_order=False,
    )
    assert mask.shape == (2, 1, 2, 3)
    assert mask[0, 0, 1].tolist() == [True, False, False]
    assert mask[1, 0].tolist() == [[True, True, False], [True, True, True]]
    assert mask[0, 0, 0].any()  # a softmax over nothing would be NaN
    keys = torch.arange(4.0).reshape(2, 1, 2, 1) + 1
    layer: Any = cache.layers[0]
    seen, _ = layer.update(keys, keys)
    assert seen[:, 0, :, 0].tolist() == [[2.0, 0.0, 0.0], [0.0, 3.0, 4.0]]
