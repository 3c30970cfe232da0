"""The page in a real Chromium: phone and desktop, dark and light, by pointer and by keyboard.

Skipped where there is no Chromium: `apt-get install chromium`, or set TEXTRL_CHROMIUM to one.
"""

import copy
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.benchmarks.leaderboard.example_board import HOSTILE, example_board
from textrl_benchmarks.leaderboard.board.page import write_page

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright  # noqa: E402

JSON = dict[str, Any]
NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = os.environ.get("TEXTRL_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")

PHONE, DESKTOP = (375, 812), (1440, 900)
LOOKS = [(size, scheme) for size in (PHONE, DESKTOP) for scheme in ("light", "dark")]


@dataclass
class Visit:
    """A page, and what it should not have done."""

    page: Page
    url: str
    trouble: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def open(self, fragment: str = "") -> Page:
        self.page.goto(self.url + fragment)
        self.page.wait_for_selector("html[data-drawn=all]")
        return self.page

    def check(self) -> None:
        assert self.trouble == []
        assert set(self.requests) == {self.url}
        inside, outside = self.page.evaluate(
            "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        )
        assert inside <= outside
        assert self.page.evaluate("window.hacked === undefined")


@pytest.fixture(scope="module")
def board() -> JSON:
    # All agents, for one of them fails, and one has no KL; the last environment is where it fails.
    return example_board(environments=4, seeds=3, prompts=3, points=25)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as starter:
        browser = starter.chromium.launch(executable_path=CHROMIUM, chromium_sandbox=False)
        yield browser
        browser.close()


def visit(
    browser: Browser,
    file: Path,
    size: tuple[int, int] = DESKTOP,
    scheme: Literal["light", "dark"] = "light",
) -> Visit:
    width, height = size
    page = browser.new_page(
        viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce"
    )
    found = Visit(page, file.as_uri())
    page.on("console", lambda message: found.trouble.append(message.text))
    page.on("pageerror", lambda error: found.trouble.append(str(error)))
    page.on("request", lambda request: found.requests.append(request.url.partition("#")[0]))
    page.set_default_timeout(60_000)
    return found


@pytest.fixture(scope="module")
def file(board: JSON, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "index.html"
    write_page(board, path)
    return path


@pytest.fixture
def opened(browser: Browser, file: Path) -> Iterator[Visit]:
    found = visit(browser, file)
    found.open()
    yield found
    found.check()
    found.page.close()


def names(page: Page) -> list[str]:
    rows = page.locator(".ranking tbody tr")
    return [str(name) for name in rows.evaluate_all("rows => rows.map(r => r.dataset.row)")]


def tip(page: Page) -> dict[str, str]:
    expect(page.locator("#tip")).to_be_visible()
    keys, values = (page.locator(f"#tip {tag}").all_text_contents() for tag in ("dt", "dd"))
    return dict(zip(keys, values, strict=True))


def text_of(value: float, digits: int = 3) -> str:
    text = f"{value:.{digits}f}"
    return text.replace("-", "" if float(text) == 0 else "−")


def cell_of(board: JSON, agent: str, env: str) -> str:
    return str(board["heat"][agent][env]["seeds"][0]["cell"])


# --- looks ---


@pytest.mark.parametrize(("size", "scheme"), LOOKS)
def test_it_opens_everywhere_and_never_scrolls_sideways(
    browser: Browser,
    file: Path,
    board: JSON,
    size: tuple[int, int],
    scheme: Literal["light", "dark"],
) -> None:
    found = visit(browser, file, size, scheme)
    page = found.open()
    found.check()
    for section in page.locator("main > section").all():
        section.scroll_into_view_if_needed()
        assert section.locator(".body").inner_text().strip() or section.locator("svg").count()
    page.locator(".heatmap td a").first.click()
    expect(page.locator("#details")).to_be_visible()
    box = page.locator("#details").bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= size[0]
    page.keyboard.press("Escape")
    page.locator("[data-answer=ppo] li").nth(5).hover()
    assert set(tip(page)) >= {"log-prob", "KL", "advantage"}
    found.check()
    page.close()


def lightness(page: Page) -> float:
    # What is painted is asked for, since the style is a function of both schemes.
    colour = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    return sum(int(part) for part in colour[4:-1].split(",")) / 3


def test_the_scheme_of_the_system_holds_until_the_button_says_otherwise(
    browser: Browser, file: Path
) -> None:
    found = visit(browser, file, scheme="dark")
    page = found.open()
    assert lightness(page) < 50
    page.locator("#theme").click()
    assert lightness(page) > 200
    page.reload()
    assert lightness(page) > 200
    page.locator("#theme").click()
    assert lightness(page) < 50
    found.check()
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_numbers_on_colour_can_be_read(
    browser: Browser, file: Path, scheme: Literal["light", "dark"]
) -> None:
    page = visit(browser, file, scheme=scheme).open()
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) > 50
    assert min(contrasts) > 4.5
    page.close()


CONTRASTS = """() => {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const light = (colour) => {
    canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((c) => {
      const s = c / 255; return s <= 0.04045 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4; });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  return [...document.querySelectorAll('td.heat.high a, td.heat.low a')].map((link) => {
    const pair = [getComputedStyle(link).color, getComputedStyle(link.parentNode).backgroundColor];
    const [dark, bright] = pair.map(light).sort((a, b) => a - b);
    return (bright + 0.05) / (dark + 0.05);
  });
}"""


# --- the table ---


def test_headings_sort_both_ways_and_what_is_unknown_stays_last(opened: Visit, board: JSON) -> None:
    page = opened.page
    assert names(page) == [row["agent"] for row in board["rows"]]
    heading = page.locator("th.kl")
    known = [row for row in board["rows"] if row["kl"]["value"] is not None]
    unknown = {row["agent"] for row in board["rows"]} - {row["agent"] for row in known}
    assert unknown
    for direction in ("descending", "ascending"):
        heading.locator("button").click()
        expect(heading).to_have_attribute("aria-sort", direction)
        sign = -1 if direction == "descending" else 1
        wanted = sorted(known, key=lambda row: sign * row["kl"]["value"])
        assert names(page)[: len(known)] == [row["agent"] for row in wanted]
        assert set(names(page)[len(known) :]) == unknown
    expect(page.locator("th[aria-sort=ascending]")).to_have_count(1)


def test_a_number_that_is_missing_is_a_dash(opened: Visit) -> None:
    row = opened.page.locator("tr[data-row=my_agent]")
    assert [row.locator(f"td.{key}").inner_text().strip() for key in ("kl", "gap")] == ["—", "—"]
    assert "−∞" in opened.page.locator("#heat tr", has_text="null_echo").inner_text()


def test_filters_hold_for_the_whole_page(opened: Visit, board: JSON) -> None:
    page, wanted = opened.page, [r["agent"] for r in board["rows"] if "ppo" in r["agent"]]
    page.get_by_label("Agent", exact=True).fill("ppo")
    assert names(page) == wanted
    expect(page.locator(".heatmap").first.locator("tbody tr")).to_have_count(len(wanted))
    expect(page.locator("[data-answer]")).to_have_count(len(wanted))
    expect(page.locator("#shown")).to_contain_text(f"{len(wanted)} of {len(board['rows'])}")
    page.get_by_label("Agent", exact=True).fill("")
    page.get_by_label("null agents").uncheck()
    assert not [name for name in names(page) if name.startswith("null_")]
    page.get_by_label("null agents").check()
    page.get_by_label("Kind").select_option("null")
    assert all(name.startswith("null_") for name in names(page))
    page.get_by_label("Kind").select_option("agent")
    page.get_by_label("Agent", exact=True).fill("no such agent")
    expect(page.locator("#ranking .nothing")).to_be_visible()


def test_an_environment_or_a_tag_is_a_column_of_its_own(opened: Visit, board: JSON) -> None:
    page = opened.page
    page.get_by_label("Environments").select_option("tag:sparse credit")
    ids = [e["id"] for e in board["suite"]["environments"] if "sparse credit" in e["tags"]]
    expect(page.locator(".heatmap").first.locator("thead th")).to_have_count(1 + len(ids))
    expect(page.locator("#curves figure")).to_have_count(len(ids))
    values = [board["heat"]["ppo"][env]["value"] for env in ids]
    row = page.locator("tr[data-row=ppo]")
    expect(row.locator("td.place")).to_have_text(text_of(sum(values) / len(values)))


# --- runs ---


def test_a_cell_leads_to_its_manifest_and_back(opened: Visit, board: JSON) -> None:
    page, env = opened.page, board["suite"]["environments"][1]["id"]
    first, second = (seed["cell"] for seed in board["heat"]["grpo"][env]["seeds"][:2])
    cell = page.locator(f'[data-key="heat:grpo:{env}"]')
    cell.click()
    dialog = page.locator("#details")
    expect(dialog.locator("h2")).to_have_text("grpo on KeywordDense")
    dialog.get_by_role("link", name=second).click()
    expect(dialog.locator("tr.current")).to_contain_text(second)
    dialog.get_by_role("link", name="Manifest").click()
    assert page.url.endswith(f"#manifest={second}")
    expect(page.locator("#part-manifest h3")).to_be_focused()
    shown = {key: dialog.locator(f"#part-{key} pre").text_content() for key in ("manifest", "spec")}
    for key, text in shown.items():
        assert json.loads(text or "") == board["cells"][second][key]
    hashes = dialog.locator("#part-sha256sums pre").text_content()
    assert hashes == board["cells"][second]["sha256sums"]
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(cell).to_be_focused()
    assert first not in page.url


def test_every_run_is_in_the_list(opened: Visit, board: JSON) -> None:
    page = opened.page
    page.locator("#runs summary").click()
    expect(page.locator("#runs tbody tr")).to_have_count(len(board["cells"]))
    page.locator("#runs tbody a").first.click()
    expect(page.locator("#part-manifest h3")).to_be_focused()


def test_failed_runs_are_told_with_their_error(opened: Visit, board: JSON) -> None:
    page, failures = opened.page, board["failures"]
    card = page.locator("#failures .card")
    expect(card).to_have_count(1)
    expect(card.locator(".error")).to_have_text(f"ValueError: {failures[0]['message']}")
    card.locator("summary").click()
    expect(card.locator("pre")).to_have_text(failures[0]["traceback"])
    card.get_by_role("link", name="seed 1").click()
    expect(page.locator("#part-error pre")).to_contain_text(failures[1]["message"])


@pytest.mark.parametrize("part", ["cell", "manifest", "spec", "agent"])
def test_links_lead_into_the_page(browser: Browser, file: Path, board: JSON, part: str) -> None:
    found = visit(browser, file)
    env = board["suite"]["environments"][0]["id"]
    page = found.open(f"#{part}={'rloo' if part == 'agent' else cell_of(board, 'rloo', env)}")
    expect(page.locator("#details")).to_be_visible()
    expect(page.locator("#details-title")).to_contain_text("rloo")
    page.goto(f"{found.url}#cell=0000")
    expect(page.locator("#details")).to_contain_text("no run 0000")
    found.check()
    page.close()


# --- samples ---


def test_a_link_leads_to_a_sample(browser: Browser, file: Path, board: JSON) -> None:
    found = visit(browser, file)
    env = board["suite"]["environments"][2]["id"]
    page = found.open(f"#sample={env},1")
    prompt = board["samples"][env][1]
    expect(page.locator(".prompt")).to_contain_text(prompt["prompt"])
    expect(page.locator("#samples")).to_be_in_viewport()
    check_tokens(page, prompt["responses"][0])
    page.get_by_role("button", name="next prompt").click()
    expect(page.locator(".prompt")).to_contain_text(board["samples"][env][2]["prompt"])
    assert page.url.endswith(",2")
    expect(page.get_by_role("button", name="next prompt")).to_be_disabled()
    found.check()
    page.close()


def check_tokens(page: Page, response: JSON) -> Locator:
    tokens = page.locator(f"[data-answer={response['agent']}] li")
    assert tokens.all_text_contents() == response["tokens"]
    return tokens


def test_a_token_tells_its_numbers_to_pointer_and_keyboard(opened: Visit, board: JSON) -> None:
    page, env = opened.page, board["suite"]["environments"][1]["id"]
    page.locator("#sample-env").select_option(env)
    response = next(r for r in board["samples"][env][0]["responses"] if r["agent"] == "ppo")
    tokens = check_tokens(page, response)
    tokens.nth(2).hover()
    assert tip(page) == numbers(response, 2)
    tokens.first.focus()
    for press, place in (("ArrowRight", 1), ("ArrowRight", 2), ("End", -1), ("Home", 0)):
        page.keyboard.press(press)
        place %= len(response["tokens"])
        expect(tokens.nth(place)).to_be_focused()
        assert tip(page) == numbers(response, place)
    assert text_of(response["values"][0]) in page.locator("#live").inner_text()


def numbers(response: JSON, i: int) -> dict[str, str]:
    ours, reference = response["log_probs"][i], response["ref_log_probs"][i]
    return {
        "log-prob": text_of(ours),
        "reference log-prob": text_of(reference),
        "KL": text_of(ours - reference),
        "value": text_of(response["values"][i]),
        "advantage": text_of(response["advantages"][i]),
    }


def test_what_is_off_the_reference_and_what_is_unknown_differ(opened: Visit) -> None:
    page = opened.page
    page.locator("[data-answer=null_echo] li").nth(1).hover()
    found = tip(page)
    assert found["KL"] == "∞, off the reference"
    assert found["reference log-prob"] == "−∞, off the reference"
    assert found["value"] == "—"
    expect(page.locator("[data-answer=null_echo] li.off").first).to_be_visible()
    page.locator("[data-answer=my_agent] li").nth(1).hover()
    assert tip(page)["KL"] == "—"


def test_colour_follows_the_chosen_number(opened: Visit, board: JSON) -> None:
    page, env = opened.page, board["suite"]["environments"][0]["id"]
    page.get_by_label("advantage").check(force=True)
    response = next(r for r in board["samples"][env][0]["responses"] if r["agent"] == "grpo")
    kinds = page.locator("[data-answer=grpo] li").evaluate_all(
        "all => all.map(one => one.classList.contains('low'))"
    )
    assert kinds == [advantage < 0 for advantage in response["advantages"]]
    expect(page.locator(".scale")).to_contain_text("advantage")
    expect(page.get_by_label("advantage")).to_be_focused()


def test_markup_of_a_model_is_text(opened: Visit) -> None:
    tokens = opened.page.locator("[data-answer=ppo] li").all_text_contents()
    assert tokens[:2] == list(HOSTILE[:2])
    assert tokens[3] == HOSTILE[3]
    expect(opened.page.locator("img")).to_have_count(0)
    opened.page.goto(f"{opened.url}#agent=ppo")
    expect(opened.page.locator("img")).to_have_count(0)


# --- keyboard and charts ---


def test_the_keyboard_reaches_and_does_everything(opened: Visit) -> None:
    page = opened.page
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    expect(page.locator(".skip")).to_be_in_viewport()
    page.locator("th.score button").focus()
    page.keyboard.press("Enter")
    expect(page.locator("th.score")).to_have_attribute("aria-sort", "descending")
    expect(page.locator("th.score button")).to_be_focused()
    page.locator('[data-key="curves:ppo"]').focus()
    page.keyboard.press("Space")
    expect(page.locator('[data-key="curves:ppo"]')).to_have_attribute("aria-pressed", "false")
    expect(page.locator('[data-key="curves:ppo"]')).to_be_focused()
    expect(page.locator('#curves g[data-agent="ppo"]')).to_have_count(0)
    page.keyboard.press("Space")
    expect(page.locator('#curves g[data-agent="ppo"]')).to_have_count(4)


def test_a_chart_is_read_by_arrow_keys(opened: Visit, board: JSON) -> None:
    page, env = opened.page, board["suite"]["environments"][0]["id"]
    chart = page.locator("#frontier .chart").first
    chart.focus()
    page.keyboard.press("ArrowRight")
    assert {"score", "KL", "score − β KL"} <= set(tip(page))
    assert "score" in page.locator("#live").inner_text()
    first = min(
        (seed["kl"], seed["cell"])
        for agent in board["heat"]
        if board["heat"][agent][env]["seeds"] and agent in drawn(page)
        for seed in board["heat"][agent][env]["seeds"]
    )
    assert tip(page)["KL"] == text_of(first[0], 2)
    page.keyboard.press("Enter")
    expect(page.locator("#details tr.current")).to_contain_text(first[1])


def drawn(page: Page) -> list[str]:
    return page.locator("#frontier .legend [aria-pressed=true]").all_inner_texts()


def test_a_curve_is_the_mean_over_seeds(opened: Visit, board: JSON) -> None:
    page, env = opened.page, board["suite"]["environments"][0]["id"]
    chart = page.locator("#curves .chart").first
    chart.focus()
    for _ in range(30):
        page.keyboard.press("ArrowRight")
    seeds = [c for c in board["curves"] if (c["agent"], c["env"]) == ("ppo", env)]
    # The last of 30 bins of 60,000 tokens holds the batches that end after 58,000.
    last = [
        [s for t, s in zip(c["tokens"], c["normalised_score"], strict=True) if t > 58_000]
        for c in seeds
    ]
    wanted = sum(sum(one) / len(one) for one in last) / len(last)
    assert tip(page)["ppo"] == text_of(wanted)


# --- other boards ---


def test_a_board_that_is_not_valid_says_why(browser: Browser, board: JSON, tmp_path: Path) -> None:
    other = copy.deepcopy(board)
    problem = "null_repeat is above the reference on textrl/Format-v0"
    other.update(is_valid=False, problems=[problem])
    write_page(other, tmp_path / "index.html")
    found = visit(browser, tmp_path / "index.html")
    page = found.open()
    expect(page.get_by_role("alert")).to_contain_text(problem)
    expect(page.locator(".valid")).to_have_count(0)
    found.check()
    page.close()


def test_a_board_of_which_nothing_is_done_yet_can_be_read(
    browser: Browser, board: JSON, tmp_path: Path
) -> None:
    other = copy.deepcopy(board)
    unknown = {"value": None, "low": None, "high": None}
    for row in other["rows"]:
        row |= dict.fromkeys(
            ("iqm", "mean", "median", "optimality_gap", "score", "kl"), unknown
        ) | {"cells_done": 0, "rank_low": None, "rank_high": None, "seeds": []}
    other |= {"heat": {r["agent"]: {} for r in other["rows"]}, "curves": [], "failures": []}
    other |= {"profiles": {"taus": [], "agents": {}}, "improvement": {}, "tags": {}}
    other |= {"cells": {}, "samples": {}}
    write_page(other, tmp_path / "index.html")
    found = visit(browser, tmp_path / "index.html")
    page = found.open()
    assert names(page) == [row["agent"] for row in other["rows"]]
    assert page.locator(".nothing").count() >= 5
    page.goto(f"{found.url}#agent=ppo")
    expect(page.locator("#details")).to_be_visible()
    found.check()
    page.close()


def test_a_full_board_shows_its_ranking_before_all_is_drawn(
    browser: Browser, tmp_path: Path
) -> None:
    write_page(example_board(), tmp_path / "index.html")
    found = visit(browser, tmp_path / "index.html")
    found.page.goto(found.url, wait_until="domcontentloaded")
    assert len(names(found.page)) == 19
    found.page.wait_for_selector("html[data-drawn=all]")
    found.check()
    found.page.close()
