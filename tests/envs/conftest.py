"""Fixtures of the environment tests: small tokenizers, models, files and tasks, made here."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from textrl_envs.prompts import Prompt, PromptTable
from textrl_envs.task import Task

# Before any test imports huggingface_hub: no test may wait for a network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

VOCABULARY = 32
"""Tokens of the word tokenizer: <pad>, <eos>, w2, w3, ..., w31."""

REWARD_FILE = '''
"""Scores a response by its length; also reports how often the first prompt token occurs."""


def reward(prompts, responses, *, prompt_ids, response_ids, metadata):
    scores = [len(ids) / 10 for ids in response_ids]
    repeats = [float((ids == p[0]).sum()) for ids, p in zip(response_ids, prompt_ids)]
    return scores, {"repeats": repeats}
'''


@pytest.fixture(scope="session")
def word_tokenizer() -> Any:
    """Returns a tokenizer of 32 words: "<pad>" is 0, "<eos>" is 1, "w7" is 7."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<eos>", *(f"w{i}" for i in range(2, VOCABULARY))]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    make: Any = PreTrainedTokenizerFast
    return make(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>")


@pytest.fixture(scope="session")
def byte_tokenizer() -> Any:
    """Returns a trained byte-level BPE tokenizer without padding: what pads is its EOS token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    text = ["the cat sat on the mat and the dog sat on the log."] * 20
    tokenizer.train_from_iterator(text, trainer)
    make: Any = PreTrainedTokenizerFast
    return make(tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>")


@pytest.fixture(scope="session")
def build_lm() -> Callable[..., Any]:
    """Returns a function that builds a tiny causal LM: `build_lm("Llama", vocab_size=8)`."""
    import torch
    import transformers

    torch.set_num_threads(1)

    def build(family: str, *, seed: int = 0, **changes: Any) -> Any:
        options: dict[str, Any] = {
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": 64,
            "bos_token_id": None,
            "eos_token_id": None,
            "pad_token_id": None,
            # Ten times the usual: a model whose logits are all alike would agree with anything.
            "initializer_range": 0.3,
        }
        if family not in ("GPT2", "GPTNeo", "GPTNeoX", "Bloom"):
            options["num_key_value_heads"] = 1  # fewer than heads, as in most models of today
        if family == "GPTNeo":
            options = {k: v for k, v in options.items() if not k.startswith("num_")}
            options |= {
                "num_layers": 2,
                "num_heads": 2,
                "attention_types": [[["global", "local"], 1]],
            }
        if family == "Bloom":
            options = {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 2}
        config = getattr(transformers, f"{family}Config")(**options | changes)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            head = "LMHeadModel" if family == "GPT2" else "ForCausalLM"
            return getattr(transformers, f"{family}{head}")(config).eval()

    return build


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory, word_tokenizer: Any) -> Path:
    """Returns a folder that holds the word tokenizer."""
    folder = tmp_path_factory.mktemp("tokenizer")
    word_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def gpt2_folder(
    tmp_path_factory: pytest.TempPathFactory, build_lm: Callable[..., Any], word_tokenizer: Any
) -> Path:
    """Returns a Transformers folder: a tiny GPT-2 and its tokenizer."""
    folder = tmp_path_factory.mktemp("gpt2")
    build_lm("GPT2", seed=1).save_pretrained(folder)
    word_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def bandit_kwargs(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path) -> Any:
    """Returns what `textrl/TextBandit-v0` needs, every part named by a string."""
    folder = tmp_path_factory.mktemp("bandit")
    lines = ["w5", "w6 w7 w8", {"prompt": "w9 w10", "answer": "w11"}]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "reward.py").write_text(REWARD_FILE)
    return {
        "tokenizer": str(tokenizer_folder),
        "prompts": str(folder / "prompts.jsonl"),
        "reward": f"{folder / 'reward.py'}:reward",
        "max_new_tokens": 6,
    }


@pytest.fixture(scope="session")
def make_kwargs(bandit_kwargs: Any) -> Callable[[str], dict[str, Any]]:
    """Returns a function: registered id -> the keyword arguments that `gym.make` needs for it."""
    return lambda name: dict(bandit_kwargs) if name == "textrl/TextBandit-v0" else {}


@pytest.fixture(scope="session")
def make_task(word_tokenizer: Any) -> Callable[..., Task]:
    """Returns a function that makes a task of words: ragged prompts, extras beside the score."""

    def reward(prompts: Any, responses: Any, **more: Any) -> Any:
        ids = more["response_ids"]
        # Neither is constant, and the score tells whether the EOS token was handed over.
        scores = [float(row.sum()) / 100 + 10.0 * float(row[-1] == 1) for row in ids]
        return scores, {
            "tokens": [len(row) for row in ids],
            "last": [float(row[-1]) for row in ids],
        }

    def make(
        *, prompts: Any = ("w5", "w6 w7 w8", "w9 w10"), tokenizer: Any = None, **changes: Any
    ) -> Task:
        tokenizer = tokenizer or word_tokenizer
        options: dict[str, Any] = {"reward": reward, "max_new_tokens": 6} | changes
        table = PromptTable(
            [Prompt(text=p) if isinstance(p, str) else p for p in prompts], tokenizer
        )
        return Task(tokenizer=tokenizer, prompts=table, **options)

    return make
