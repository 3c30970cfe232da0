"""The code of docs/interop.md, and the model that it speaks of."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "interop.md").read_text()
TEXT = "the cat sat on the mat and the dog sat on the log. 1 + 2 = 3 <answer>42</answer>\n"


def code_of(heading: str) -> list[str]:
    """Returns the Python blocks of a section."""
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.M)
    assert found is not None, f"no section {heading!r}"
    return re.findall(r"```python\n(.*?)```", found[1], re.DOTALL)


def run(code: str, folder: Path) -> str:
    """Runs a block in a folder, offline, and returns what it prints."""
    settings = {
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(folder / "hf"),
        "OMP_NUM_THREADS": "1",
        "PYTHONHASHSEED": "0",
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def byte_tokenizer() -> Any:
    """Returns a byte-level tokenizer, which can say anything; padding is a token of its own."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=280,
        special_tokens=["<pad>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT] * 20, trainer)
    make: Any = PreTrainedTokenizerFast
    return make(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>")


def make_model(folder: Path) -> Path:
    """Writes `my-model`, a GPT-2 of one layer and its tokenizer, into a folder; returns that."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = byte_tokenizer()
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=512,
        n_embd=32,
        n_layer=1,
        n_head=2,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        GPT2LMHeadModel(config).save_pretrained(folder / "my-model")
    tokenizer.save_pretrained(folder / "my-model")
    return folder


def respond(env: Any, response: str, prompt_index: int = 0) -> tuple[float, dict[str, Any]]:
    """Writes a response and EOS, token by token; returns the reward and the last info."""
    tokenizer = env.unwrapped.task.tokenizer
    env.reset(seed=0, options={"prompt_index": prompt_index})
    for token in [*tokenizer.encode(response), tokenizer.eos_token_id]:
        _, reward, terminated, _, info = env.step(token)
        if terminated:
            return float(reward), info
    raise AssertionError("the response did not end")
