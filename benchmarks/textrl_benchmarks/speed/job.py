"""The comparison job: a folder with all that a library needs to do one and the same work.

write_job(folder, job_of_size("4x256", lengths="varied"))

policy/         GPT2LMHeadModel, random weights; it is the reference, too
reward_model/   GPT2ForSequenceClassification with one label, of the same size
value_model/    another one
tokenizer/      a character a token, for libraries that want text
prompts.json    lists of token ids
job.json        the fields of `Job`
"""

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from textrl_envs.errors import InvalidInputError, nearest

__all__ = ["SIZES", "Job", "Lengths", "job_of_size", "make_policy", "read_job", "write_job"]

Lengths = Literal["full", "varied"]

SIZES = {
    "4x256": {"layers": 4, "width": 256, "heads": 4, "vocabulary_size": 4_096, "batch": 64},
    "gpt2": {"layers": 12, "width": 768, "heads": 12, "vocabulary_size": 50_257, "batch": 32},
}
"""The two models that are compared: a small one, and GPT-2 of 124M parameters."""

END_PROBABILITY = 1 / 24
"""Of EOS at every token of a varied job: lengths are geometric, of mean 20.9 when cut at 48."""

LIFT = 4.0
"""What the first coordinate is in front of the output layer, whatever was read."""

NEVER = -40.0
"""A logit with which a token is not drawn: its probability is below 1e-18."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is to be done, in the same way by every library.

    A job is "full" if EOS is never drawn, so that every response has `new_tokens` tokens, and
    "varied" if EOS is drawn with probability 1/24 a token. PAD is never drawn.
    """

    lengths: Lengths
    layers: int
    width: int
    heads: int
    vocabulary_size: int
    batch: int
    """Responses of one update."""
    prompt_tokens: int = 16
    new_tokens: int = 48
    kl_coefficient: float = 0.05
    temperature: float = 1.0
    learning_rate: float = 1e-6
    """So small that the lengths stay what they are."""
    batches_of_prompts: int = 16
    pad_token_id: int = 1
    eos_token_id: int = 2
    seed: int = 0


def job_of_size(size: str, *, lengths: Lengths) -> Job:
    """Returns the job of one of `SIZES`.

    Raises:
        InvalidInputError: no such size.
    """
    if size not in SIZES:
        raise InvalidInputError(f"Unknown size {size!r}. {nearest(size, SIZES)}")
    return Job(lengths=lengths, **SIZES[size])


def read_job(folder: str | Path) -> Job:
    """Reads the job of a folder.

    Raises:
        InvalidInputError: the folder holds none.
    """
    path = Path(folder) / "job.json"
    if not path.is_file():
        raise InvalidInputError(f"{folder} holds no job: there is no job.json in it.")
    return Job(**json.loads(path.read_text(encoding="utf-8")))


def write_job(folder: str | Path, job: Job) -> None:
    """Writes models, tokenizer, prompts and the job itself. The same job gives the same bytes."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _write_models(folder, job)
    _make_tokenizer(job).save_pretrained(folder / "tokenizer")
    (folder / "prompts.json").write_text(json.dumps(_draw_prompts(job)) + "\n", encoding="utf-8")
    # Last: a folder with job.json is whole.
    text = json.dumps(dataclasses.asdict(job), indent=2)
    (folder / "job.json").write_text(text + "\n", encoding="utf-8")


def _draw_prompts(job: Job) -> list[list[int]]:
    """Draws ids uniformly among those that are neither EOS nor PAD."""
    words = np.setdiff1d(np.arange(job.vocabulary_size), [job.eos_token_id, job.pad_token_id])
    shape = job.batches_of_prompts * job.batch, job.prompt_tokens
    found: list[list[int]] = np.random.default_rng(job.seed).choice(words, shape).tolist()
    return found


def _write_models(folder: Path, job: Job) -> None:
    from transformers import GPT2ForSequenceClassification

    make_policy(job).save_pretrained(folder / "policy")
    for number, name in enumerate(("reward_model", "value_model"), start=1):
        _make(GPT2ForSequenceClassification, job, number).save_pretrained(folder / name)


def make_policy(job: Job) -> Any:  # noqa: ANN401 - Transformers' own
    """Returns the language model of a job, in evaluation mode."""
    from transformers import GPT2LMHeadModel

    model = _make(GPT2LMHeadModel, job, 0)
    _fix_end(model, job)
    return model.train(False)


def _make(maker: Any, job: Job, number: int) -> Any:  # noqa: ANN401
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(job.seed + number)
        return maker(_config(job))


def _config(job: Job) -> Any:  # noqa: ANN401 - Transformers' own
    from transformers import GPT2Config

    # Without dropout, so that the losses of two libraries can be compared.
    config = GPT2Config(
        vocab_size=job.vocabulary_size,
        n_layer=job.layers,
        n_embd=job.width,
        n_head=job.heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=job.eos_token_id,
        eos_token_id=job.eos_token_id,
        pad_token_id=job.pad_token_id,
    )
    config.num_labels = 1
    return config


def _fix_end(model: Any, job: Job) -> None:  # noqa: ANN401 - any GPT-2
    """Gives EOS and PAD a constant logit: the layer norm's first coordinate becomes a constant.

    EOS then has the same probability after any text but for how the others' logits sum up, and
    that hardly varies in a random model.
    """
    import torch

    norm, table = model.transformer.ln_f, model.transformer.wte.weight
    with torch.no_grad():
        norm.weight[0], norm.bias[0] = 0.0, LIFT
        for token in (job.eos_token_id, job.pad_token_id):
            table[token] = 0.0
            table[token, 0] = NEVER / LIFT
        if job.lengths == "varied":
            logit = _log_sum_of_others(model, job) + math.log(
                END_PROBABILITY / (1 - END_PROBABILITY)
            )
            table[job.eos_token_id, 0] = logit / LIFT


def _log_sum_of_others(model: Any, job: Job) -> float:  # noqa: ANN401 - any GPT-2
    """Returns log Σ exp(logit) while EOS and PAD weigh nothing, as a mean over random texts."""
    import torch

    ids = torch.tensor(_draw_prompts(job)[:32])
    was_training = model.training
    model.train(False)
    found = float(model(input_ids=ids).logits.logsumexp(-1).mean())
    model.train(was_training)
    return found


def _make_tokenizer(job: Job) -> Any:  # noqa: ANN401 - Transformers' own
    """Makes a tokenizer with one character a token, of a private plane of Unicode.

    Texts are joined and cut again without loss, which words between blanks are not: some libraries
    write prompt and response one behind the other before they score them.
    """
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [chr(0xF0000 + i) for i in range(job.vocabulary_size)]
    words[job.pad_token_id], words[job.eos_token_id] = "<pad>", "<eos>"
    made = tokenizers.Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>")
    )
    made.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex("."), "isolated")
    made.decoder = decoders.Fuse()
    made.add_special_tokens(["<pad>", "<eos>"])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=made,
        eos_token="<eos>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )
