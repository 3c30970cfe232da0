"""Writes docs/performance.md and its plots from what `textrl speed --out docs/speed` wrote."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from textrl_envs.errors import InvalidInputError

__all__ = ["RESULTS", "write"]

RESULTS = Path("docs/speed")
DOCS = Path("docs")

HEAD = """# Speed

Written by `textrl speed page` from the JSON in `docs/speed`. Contenders run in turns on one
machine, CPU time counts and not the clock, and the median of the rounds is given with its range.
Machines are noisy: read the ratios. *Of the floor* is the share of what the machine could do at
the best: every weight multiplied once a token at the rate of a large matrix product, and read
from memory once a step at the rate of a long sum, whichever takes longer; both rates are
measured at the start of the run.

Not measured on a GPU: none was at hand. What runs there alone is covered by tests that are
skipped without one.

## How it is done

1. **The loop.** `PrefixReader` compares each observation with what it remembers of that row, and
   reads the new tokens alone. For GPT-2, Llama, Qwen2 and Qwen3 `LeanTrunk` computes them over
   the model's own weights: keys and values lie in arrays that are taken once, each row at its
   own position, so that a row that begins anew is read beside those that go on, in the same
   products. The last layer is finished for the last token of a prompt alone; of the others nobody
   needs more than their keys and values.
2. **Products.** torch multiplies float32 matrices by MKL, which reaches about half of what
   oneDNN reaches on an AMD EPYC. oneDNN's product is a private operator of torch: it is tried
   once, and torch's own is used where it is missing. One row alone is bound by reading the
   weights: a loop of C reads them 1.6 times as fast as torch, which is as fast as memory gives
   them.
3. **Attention** of one token a row is bound by reading keys and values. A loop of C, compiled
   when it is first needed, reads them about as fast as memory gives them, since it asks for them
   8 KiB ahead, across the ends of rows; without a compiler `scaled_dot_product_attention` does the
   same.
4. **Sampling** takes one uniform number a row, and a loop of C that reads the logits twice and
   writes no softmax: normaliser, entropy and sums over blocks of 128 tokens, then the one block
   that is drawn from.
5. **The update** reads whole episodes without padding, in one long row through Transformers' own
   forward; logits are made at response tokens alone, and nothing of their size is made besides:
   probabilities and gradient take their place. GELU makes its slope in the same pass, and keeps
   that instead of its argument. Attention is a loop of C over texts and heads, forwards and
   backwards, in which nothing is padded. oneDNN makes machine code for each new number of rows,
   so rows are filled up to a round number of tokens.
6. **Groups.** The responses to one prompt begin alike, and a causal model makes the same of the
   same beginning. So do the texts of any batch that have one in common: in the roll-out and in
   the update it is read once, its keys and values go to all, and its gradients are summed. RLOO
   and GRPO gain most, whose groups are of one prompt.
7. **Threads.** A product of fewer than four million multiplications takes some 40 µs on one core.
   Two cores wait for each other for as long as they save, and the one that waits is burnt: such
   products have one thread, whatever torch is told.
8. **Memory.** glibc hands large blocks back to the system, and every page of the next one costs
   a fault, dear in a virtual machine. `textrl_agents.memory.keep_freed_memory` stops it
   for the process; `textrl train` calls it.

All of it is in `textrl_envs/language_models/fast`, which a reader may skip.

All were measured on processors with AVX-512; without it oneDNN has no such lead over MKL, and the
ratios are lower.
"""

SECTIONS = {
    "environment": """## Environment

Random tokens, prompts of 16 tokens, 64 new ones, a generator a row.
""",
    "loop": """## The loop beside `model.generate`

`obs -> policy -> action -> env.step`, a token at a time through the whole environment, beside
`model.generate` on the same GPT-2 with random weights; prompts of 32 tokens, 64 new ones, no row
ends early. The log-probabilities agree with Transformers' to 1e-4
(`tests/envs/language_models`).
""",
    "refill": """## Refill

Episodes of several batches, lengths geometric of mean 24 and at most 64 tokens. A row that has
ended begins anew at once, or waits for the last of its batch: then it is not read, and costs hardly
more than its place. So refilling saves most where a step's cost hardly depends on its size.
""",
    "refill-gpt2": """## The same on GPT-2 of 124M parameters

With 64 rows a product has many, whether rows wait or not, and what waits costs little.
""",
    "kl": """## The KL penalty

Charged at each step, the reference reads beside the policy. For whole episodes it reads once, at
the end: the form that `Collector` takes by itself.
""",
    "update": """## The update

One epoch of PPO over 64 episodes, lengths of mean 21 and at most 48 behind prompts of 32 tokens,
rung by rung.
""",
    "sb3": """## Stable-Baselines3 over a language model

Its PPO, unmodified, on a GPT-2 in this suite's environment: prompts of 16 tokens, 64 new ones, no
row ends early; a roll-out of 2,048 tokens, and one epoch of an update. What its users write reads
the whole text at every step, and again for every token of an update. `CausalLMPolicy` reads a row
on from where it stopped, and `EpisodeRolloutBuffer` keeps each text once and gives it whole.
""",
    "memory": """## Memory of an update

What one optimiser's step over 64 episodes of 32 + 256 tokens adds to the process at its peak, a
GPT-2 of 2 layers, d = 128, V = 50,257.
""",
    "iteration": """## Whole iterations beside TRL

Roll-out, scoring and update on one job (`benchmarks/textrl_benchmarks/speed/job.py`): GPT-2 of 4
layers, d = 256, V = 4,096, 64 prompts of 16 tokens, 48 new tokens, a sequence classifier of the
same size as reward model, KL to a frozen copy, float32. *4x4* is 16 optimiser's steps of a
quarter of the batch, *1x1* one of all. Lengths *varied*: EOS has the probability 1/24 at every
token; *full*: never. A value model of its own is what TRL has; one trunk for policy and value is
another algorithm. REINFORCE takes one step a batch, so it is compared with TRL's RLOO at 1x1.
""",
    "iteration-gpt2": """## The same on GPT-2 of 124M parameters, 32 prompts
""",
    "scaling": """## How cost grows

GPT-2 of 4 layers, d = 256, V = 4,096, batch 32, 64 new tokens, one of them changed at a time.

![tokens per CPU-second](images/speed-scaling.png)
""",
}

LAST_COLUMNS = {"share": "of the floor", "mean_length": "mean length"}
"""A table's last column, by the field of its rows that it shows."""

KINKS = """
- **Batch.** One row is a product of a vector, and has a loop of its own, which reads the weights as
  fast as memory gives them. Two take oneDNN's product, made for many, so that the rate hardly
  grows. From there on it grows with the batch, since what a step costs whatever its size is
  shared by more rows. The floor bends at 16 rows, where multiplying takes longer than reading;
  the loop bends later, at 64 to 128: attention and sampling cost the same for every row.
- **New tokens.** With 16, two of three tokens that are read are the prompt's, which the rate does
  not count; they are read in one large product, so that the loop is nearest to the floor there.
  Between 64 and 256 the rate falls by a seventh. With 480 each token reads so many keys and
  values that reading bounds the floor too.
- **Vocabulary.** Flat while the head is small beside the layers; from some thousand tokens on the
  head's product, a softmax and a draw over V numbers take their share. `generate` bends earlier
  and falls further: it draws by `multinomial`.
- **Parameters.** Small models are bound by what a step costs whatever its size, in Python and in
  calls of torch: a tenth of the floor at 0.3 million parameters, and two thirds of it from 20
  million on.
"""


def write(results: Path) -> None:
    """Writes the page from the JSON of a folder.

    Raises:
        InvalidInputError: the folder holds none.
    """
    files = sorted(results.glob("*.json"))
    if not files:
        raise InvalidInputError(f"{results} holds no results. Run `textrl speed --out {results}`.")
    parts = [HEAD]
    for suite, text in SECTIONS.items():
        found = [json.loads(path.read_text()) for path in files if path.stem[:-2] == suite]
        if not found:
            continue
        parts.append(text)
        for data in found:
            parts.append(_about(suite, data["about"]))
            if suite == "scaling":
                _plot(data["rows"], DOCS / "images" / "speed-scaling.png")
                parts.append(KINKS)
            else:
                parts.append("\n".join(_table(data["rows"])) + "\n")
    (DOCS / "performance.md").write_text("\n".join(parts), encoding="utf-8")


def _about(suite: str, about: dict[str, Any]) -> str:
    threads = f"{about['threads']} thread{'s' if about['threads'] > 1 else ''}"
    rounds = f" --rounds {about['rounds']}" if "rounds" in about else ""
    rates = ""
    if "flops" in about:
        rates = f", {about['flops'] / 1e9:.0f} GFLOP/s and {about['bandwidth'] / 1e9:.0f} GB/s"
    return (
        f"*`textrl speed {suite} --threads {about['threads']}{rounds}`: {about['machine']}, "
        f"{about['cores']} cores, {threads}{rates}; torch {about['torch']}, "
        f"transformers {about['transformers']}.*\n"
    )


def _table(rows: Iterable[dict[str, Any]]) -> Iterable[str]:
    """Yields a table: one line a contender, the case in the first of its lines."""
    rows = list(rows)
    last = next((name for name in LAST_COLUMNS if rows[0].get(name) is not None), None)
    columns = ["case", "contender", rows[0]["unit"], "range", "ratio"]
    columns += [LAST_COLUMNS[last]] if last else []
    yield _line(columns)
    yield _line("---" for _ in columns).replace(" ", "")
    case = None
    for row in rows:
        name = row["case"] if row["case"] != case else ""
        case = row["case"]
        spread = f"{_number(row['minimum'])}-{_number(row['maximum'])}" if "minimum" in row else ""
        cells = [name, row["contender"], _number(row["median"]), spread, f"{row['ratio']:.2f}"]
        if last == "share":
            cells.append(f"{row['share']:.0%}" if row.get("share") is not None else "")
        elif last:
            cells.append(f"{row[last]:.1f}")
        yield _line(cells)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _number(value: float) -> str:
    if value >= 1e6:
        return f"{value / 1e6:.1f}M"
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def _plot(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullFormatter

    axes_names = list(dict.fromkeys(row["plot"][0] for row in rows))
    size = (3.4 * len(axes_names), 3.2)
    figure, grid = plt.subplots(1, len(axes_names), figsize=size, squeeze=False)
    axes = grid[0]
    for axis, name in zip(axes, axes_names, strict=True):
        here = [row for row in rows if row["plot"][0] == name]
        for who in dict.fromkeys(row["contender"] for row in here):
            mine = [row for row in here if row["contender"] == who]
            axis.plot([r["plot"][1] for r in mine], [r["median"] for r in mine], "o-", label=who)
        floor = here[:: len({row["contender"] for row in here})]
        xs, ys = [r["plot"][1] for r in floor], [r["floor"] for r in floor]
        axis.plot(xs, ys, "--", color="grey", label="floor")
        axis.set(xscale="log", yscale="log", xlabel=name)
        for side in (axis.xaxis, axis.yaxis):
            side.set_minor_formatter(NullFormatter())
    axes[0].set_ylabel("tokens per CPU-second")
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
