"""Checks of the parameters that several environments take."""

from textrl_envs.errors import InvalidInputError

__all__ = ["check_count"]


def check_count(name: str, value: object, *, least: int = 1, most: int | None = None) -> None:
    """Raises InvalidInputError unless the value is an integer of at least `least`, at most `most`.

    >>> check_count("pairs", 3)
    """
    is_right = isinstance(value, int) and not isinstance(value, bool) and value >= least
    if is_right and most is not None:
        assert isinstance(value, int)
        is_right = value <= most
    if not is_right:
        wanted = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise InvalidInputError(f"{name} must be an integer {wanted}; got {value!r}.")
