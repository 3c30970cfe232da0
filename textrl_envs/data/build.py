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
    """Writes the files of the stories, and the manifest."""
    names = build_stories(folder)
    manifest = {
        "command": "python -m textrl_envs.data.build",
        "sha256": {name: sha256(folder / name) for name in names},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


def build_stories(folder: Path) -> list[str]:
    """Writes a tokenizer, a bigram model of short stories and a trigram model of long ones."""
    (folder / "stories").mkdir(parents=True, exist_ok=True)
    word_ids = {word: index for index, word in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(word_ids, unk_token=PAD))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([PAD, EOS])
    tokenizer.save(str(folder / "stories" / "tokenizer.json"))
    short = stories(np.random.default_rng(0), 20_000)
    long = stories(np.random.default_rng(1), 20_000, mean_sentences=6)
    for name, texts, order in (("bigram", short, 2), ("trigram", long, 3)):
        sequences = [[word_ids[word] for word in text] for text in texts]
        model = NGramModel.fit(sequences, vocabulary_size=len(VOCABULARY), order=order)
        model.save(folder / "stories" / f"{name}.safetensors")
    return [f"stories/{name}" for name in FILES]


FILES = ("tokenizer.json", "bigram.safetensors", "trigram.safetensors")


if __name__ == "__main__":
    build()
