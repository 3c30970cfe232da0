"""The code of docs/interop.md runs as it stands there, and its table says what is installed."""

import importlib.util
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from tests.interop.page import PAGE, code_of, run

SECTIONS = {
    "Stable-Baselines3": ("stable_baselines3", "4096"),
    "CleanRL-style": ("gymnasium", "0.0 tell of lantern and harbour :"),
    "TorchRL": ("torchrl", "torch.Size([4, 40, 33]) torch.Size([4, 40, 1])"),
    "RLlib": ("ray.rllib", "51"),  # 512 steps, and those by which its rows overshoot
    "PufferLib": ("pufferlib", "(4, 33) [False False False False]"),
}
"""Heading -> the module that it is about, and what its code prints at least."""
ELSEWHERE = {"sb3-contrib", "TRL", "reasoning-gym", "GEM", "Hugging Face datasets", "PEFT"}
"""Sections whose code is run by the tests of the library, with a model in place."""
DISTRIBUTIONS = {"RLlib": "ray", "GEM": "gem-llm", "CleanRL-style": None}


def is_installed(module: str) -> bool:
    if module == "ray.rllib":  # ray brings the folder along, but not what it needs
        return importlib.util.find_spec("tree") is not None
    return importlib.util.find_spec(module) is not None


@pytest.mark.slow
@pytest.mark.parametrize("heading", SECTIONS)
def test_the_code_of_a_section_runs(heading: str, tmp_path: Path) -> None:
    module, expected = SECTIONS[heading]
    if not is_installed(module):
        pytest.skip(f"{heading} is not installed; docs/interop.md says how to")
    for code in code_of(heading):
        assert expected in run(code, tmp_path)


def test_every_section_with_code_is_tested() -> None:
    sections = re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.M)
    with_code = {heading for heading, text in sections if "```python" in text}
    assert with_code == set(SECTIONS) | ELSEWHERE


def rows() -> list[list[str]]:
    lines = PAGE.split("|---|---|---|---|---|\n")[1].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_the_table_has_every_library_and_five_columns() -> None:
    names = [re.sub(r"\[(.*?)\].*", r"\1", row[0]) for row in rows()]
    assert len(names) == 11
    assert all(len(row) == 5 for row in rows())


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_a_version_of_the_table_is_the_installed_one(row: list[str]) -> None:
    name = re.sub(r"\[(.*?)\].*", r"\1", row[0])
    distribution = DISTRIBUTIONS.get(name, name)
    if distribution is None:
        pytest.skip("a style, not a library")
    try:
        found = version(distribution)
    except PackageNotFoundError:
        pytest.skip(f"{name} is not installed")
    assert found == row[1]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_a_link_of_the_table_leads_to_a_section(row: list[str]) -> None:
    found = re.search(r"\(#(.*?)\)", row[0])
    assert found is not None
    headings = re.findall(r"^## (.*)$", PAGE, re.M)
    assert found[1] in [heading.lower().replace(" ", "-") for heading in headings]
