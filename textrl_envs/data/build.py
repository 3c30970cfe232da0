"""Makes the shipped files again: `python -m textrl_envs.data.build`.

With names of `PARTS`, only their files. All take minutes, since one part trains a model.
"""

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from textrl_envs.data import FOLDER, dialogues, entities, reviews, sha256
from textrl_envs.data.proxy import fit_proxy
from textrl_envs.data.stories import EOS, PAD, VOCABULARY, stories
from textrl_envs.language_models.ngram import NGramModel

__all__ = ["build"]


def build(folder: Path = FOLDER, parts: Sequence[str] = ()) -> None:
    """Writes the files of some parts, and their hashes into the manifest.

    Args:
        folder: is given the files.
        parts: names of `PARTS`; none at all means all. The manifest keeps the hashes of the others.
    """
    names = [name for part in parts or PARTS for name in PARTS[part](folder)]
    path = folder / "manifest.json"
    hashes = json.loads(path.read_text())["sha256"] if path.exists() else {}
    hashes |= {name: sha256(folder / name) for name in names}
    manifest = {"command": "python -m textrl_envs.data.build", "sha256": hashes}
    path.write_text(json.dumps(manifest, indent=2) + "\n")


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


def build_proxy(folder: Path) -> list[str]:
    """Writes the reward model that was fitted on rankings of stories."""
    reference = NGramModel.load(folder / "stories" / "bigram.safetensors")
    name = "stories/proxy.safetensors"
    save_file({"weights": fit_proxy(reference)}, folder / name)
    (folder / name).chmod(0o644)
    return [name]


def build_reviews(folder: Path) -> list[str]:
    """Writes bigram models of reviews and of labelled reviews, and reviews to be labelled."""
    (folder / "reviews").mkdir(parents=True, exist_ok=True)
    texts = reviews.reviews(np.random.default_rng(0), 20_000)
    labelled = reviews.labelled_reviews(np.random.default_rng(1), 20_000)
    prompts = reviews.review_prompts(np.random.default_rng(2), 144)
    return [
        _write_bigram(folder, "reviews/bigram.safetensors", texts, reviews.VOCABULARY),
        _write_bigram(folder, "reviews/labelled_bigram.safetensors", labelled, reviews.VOCABULARY),
        _write_prompts(folder, "reviews/prompts.jsonl", prompts),
    ]


def build_entities(folder: Path) -> list[str]:
    """Writes a bigram model of tagged sentences, and sentences to be tagged."""
    (folder / "entities").mkdir(parents=True, exist_ok=True)
    texts = entities.tagged_sentences(np.random.default_rng(0), 20_000)
    prompts = entities.tagged_prompts(np.random.default_rng(1), 32)
    return [
        _write_bigram(folder, "entities/bigram.safetensors", texts, entities.VOCABULARY),
        _write_prompts(folder, "entities/prompts.jsonl", prompts),
    ]


def build_tiny_gpt(folder: Path) -> list[str]:
    """Trains the tiny GPT-2 and writes it with its tokenizer, a Transformers folder; in minutes."""
    from textrl_envs.data.tiny_gpt import train_tiny_gpt
    from textrl_envs.tokenizers import word_tokenizer

    tokenizer: Any = word_tokenizer(dialogues.VOCABULARY)
    tokenizer.save_pretrained(folder / "tiny_gpt")
    train_tiny_gpt().save_pretrained(folder / "tiny_gpt")
    (folder / "tiny_gpt" / "model.safetensors").chmod(0o644)
    return [f"tiny_gpt/{path.name}" for path in sorted((folder / "tiny_gpt").iterdir())]


def _write_bigram(
    folder: Path, name: str, texts: Iterable[list[str]], vocabulary: tuple[str, ...]
) -> str:
    word_ids = {word: index for index, word in enumerate(vocabulary)}
    sequences = ([word_ids[word] for word in text] for text in texts)
    NGramModel.fit(sequences, vocabulary_size=len(vocabulary)).save(folder / name)
    (folder / name).chmod(0o644)
    return name


def _write_prompts(folder: Path, name: str, prompts: Iterable[dict[str, str]]) -> str:
    lines = [json.dumps(prompt) + "\n" for prompt in prompts]
    (folder / name).write_text("".join(lines), encoding="utf-8")
    return name


FILES = ("tokenizer.json", "bigram.safetensors", "trigram.safetensors")

PARTS: dict[str, Callable[[Path], list[str]]] = {
    "stories": build_stories,
    "proxy": build_proxy,
    "reviews": build_reviews,
    "entities": build_entities,
    "tiny_gpt": build_tiny_gpt,
}
"""Name -> what writes a part's files and returns their names; the proxy needs the stories."""


if __name__ == "__main__":
    build(parts=sys.argv[1:])
