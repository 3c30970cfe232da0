"""Suite: which agents play which environments, with which seeds and budgets; read from TOML.

The null agents, the reference and the optimum are rows of every suite: nobody lists them, and
nobody can leave them out.
"""

import json
import re
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self, TypeVar, get_args, get_origin, get_type_hints

import gymnasium as gym

from textrl_benchmarks.leaderboard.cell import canonical_json
from textrl_benchmarks.leaderboard.running.contestants import BASELINES
from textrl_envs.errors import InvalidInputError, nearest
from textrl_envs.files import read_json
from textrl_envs.registration import IDS, register_all

__all__ = [
    "Suite",
    "SuiteAgent",
    "SuiteEnvironment",
    "merge",
    "read_stored_suite",
    "read_suite",
    "select",
    "store_suite",
    "suite_names",
]

BUILT_IN = Path(__file__).with_name("suites")

Kind = TypeVar("Kind")
Part = TypeVar("Part", "SuiteEnvironment", "SuiteAgent")


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteEnvironment:
    """A column of the board.

    Args:
        id: such as "textrl/Keyword-v0".
        budget_tokens: generated tokens that every agent may learn from.
        tags: what the environment isolates; the axes of the radar.
        parameters: what `gym.make_vec` is given beside the id.
    """

    id: str
    budget_tokens: int
    tags: tuple[str, ...] = ()
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteAgent:
    """A row of the board.

    Args:
        name: the row's own.
        entry: an installed agent's name, `module:Class` or `path/to/file.py:Class`.
        policy: "auto", "table", "lstm" or a Transformers folder.
        settings: the agent's config.
    """

    name: str
    entry: str
    policy: str = "auto"
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """Everything that decides which cells there are.

    Args:
        name: also the folder's below `--out`.
        version: to be raised with every change of a suite that has results.
        description: a sentence.
        seeds: of training and evaluation, one cell each.
        num_envs: rows that generate at once.
        eval_episodes: evaluation samples of a cell.
        environments: the columns.
        agents: the rows, beside `BASELINES`.

    Raises:
        InvalidInputError: a name used twice, an unknown environment, a number outside its range.
    """

    name: str
    version: int
    description: str = ""
    seeds: tuple[int, ...]
    num_envs: int
    eval_episodes: int
    environments: tuple[SuiteEnvironment, ...]
    agents: tuple[SuiteAgent, ...]

    def __post_init__(self) -> None:
        _check(
            bool(re.fullmatch(r"[\w.-]*\w", self.name)), "name", "letters, digits, - and _", self
        )
        _check(self.version >= 1, "version", "at least 1", self)
        _check(bool(self.seeds), "seeds", "at least one number", self)
        _check(all(0 <= seed < 2**63 for seed in self.seeds), "seeds", "in 0..2^63-1", self)
        _check(self.num_envs >= 1, "num_envs", "at least 1", self)
        enough = max(2, self.num_envs)
        _check(self.eval_episodes >= enough, "eval_episodes", f"at least {enough}", self)
        _check(bool(self.environments), "environments", "at least one", self)
        _check_once("seed", self.seeds)
        _check_once("environment", [environment.id for environment in self.environments])
        _check_once("agent", [*BASELINES, *(agent.name for agent in self.agents)])
        for environment in self.environments:
            _check_environment(environment)

    def as_dict(self) -> dict[str, Any]:
        """Returns what `from_dict` reads, as plain JSON."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain

    @classmethod
    def from_dict(cls, table: Any, *, source: str = "the suite") -> Self:  # noqa: ANN401
        """Reads a suite from what TOML or JSON gave.

        Raises:
            InvalidInputError: a field that is unknown, missing or of the wrong type; it is named
                with its place in `source`.
        """
        table = dict(table) if isinstance(table, dict) else {}
        for key, kind in (("environments", SuiteEnvironment), ("agents", SuiteAgent)):
            rows = table.get(key, [])
            if not isinstance(rows, list):
                raise InvalidInputError(f"{source}: {key} must be tables, each begun by [[{key}]].")
            table[key] = tuple(
                _read(kind, row, f"{source}, {key} {number}") for number, row in enumerate(rows, 1)
            )
        try:
            return _read(cls, table, source)
        except InvalidInputError as error:
            place = "" if str(error).startswith(source) else f"{source}: "
            raise InvalidInputError(f"{place}{error}") from None


def suite_names() -> list[str]:
    """Returns the names of the built-in suites."""
    return sorted(path.stem for path in BUILT_IN.glob("*.toml"))


def read_suite(name: str) -> Suite:
    """Reads a built-in suite by its name, or any by the path of its TOML file.

    Raises:
        InvalidInputError: no such suite or file, or one that is wrong.
    """
    path = BUILT_IN / f"{name}.toml"
    if name not in suite_names():
        path = Path(name)
        if not path.is_file():
            hint = nearest(name, suite_names())
            raise InvalidInputError(f"Unknown suite {name!r}. {hint} Or give a TOML file.")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # of the text's encoding, too
        raise InvalidInputError(f"{name} is no TOML: {error}.") from error
    return Suite.from_dict(table, source=name)


def select(
    suite: Suite,
    *,
    seeds: Sequence[int] = (),
    agents: Sequence[str] = (),
    environments: Sequence[str] = (),
    rivals: Sequence[str] = (),
) -> Suite:
    """Returns the suite with some of its rows and columns, with other seeds, and with rivals.

    Args:
        suite: what is chosen from.
        seeds: instead of its own, where any are given.
        agents: names of rows to keep; all where none is given.
        environments: ids to keep, with or without what is before the "/"; all where none is given.
        rivals: agents to add, each what `SuiteAgent.entry` may be.

    Raises:
        InvalidInputError: a name that the suite has not, or a rival that it already has.
    """
    ids = [environment.id for environment in suite.environments]
    short = {name.rpartition("/")[2]: name for name in ids}
    kept_ids = [short.get(name, name) for name in environments] or ids
    rows = [agent.name for agent in suite.agents]
    kept_rows = list(agents) or rows
    for what, kept, known in (
        ("environment", kept_ids, ids),
        ("agent", kept_rows, [*rows, *BASELINES]),
    ):
        for name in kept:
            if name not in known:
                raise InvalidInputError(
                    f"{suite.name} has no {what} {name!r}. {nearest(name, known)}"
                )
    return replace(
        suite,
        seeds=tuple(seeds) or suite.seeds,
        environments=tuple(one for one in suite.environments if one.id in kept_ids),
        agents=(
            *(agent for agent in suite.agents if agent.name in kept_rows),
            *(SuiteAgent(name=_row_name(rival), entry=rival) for rival in rivals),
        ),
    )


def merge(stored: Suite, asked: Suite) -> Suite:
    """Returns the suite of a folder after a further run in it: rows, columns and seeds of both.

    Raises:
        InvalidInputError: they disagree on something that both have.
    """
    for name in ("version", "num_envs", "eval_episodes"):
        _check_equal(asked, name, getattr(stored, name), getattr(asked, name))
    return replace(
        asked,
        seeds=tuple(dict.fromkeys((*stored.seeds, *asked.seeds))),
        environments=_union(asked, stored.environments, asked.environments, "id"),
        agents=_union(asked, stored.agents, asked.agents, "name"),
    )


def store_suite(suite: Suite, folder: Path) -> None:
    """Writes suite.json, which says what the folder's board is of."""
    partial = folder / "suite.json.partial"
    partial.write_text(json.dumps(suite.as_dict(), indent=1, ensure_ascii=False) + "\n", "utf-8")
    partial.replace(folder / "suite.json")


def read_stored_suite(root: Path, name: str) -> Suite:
    """Reads the suite of `<root>/<name>`; `name` may be the path of its TOML file.

    Raises:
        InvalidInputError: nothing was run there.
    """
    folder = root / (read_suite(name).name if name.endswith(".toml") else name)
    path = folder / "suite.json"
    if not path.is_file():
        known = sorted(found.parent.name for found in root.glob("*/suite.json"))
        hint = nearest(folder.name, known) if known else "Begin by: textrl leaderboard run."
        raise InvalidInputError(f"There are no runs of a suite in {folder}. {hint}")
    return Suite.from_dict(read_json(path), source=str(path))


def _row_name(entry: str) -> str:
    return entry.rpartition(":")[2]


def _union(asked: Suite, old: Iterable[Part], new: Iterable[Part], key: str) -> tuple[Part, ...]:
    both = {getattr(part, key): part for part in old}
    for part in new:
        name = getattr(part, key)
        _check_equal(asked, name, both.setdefault(name, part), part)
    return tuple(both.values())


def _check_equal(asked: Suite, name: str, stored: Any, given: Any) -> None:  # noqa: ANN401
    if stored != given:
        raise InvalidInputError(
            f"The folder of {asked.name} was run with another {name}: {stored}, not {given}. "
            "Give another --out."
        )


# --- checks ---


def _read(kind: type[Kind], table: Any, place: str) -> Kind:  # noqa: ANN401
    """Makes a dataclass of a table, after checking names and types of its fields."""
    if not isinstance(table, dict):
        raise InvalidInputError(f"{place} must be a table; got {table!r}.")
    hints = get_type_hints(kind)
    known = {one.name: one for one in fields(kind)}  # type: ignore[arg-type]
    for name in table:
        if name not in known:
            raise InvalidInputError(
                f"{place} has an unknown field {name!r}. {nearest(name, known)}"
            )
    for name, one in known.items():
        if name not in table and one.default is one.default_factory is MISSING:
            raise InvalidInputError(f"{place} lacks the field {name!r}.")
    return kind(**{name: _as(hints[name], value, place, name) for name, value in table.items()})


def _as(hint: Any, value: Any, place: str, name: str) -> Any:  # noqa: ANN401
    """Returns a value of the hinted type: text, a number, a dict, or a tuple from a list."""
    if get_origin(hint) is tuple:
        part = get_args(hint)[0]
        if isinstance(value, list | tuple) and all(_is(one, part) for one in value):
            return tuple(value)
        expected = f"a list of {part.__name__}"
    else:
        kind = get_origin(hint) or hint
        if _is(value, kind) and (kind is not dict or _is_json(value)):
            return value
        expected = "a table without dates and nan" if kind is dict else kind.__name__
    raise InvalidInputError(f"{place}: {name} must be {expected}; got {value!r}.")


def _is(value: Any, kind: type) -> bool:  # noqa: ANN401
    return isinstance(value, kind) and not isinstance(value, bool)


def _is_json(table: Any) -> bool:  # noqa: ANN401
    """Tells whether a cell's id can be made of it: TOML knows more than JSON."""
    try:
        canonical_json(table)
    except (TypeError, ValueError):
        return False
    return True


def _check(is_right: bool, name: str, expected: str, suite: Suite) -> None:
    if not is_right:
        raise InvalidInputError(f"{name} must be {expected}; got {getattr(suite, name)!r}.")


def _check_once(what: str, names: Sequence[Any]) -> None:
    for name in names:
        if names.count(name) > 1:
            reserved = " Every board has a row of that name." if name in BASELINES else ""
            raise InvalidInputError(f"The {what} {name!r} is there twice.{reserved}")


def _check_environment(environment: SuiteEnvironment) -> None:
    register_all()
    name = environment.id
    if ":" not in name and name not in gym.registry:  # module:id registers when it is made
        raise InvalidInputError(f"Unknown environment {name!r}. {nearest(name, IDS)}")
    if environment.budget_tokens < 1:
        raise InvalidInputError(
            f"{name}: budget_tokens must be at least 1; got {environment.budget_tokens}."
        )
