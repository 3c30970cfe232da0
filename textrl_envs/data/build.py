"""Makes the shipped files again: `python -m textrl_envs.data.build`."""

import json
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers

from textrl_envs.data import FOLDER, sha256
from textrl_envs.data.stories import EOS, PAD, VOCABULARY, stories
from textrl_envs.language_models.ngram import NGramModel

__all__ = ["build"]


def build(folder: Path = FOLDER) -> None:
    """Writes the tokenizer and the bigram model of the Keyword environments, and the manifest."""
    (folder / "keyword").mkdir(parents=True, exist_ok=True)
    word_ids = {word: index for index, word in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(word_ids, unk_token=PAD))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([PAD, EOS])
    tokenizer.save(str(folder / "keyword" / "tokenizer.json"))

    sequences = [
        [word_ids[word] for word in story] for story in stories(np.random.default_rng(0), 20_000)
    ]
    model = NGramModel.fit(sequences, vocabulary_size=len(VOCABULARY), order=2)
    model.save(folder / "keyword" / "bigram.safetensors")

    names = ["keyword/tokenizer.json", "keyword/bigram.safetensors"]
    manifest = {
        "command": "python -m textrl_envs.data.build",
        "sha256": {name: sha256(folder / name) for name in names},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


if __name__ == "__main__":
    build()
