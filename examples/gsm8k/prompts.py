"""Writes the questions of GSM8K that are short enough as prompts for reinforcement learning.

    python examples/gsm8k/prompts.py DATA OUT --tokenizer FOLDER --max-tokens 96

The model reads so many tokens and no more, so a prompt must leave room for a response.
"""

import argparse
import json
from pathlib import Path

from textrl_envs.errors import InvalidInputError
from textrl_envs.prompts import PromptTable, read_prompts
from textrl_envs.tokenizers import load_tokenizer


def main() -> None:
    """Reads the arguments and writes the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="JSONL file with the field 'question'")
    parser.add_argument("out", type=Path, help="JSONL file to write, with the field 'prompt'")
    parser.add_argument("--tokenizer", required=True, help="folder of the trained model")
    parser.add_argument("--template", default="{prompt}\n", help="as in supervised fine-tuning")
    parser.add_argument("--max-tokens", type=int, required=True, help="longest prompt, in tokens")
    arguments = parser.parse_args()
    try:
        count, total = write_prompts(
            arguments.data,
            arguments.out,
            tokenizer=arguments.tokenizer,
            template=arguments.template,
            max_tokens=arguments.max_tokens,
        )
    except InvalidInputError as error:
        parser.error(str(error))
    print(
        f"{arguments.out}: {count:,} of {total:,} questions, those of up to "
        f"{arguments.max_tokens} tokens"
    )


def write_prompts(
    data: Path, out: Path, *, tokenizer: str, template: str, max_tokens: int
) -> tuple[int, int]:
    """Writes the prompts of at most `max_tokens` tokens as they are presented.

    Returns:
        How many were written, and how many there were.

    Raises:
        InvalidInputError: the data or the tokenizer cannot be read.
    """
    table = PromptTable(
        read_prompts(data, prompt_field="question"), load_tokenizer(tokenizer), template=template
    )
    short = [
        text
        for text, length in zip(table.texts, table.lengths.tolist(), strict=True)
        if length <= max_tokens
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("".join(json.dumps({"prompt": t}) + "\n" for t in short), encoding="utf-8")
    return len(short), len(table)


if __name__ == "__main__":
    main()
