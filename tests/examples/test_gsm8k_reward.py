import doctest
import importlib.util
import json
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"


def load_reward() -> ModuleType:
    # An example is no package: it is loaded by path, as `--reward path/to/file.py:name` does.
    spec = importlib.util.spec_from_file_location(
        "gsm8k_reward", ROOT / "examples" / "gsm8k" / "reward.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


reward = load_reward()


@pytest.mark.parametrize(
    "annotation",
    [
        "48/2=24",
        "100-50-30-15=5",
        "2+3*4=14",
        "(2+3)*4=20",
        "6/(1/3)=18",
        "7.5*(1+(1/3))=10",
        "500*(30*.01)=150",
        "0.1+0.2=0.3",
        "192*1=192.00",
        "+17.5-2=15.5",
        "-14+-8+1=-21",
        "-18/-2=9",
        "180//3=60",
        "7//2=3",
        "20%*50=10",
        "(1+1)%*100=2",
        ".5*2=1.",
        "1-1.5=-.5",
        " 1 + 1 = 2 ",
        "10-4-3=3",
        "64/4/2=8",
    ],
)
def test_right_calculations_are_right(annotation: str) -> None:
    assert reward.is_right(annotation)


@pytest.mark.parametrize(
    "annotation",
    [
        "2+2=5",
        "10-4-3=9",
        "64/4/2=32",
        "2+3*4=20",
        "18/-2=9",
        "1/0=0",
        "0//0=0",
        "",
        "=",
        "=4",
        "2+2",
        "2+2=",
        "2+2=4=4",
        "2+=2",
        "(2+2=4",
        "2+2)=4",
        "()=0",
        "2 2=22",
        "2(3)=6",
        "2**3=8",
        "9**9**9=1",
        "x+1=2",
        "1e2*1=100",
        "1_0+1=11",
        "1,000+1=1001",
        "2+2=2+2",
        "2+2=+4",
        "1.2.3+1=2",
        "\N{ARABIC-INDIC DIGIT ONE}+1=2",
        "2\N{SUPERSCRIPT TWO}=4",
    ],
)
def test_wrong_or_malformed_annotations_are_wrong(annotation: str) -> None:
    assert not reward.is_right(annotation)


@pytest.mark.parametrize(
    ("annotation", "is_right"),
    [
        ("2/3=0.67", True),
        ("2/3=0.66", False),
        ("2/3=0.667", True),
        ("2/3=.67", True),
        ("2/3=0.7", False),
        ("2/3=1", False),
        ("7/2=4", False),
        ("1/8=0.13", True),
        ("1/8=0.12", True),
        ("1/8=0.14", False),
        ("200/3=66.66666666666667", True),
        ("1.87*9=16.830000000000002", True),
    ],
)
def test_results_may_be_rounded_to_two_decimals_or_more(annotation: str, is_right: bool) -> None:
    assert reward.is_right(annotation) is is_right


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("", 0.0),
        ("No calculation. #### 4", 0.0),
        ("<<1+1=2>>2", 1.0),
        ("<<1+1=2>>2 <<1+1=3>>3", 0.5),
        ("<<1+1=2>>2 <<apples>>", 0.5),
        ("<<1+1=2>>2 <<>>", 0.5),
        ("<<1+1=2>>2 <<5=6>>6", 0.5),
        ("<<1+1=2>>2 then <<2+2=4", 0.5),
        ("<<1+1=2\n>>", 0.0),
        ("<<3+<<1+1=2>>", 0.5),
        ("<1+1=2>", 0.0),
    ],
)
def test_share_counts_every_opened_annotation(text: str, share: float) -> None:
    assert reward.share_right(text) == share


@pytest.mark.parametrize("copy", ["5=5", "-5=-5", "(5)=5", "+5=5", "--5=5", "5.0=5"])
def test_copied_numbers_earn_nothing_and_cost_nothing(copy: str) -> None:
    assert reward.share_right(f"<<{copy}>>5") == 0.0
    assert reward.share_right(f"<<{copy}>>5 <<1+1=2>>2") == 1.0
    assert reward.share_right(f"<<{copy}>>5 <<1+1=3>>3") == 0.0


@pytest.mark.parametrize(
    "text",
    [
        "<<" * 300_000,
        "<<" + "(" * 300_000 + "=1>>",
        "<<" + "9" * 1_000_000 + "+1=1>>",
        "<<" + "(" * 70 + "1" + "=1>>",
        "<<" + "-" * 70 + "1=1>>",
        "<<" + "9/" * 37 + "9=1>>",
        "<<" + "9*" * 37 + "9=1>>",
        "<<9**9**9=1>>",
    ],
)
def test_hostile_text_is_scored_quickly(text: str) -> None:
    start = time.perf_counter()
    assert reward.share_right(text) == 0.0
    assert time.perf_counter() - start < 2


def test_arithmetic_returns_one_float_a_response() -> None:
    responses = ["<<1+1=2>>2", "<<1+1=3>>3", "none"]
    scores = reward.arithmetic(
        ["p"] * 3, responses, prompt_ids=[], response_ids=[], metadata=[{}] * 3
    )
    assert scores.dtype == np.float64
    assert scores.tolist() == [1.0, 0.0, 0.0]


def test_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(reward).failed == 0


@pytest.mark.parametrize(
    ("name", "calculations", "wrong"), [("train", 23359, 0), ("test", 4206, 1)]
)
def test_human_calculations_are_right(name: str, calculations: int, wrong: int) -> None:
    path = DATA / f"gsm8k_{name}.jsonl"
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    lines = path.read_text(encoding="utf-8").splitlines()
    checks = [right for line in lines for right in reward._checks(json.loads(line)["answer"])]
    # The one in the test part that is wrong gives the fraction 3/4 as the result.
    assert (len(checks), len(checks) - sum(checks)) == (calculations, wrong)
