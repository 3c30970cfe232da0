import dataclasses
import json
import math
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from textrl_agents.supervised import SupervisedConfig, SupervisedResult, train_supervised
from textrl_agents.supervised_config import Architecture
from textrl_agents.supervised_data import (
    Example,
    TokenSequence,
    cut_text,
    pad,
    plan_batches,
    read_examples,
    split_indices,
    tokenise_examples,
    train_tokenizer,
)
from textrl_agents.supervised_model import build_model
from textrl_agents.supervised_training import (
    learning_rate_factor,
    negative_log_likelihood,
    perplexity,
)
from textrl_envs.errors import InvalidInputError
from textrl_envs.language_models.decoder import Decoder
from textrl_envs.prompts import PromptTable

TINY: dict[str, Any] = {
    "layers": 2,
    "width": 32,
    "heads": 2,
    "max_tokens": 64,
    "vocabulary_size": 300,
}


def sentence_pairs(count: int) -> list[dict[str, str]]:
    """Sentences of a small grammar, cut into a question and an answer that depends on it."""
    rng = random.Random(0)
    plurals = {"cat": "cats", "mouse": "mice", "ox": "oxen", "dog": "dogs", "goose": "geese"}
    rows = []
    for _ in range(count):
        name, animal = rng.choice(["Ann", "Bob", "Cy"]), rng.choice(sorted(plurals))
        number = rng.randint(2, 9)
        rows.append(
            {
                "prompt": f"{name} has {number} of this: {animal}.\n",
                "response": f"So {name} has {number} {plurals[animal]}.",
            }
        )
    return rows


def write_jsonl(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("data") / "pairs.jsonl", sentence_pairs(400))


@pytest.fixture(scope="module")
def config(data: Path) -> SupervisedConfig:
    return SupervisedConfig(
        data=data,
        **TINY,
        epochs=20,
        batch_tokens=256,
        learning_rate=1e-2,
        held_out_fraction=0.1,
        evaluate_every_steps=50,
    )


@pytest.fixture(scope="module")
def result(config: SupervisedConfig, tmp_path_factory: pytest.TempPathFactory) -> SupervisedResult:
    return train_supervised(config, tmp_path_factory.mktemp("runs") / "sft")


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer without merges: id of a byte's character, EOS 0, padding 1."""
    return train_tokenizer(["ab"], vocabulary_size=258, split_digits=False)


def example(prompt: str, response: str) -> Example:
    return Example(prompt=prompt, response=response, place="here")


def random_sequences(lengths: list[int], vocabulary_size: int) -> list[TokenSequence]:
    generator = torch.Generator().manual_seed(0)
    return [
        TokenSequence(
            token_ids=torch.randint(vocabulary_size, (n,), generator=generator),
            is_target=torch.arange(n) >= 1 + i % 3,
            prompt_length=1,
        )
        for i, n in enumerate(lengths)
    ]


# --- data ---


def test_loss_counts_the_response_and_its_eos_and_nothing_else() -> None:
    tokenizer = byte_tokenizer()
    (sequence,) = tokenise_examples([example("abc", "de")], tokenizer, train_on_prompt=False)
    expected = [tokenizer.convert_tokens_to_ids(letter) for letter in "abcde"]
    assert sequence.token_ids.tolist() == [*expected, tokenizer.eos_token_id]
    assert sequence.is_target.tolist() == [False, False, False, True, True, True]
    assert sequence.prompt_length == 3


def test_with_train_on_prompt_only_the_first_token_is_given() -> None:
    (sequence,) = tokenise_examples([example("abc", "de")], byte_tokenizer(), train_on_prompt=True)
    assert sequence.is_target.tolist() == [False, True, True, True, True, True]


def test_prompt_and_response_never_share_a_token() -> None:
    tokenizer = train_tokenizer(["abcd " * 50], vocabulary_size=300, split_digits=False)
    assert len(tokenizer.encode("abcd")) == 1
    (sequence,) = tokenise_examples([example("ab", "cd")], tokenizer, train_on_prompt=False)
    apart = tokenizer.encode("ab") + tokenizer.encode("cd") + [tokenizer.eos_token_id]
    assert sequence.token_ids.tolist() == apart


def test_prompts_are_tokenised_as_the_environment_tokenises_them(data: Path) -> None:
    template = "Question: {prompt}Answer:"
    examples = read_examples(
        data, prompt_field="prompt", response_field="response", template=template
    )
    tokenizer = train_tokenizer(
        [e.prompt + e.response for e in examples], vocabulary_size=400, split_digits=False
    )
    sequences = tokenise_examples(examples, tokenizer, train_on_prompt=False)
    table = PromptTable(
        [row["prompt"] for row in sentence_pairs(400)], tokenizer, template=template
    )
    for sequence, row, length in zip(sequences, table.token_ids, table.lengths, strict=True):
        assert sequence.token_ids[: sequence.prompt_length].tolist() == row[:length].tolist()


@pytest.mark.parametrize("split_digits", [False, True])
def test_tokenizer_gives_back_every_text(split_digits: bool) -> None:
    tokenizer = train_tokenizer(
        ["two  spaces 1234"], vocabulary_size=270, split_digits=split_digits
    )
    text = "  don't , stop !\r\n\ttwo  spaces 12.5% é 漢字 🙂 \x00"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_tokenizer_has_distinct_eos_and_padding_and_adds_neither() -> None:
    tokenizer = byte_tokenizer()
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 1)
    assert len(tokenizer.encode("ab")) == 2


def test_split_digits_keeps_every_digit_apart() -> None:
    texts = ["1234 " * 50]
    whole = train_tokenizer(texts, vocabulary_size=300, split_digits=False)
    split = train_tokenizer(texts, vocabulary_size=300, split_digits=True)
    assert len(whole.encode("1234")) == 1
    assert split.tokenize("1234") == ["1", "2", "3", "4"]


def test_tokenizer_is_the_same_each_time() -> None:
    texts = [row["prompt"] + row["response"] for row in sentence_pairs(100)]
    first, second = (
        train_tokenizer(texts, vocabulary_size=400, split_digits=False) for _ in range(2)
    )
    assert first.backend_tokenizer.to_str() == second.backend_tokenizer.to_str()


def test_text_is_cut_into_blocks_that_hold_all_of_it_and_end_with_eos() -> None:
    tokenizer = byte_tokenizer()
    blocks = cut_text("abcdefg", tokenizer, max_tokens=3)
    assert [len(block.token_ids) for block in blocks] == [3, 3, 2]
    assert tokenizer.decode(torch.cat([b.token_ids for b in blocks]).tolist()) == (
        "abcdefg<|endoftext|>"
    )
    assert blocks[0].is_target.tolist() == [False, True, True]


def test_each_sequence_is_in_one_batch_of_limited_size_and_similar_lengths() -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(5, 100, (1000,), generator=generator).tolist()
    batches = plan_batches(lengths, batch_tokens=400, generator=generator)
    assert sorted(i for batch in batches for i in batch) == list(range(1000))
    padded = [len(batch) * max(lengths[i] for i in batch) for batch in batches]
    assert max(padded) <= 400
    assert sum(lengths) > 0.9 * sum(padded)


def test_batches_differ_between_epochs_and_repeat_with_the_seed() -> None:
    def two_epochs(seed: int) -> list[list[list[int]]]:
        generator = torch.Generator().manual_seed(seed)
        lengths = [3 + i % 7 for i in range(50)]
        return [plan_batches(lengths, batch_tokens=30, generator=generator) for _ in range(2)]

    first, second = two_epochs(0)
    assert first != second
    assert [first, second] == two_epochs(0)


def test_split_holds_out_its_share_and_never_all_or_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    learnt, held_out = split_indices(100, held_out_fraction=0.2, generator=generator)
    assert sorted(learnt + held_out) == list(range(100))
    assert len(held_out) == 20
    for fraction in (0.001, 0.999):
        parts = split_indices(2, held_out_fraction=fraction, generator=generator)
        assert [len(part) for part in parts] == [1, 1]


# --- the loss ---


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_loss_is_the_sum_of_minus_log_p_over_the_targets(
    data: Path, architecture: Architecture
) -> None:
    tokenizer = byte_tokenizer()
    config = SupervisedConfig(data=data, **TINY, architecture=architecture)
    model = build_model(config, tokenizer)
    sequences = random_sequences([4, 9, 2, 7], len(tokenizer))
    expected, count = 0.0, 0
    with torch.no_grad():
        for sequence in sequences:  # one by one, without padding, token by token
            log_probs = model(input_ids=sequence.token_ids[None]).logits[0].log_softmax(-1)
            for t in range(1, len(sequence.token_ids)):
                if sequence.is_target[t]:
                    expected -= log_probs[t - 1, sequence.token_ids[t]].item()
                    count += 1
        loss, targets = negative_log_likelihood(
            Decoder.of(model, use_cache=False), pad(sequences, fill_id=0)
        )
    assert targets == count
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_perplexity_of_unequal_batches_is_that_of_one_big_batch(data: Path) -> None:
    tokenizer = byte_tokenizer()
    model = build_model(SupervisedConfig(data=data, **TINY), tokenizer)
    decoder = Decoder.of(model, use_cache=False)
    sequences = random_sequences([30, 2, 17, 3, 3], len(tokenizer))
    together = perplexity(decoder, [pad(sequences, fill_id=1)])
    apart = perplexity(decoder, [pad(sequences[:1], fill_id=1), pad(sequences[1:], fill_id=0)])
    assert apart == pytest.approx(together, rel=1e-6)


def test_cosine_rises_to_one_and_falls_through_a_half() -> None:
    factors = [learning_rate_factor(s, steps=12, warmup_steps=2, decay="cosine") for s in range(12)]
    assert factors[:3] == [0.5, 1.0, 1.0]
    assert factors[7] == pytest.approx(0.5)
    assert factors[2:] == sorted(factors[2:], reverse=True)


# --- the training ---


def test_with_patience_it_stops_early_and_saves_the_best_weights(tmp_path: Path) -> None:
    """Random answers can be learnt by heart alone: held-out ones become less and less likely."""
    rng = random.Random(0)
    words = "".join(rng.choices("abcdefgh", k=400))
    rows = [{"prompt": f"{i}:", "response": words[9 * i : 9 * i + 9]} for i in range(40)]
    data = write_jsonl(tmp_path / "data.jsonl", rows)
    settings = {
        "epochs": 100,
        "learning_rate": 1e-2,
        "evaluate_every_steps": 5,
        "batch_tokens": 256,
    }
    config = SupervisedConfig(data=data, **{**TINY, **settings}, held_out_fraction=0.2, patience=3)
    result = train_supervised(config, tmp_path / "sft")
    found = [value for _, value in result.perplexities]
    best = found.index(min(found))
    assert 0 < best == len(found) - 1 - 3 - 1  # three that were no lower, and the best put back
    assert result.perplexity_after == pytest.approx(found[best], rel=1e-6)
    assert result.steps == result.perplexities[-2][0] < 100
    assert not result.is_interrupted
    again = dataclasses.replace(config, model=result.folder, max_steps=1, patience=None)
    before = train_supervised(again, tmp_path / "again").perplexity_before
    assert before == pytest.approx(found[best], rel=1e-5)
    late = train_supervised(dataclasses.replace(config, patience=None), tmp_path / "late")
    assert late.perplexity_after > result.perplexity_after


def test_dropout_and_frozen_layers_change_what_is_learnt(
    config: SupervisedConfig, result: SupervisedResult, tmp_path: Path
) -> None:
    short = dataclasses.replace(config, model=result.folder, max_steps=3, learning_rate=1e-4)
    weights = {}
    for name, settings in (
        ("plain", {}),
        ("dropped", {"dropout": 0.2}),
        ("again", {"dropout": 0.2}),
        ("frozen", {"frozen_layers": 1}),
    ):
        folder = train_supervised(
            dataclasses.replace(short, **settings),
            tmp_path / name,
        ).folder
        weights[name] = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    start = AutoModelForCausalLM.from_pretrained(result.folder).state_dict()
    for name, tensor in start.items():
        assert torch.equal(weights["dropped"][name], weights["again"][name])
        is_low = any(part in name for part in ("wte", "wpe", "h.0.", "lm_head"))
        assert torch.equal(weights["frozen"][name], tensor) == is_low, name
        assert not torch.equal(weights["plain"][name], tensor), name
    assert any(not torch.equal(weights["plain"][n], weights["dropped"][n]) for n in start)


def test_trained_model_beats_the_unigram_model(
    config: SupervisedConfig, result: SupervisedResult
) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(result.folder)
    examples = read_examples(
        config.data, prompt_field="prompt", response_field="response", template="{prompt}"
    )
    sequences = tokenise_examples(examples, tokenizer, train_on_prompt=False)
    learnt, held_out = (
        [int(t) for i in part for t in sequences[i].token_ids[sequences[i].is_target]]
        for part in split_indices(
            len(sequences),
            held_out_fraction=config.held_out_fraction,
            generator=torch.Generator().manual_seed(config.seed),
        )
    )
    counts = Counter(learnt)
    nats = [-math.log(counts[token] / len(learnt)) for token in held_out]
    unigram = math.exp(sum(nats) / len(nats))
    assert result.perplexity_before > unigram > 5
    # The answer follows from the prompt, so a model that read it is hardly perplexed.
    assert result.perplexity_after < 1.5


def test_saved_folder_is_an_ordinary_transformers_model(result: SupervisedResult) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(result.folder)
    tokenizer: Any = AutoTokenizer.from_pretrained(result.folder)
    prompt = tokenizer("Bob has 3 of this: ox.\n", return_tensors="pt")
    output = model.generate(**prompt, max_new_tokens=32, do_sample=False)
    new = output[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(new) == "So Bob has 3 oxen.<|endoftext|>"
    assert model.config.pad_token_id == tokenizer.pad_token_id != model.config.eos_token_id
    assert sum(p.numel() for p in model.parameters()) == result.parameters
    assert [p.name for p in result.folder.parent.iterdir()] == ["sft"]


def test_record_and_result_agree(config: SupervisedConfig, result: SupervisedResult) -> None:
    record = json.loads((result.folder / "training.json").read_text(encoding="utf-8"))
    assert record["config"] == {**dataclasses.asdict(config), "data": str(config.data)}
    assert record["steps"] == result.steps
    assert record["perplexities"][-1] == [result.steps, result.perplexity_after]
    assert (result.training_examples, result.held_out_examples) == (360, 40)
    assert result.sample.completion == result.sample.response


def test_same_seed_gives_the_same_bytes(config: SupervisedConfig, tmp_path: Path) -> None:
    def train(name: str, seed: int) -> dict[str, bytes]:
        short = dataclasses.replace(config, max_steps=5, seed=seed)
        folder = train_supervised(short, tmp_path / name).folder
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    first = train("first", 0)
    torch.manual_seed(1)  # the global generator decides nothing
    assert train("second", 0) == first
    assert train("third", 1)["model.safetensors"] != first["model.safetensors"]


def test_training_leaves_the_global_generator_alone(
    config: SupervisedConfig, tmp_path: Path
) -> None:
    before = torch.get_rng_state()
    train_supervised(dataclasses.replace(config, max_steps=2), tmp_path / "sft")
    assert torch.equal(torch.get_rng_state(), before)


def test_training_continues_from_a_folder(
    config: SupervisedConfig, result: SupervisedResult, tmp_path: Path
) -> None:
    further = dataclasses.replace(config, model=result.folder, max_steps=3, learning_rate=1e-4)
    again = train_supervised(further, tmp_path / "further")
    assert again.perplexity_before == pytest.approx(result.perplexity_after, rel=1e-5)
    assert again.parameters == result.parameters
    tokenizers = [folder / "tokenizer.json" for folder in (result.folder, again.folder)]
    assert tokenizers[0].read_bytes() == tokenizers[1].read_bytes()


def test_plain_text_is_learnt(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n".join(row["response"] for row in sentence_pairs(300)), encoding="utf-8")
    config = SupervisedConfig(data=text, **TINY, epochs=20, batch_tokens=256, learning_rate=1e-2)
    result = train_supervised(config, tmp_path / "sft")
    assert result.dropped_examples == 0
    assert result.perplexity_after < 5 < 100 < result.perplexity_before


def test_llama_is_trained_as_well(config: SupervisedConfig, tmp_path: Path) -> None:
    llama = dataclasses.replace(config, architecture="llama", epochs=12)
    result = train_supervised(llama, tmp_path / "sft")
    assert result.perplexity_after < 2


def test_examples_that_are_too_long_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [*sentence_pairs(20), {"prompt": "Tell me", "response": "a long story " * 100}]
    data = write_jsonl(tmp_path / "data.jsonl", rows)
    result = train_supervised(SupervisedConfig(data=data, **TINY, max_steps=1), tmp_path / "sft")
    assert result.dropped_examples == 1
    assert result.training_examples + result.held_out_examples == 20


def test_progress_is_reported_and_ends_with_the_last_step(
    config: SupervisedConfig, tmp_path: Path
) -> None:
    reports: list[dict[str, float]] = []
    short = dataclasses.replace(config, max_steps=5, log_every_steps=2)
    train_supervised(short, tmp_path / "sft", progress=lambda r: reports.append(dict(r)))
    assert [r["step"] for r in reports] == [2, 4, 5]
    assert {r["steps"] for r in reports} == {5}
    assert reports[0]["tokens"] < reports[1]["tokens"]
    assert all(math.isfinite(value) for r in reports for value in r.values())


def test_ctrl_c_keeps_what_was_learnt(config: SupervisedConfig, tmp_path: Path) -> None:
    def stop(report: object) -> None:
        raise KeyboardInterrupt

    quick = dataclasses.replace(config, log_every_steps=7)
    result = train_supervised(quick, tmp_path / "sft", progress=stop)
    assert result.is_interrupted
    assert result.steps == 7
    assert result.perplexity_after < result.perplexity_before
    assert (result.folder / "model.safetensors").is_file()


def test_failed_save_leaves_the_earlier_result(
    config: SupervisedConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = dataclasses.replace(config, max_steps=1)
    folder = train_supervised(short, tmp_path / "sft").folder
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("transformers.PreTrainedTokenizerFast.save_pretrained", fail)
    with pytest.raises(OSError, match="disk full"):
        train_supervised(dataclasses.replace(short, seed=1), folder, overwrite=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["sft"]


def test_earlier_result_is_replaced_only_on_demand(
    config: SupervisedConfig, tmp_path: Path
) -> None:
    short = dataclasses.replace(config, max_steps=1)
    train_supervised(short, tmp_path / "sft")
    with pytest.raises(InvalidInputError, match=r"holds an earlier result.*--overwrite"):
        train_supervised(short, tmp_path / "sft")
    longer = dataclasses.replace(config, max_steps=2)
    assert train_supervised(longer, tmp_path / "sft", overwrite=True).steps == 2
    assert [path.name for path in tmp_path.iterdir()] == ["sft"]


# --- errors ---


def test_folder_with_other_files_is_never_replaced(
    config: SupervisedConfig, tmp_path: Path
) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InvalidInputError, match=r"holds other files\. Choose another"):
        train_supervised(config, tmp_path, overwrite=True)


def test_destination_below_a_file_is_refused(config: SupervisedConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInputError, match=r"Cannot save to .*file/sft"):
        train_supervised(config, tmp_path / "file" / "sft")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("epochs", 0, "epochs must be at least 1; got 0. Try 3."),
        ("layers", 0, "layers must be at least 1; got 0. Try 4."),
        ("max_steps", 0, "max_steps must be at least 1; got 0. Try None."),
        ("max_tokens", 1, "max_tokens must be at least 2; got 1"),
        ("learning_rate", 0.0, "learning_rate must be above 0; got 0.0. Try 0.001."),
        ("learning_rate", math.nan, "learning_rate must be above 0; got nan"),
        ("weight_decay", -1.0, "weight_decay must be 0 or above; got -1.0"),
        ("warmup_fraction", 1.5, r"warmup_fraction must be in \[0, 1\]; got 1.5"),
        ("held_out_fraction", 1.0, "held_out_fraction must be above 0 and below 1; got 1.0"),
        ("vocabulary_size", 100, "vocabulary_size must be at least 258; got 100. Try 2048."),
        ("template", "Question:", r"template must be text that holds \{prompt\}; got 'Question:'"),
        ("heads", 3, "heads must divide width=128; got 3. Try 1."),
        ("batch_tokens", 100, "batch_tokens must be at least max_tokens=256; got 100. Try 4096."),
    ],
)
def test_config_names_what_it_expected(name: str, value: object, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        SupervisedConfig(**{"data": Path("data.jsonl"), name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        (" \n\n", "is empty"),
        ("{oops\n", "line 1: not valid JSON .*column 2"),
        ('{"prompt": "p", "response": "r"}\n[1]\n', "line 2: expected a JSON object; got list"),
        (
            '\n{"prompt": "p", "respons": "r"}\n',
            "line 2: no field 'response'. Did you mean 'respons'",
        ),
        ('{"prompt": "p", "response": 7}\n', "line 1: 'response' must be non-empty text; got 7"),
        ('{"prompt": " ", "response": "r"}\n', "line 1: 'prompt' must be non-empty text; got ' '"),
        (
            '{"prompt": "p", "response": "r<|endoftext|>"}\n',
            r"line 1: the response holds the special token '<\|endoftext\|>'",
        ),
        (
            '{"prompt": "p", "response": "\\ud800"}\n',
            "line 1: 'response' holds the lone surrogate",
        ),
        ('{"prompt": "p", "response": "r"}\n', "Expected at least 2 examples .* got 1 of 1"),
    ],
)
def test_bad_data_is_named_by_file_and_line(content: str, message: str, tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text(content, encoding="utf-8")
    with pytest.raises(InvalidInputError, match=message) as caught:
        train_supervised(SupervisedConfig(data=data), tmp_path / "sft")
    assert str(data) in str(caught.value)


def test_missing_data_is_named(tmp_path: Path) -> None:
    config = SupervisedConfig(data=tmp_path / "none.jsonl")
    with pytest.raises(InvalidInputError, match=r"Cannot read .*none\.jsonl: No such file"):
        train_supervised(config, tmp_path / "sft")


def test_data_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    config = SupervisedConfig(data=tmp_path / "latin.txt")
    with pytest.raises(InvalidInputError, match="not UTF-8 at byte 3"):
        train_supervised(config, tmp_path / "sft")


def test_missing_model_folder_is_named(config: SupervisedConfig, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"there is none at .*nowhere"):
        train_supervised(dataclasses.replace(config, model=tmp_path / "nowhere"), tmp_path / "sft")


def test_pickled_weights_are_refused(
    config: SupervisedConfig, result: SupervisedResult, tmp_path: Path
) -> None:
    folder = tmp_path / "pickled"
    folder.mkdir()
    (folder / "config.json").write_bytes((result.folder / "config.json").read_bytes())
    (folder / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(InvalidInputError, match="no safetensors weights") as caught:
        train_supervised(dataclasses.replace(config, model=folder), tmp_path / "sft")
    assert "\n" not in str(caught.value)


def test_model_that_reads_too_little_is_refused(
    config: SupervisedConfig, result: SupervisedResult, tmp_path: Path
) -> None:
    longer = dataclasses.replace(config, model=result.folder, max_tokens=100)
    with pytest.raises(InvalidInputError, match="max_tokens must be at most the 64 tokens"):
        train_supervised(longer, tmp_path / "sft")


def test_unknown_device_is_refused(config: SupervisedConfig, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="quantum"):
        train_supervised(dataclasses.replace(config, device="quantum"), tmp_path / "sft")


def test_diverging_training_is_stopped(config: SupervisedConfig, tmp_path: Path) -> None:
    wild = dataclasses.replace(config, learning_rate=1e38, log_every_steps=1)
    with pytest.raises(InvalidInputError, match=r"Expected a finite loss; got .* Lower learning"):
        train_supervised(wild, tmp_path / "sft")
    assert not (tmp_path / "sft").exists()
