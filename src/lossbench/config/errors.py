"""What is wrong with a config, in words: the file, the key, its value, what to do."""

import difflib
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any

from lossbench.config.yaml_files import read_yaml

# What pydantic expected, in plainer words than its own, by its type of error.
EXPECTED = {
    "model_type": "keys with their values below it",
    "dict_type": "keys with their values below it",
    "list_type": "a list, in [ ]",
    "too_short": "a list of at least {min_length}",
    "too_long": "a list of at most {max_length}",
    "invalid_key": "text as key, in quotes",
    "finite_number": "a finite number",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
}


class UserError(Exception):
    """Something the user can fix: shown without a traceback."""


class FreshProcessError(UserError):
    """Another process, with `environment`, can go on, and this one cannot: the GPU failed, say."""

    def __init__(self, text: str, environment: Mapping[str, str]) -> None:
        self.environment = dict(environment)
        super().__init__(text)


class ConfigError(UserError):
    """Everything that is wrong with a config, a line each."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(["the config cannot be used:", *self.problems]))


def duration(seconds: float) -> str:
    """A time in words: 2.5 h, 12 min, 40 s."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            number = seconds / size
            return f"{number:.3g} {unit}" if number < 999.5 else f"{number:.0f} {unit}"
    if seconds < 0.01:
        return "under 0.01 s"
    return f"{seconds:.0f} s" if seconds >= 9.95 else f"{seconds:.2g} s"


def did_you_mean(name: str, names: Sequence[str]) -> str:
    """A suggestion, or the list of what is available."""
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.7)
    return f"did you mean {close[0]!r}?" if close else f"available: {', '.join(sorted(names))}"


def counted(number: float, thing: str) -> str:
    """A number with its noun: "1 seed", "2 seeds"."""
    return f"{number:.0f} {thing}{'' if number == 1 else 's'}"


def abridged(names: Sequence[str], most: int = 3, separator: str = ", ") -> str:
    """The first of some names, and how many more there are: "a, b, c and 2 more"."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return separator.join(names[:most]) + rest


class Where:
    """The file that a key comes from: the last one that has it.

    Parameters
    ----------
    files
        Name and path of YAML files. `problems` holds what is wrong with them as such.
    command_line
        What Snakemake's --config sets over them.
    """

    def __init__(
        self, files: Mapping[str, str | Path], command_line: Mapping[str, Any] | None = None
    ) -> None:
        self.files, self.problems = [], []
        for name, path in files.items():
            content, problems = read_yaml(path, name)
            self.files.append((name, content))
            self.problems += problems
        self.files.append(("--config", command_line))

    def __call__(self, path: Sequence[str | int]) -> str:
        """The key as it is written, behind the name of its file."""
        key = ".".join(str(part) for part in path)
        # A key that is missing belongs to the file that has the section around it.
        for length in range(len(path), 0, -1):
            for name, content in reversed(self.files):
                if _has(content, path[:length]):
                    return f"{name}: {key}"
        return key


def _has(content: Any, path: Sequence[str | int]) -> bool:
    for part in path:
        try:
            content = content[part]
        except (KeyError, IndexError, TypeError):
            return False
    return True


def problem_text(problem: Mapping[str, Any], keys: Sequence[str]) -> str:
    """A problem that pydantic found, in a section that has these keys."""
    kind, value = problem["type"], problem["input"]
    if kind == "extra_forbidden" and keys:
        return f"unknown key; {did_you_mean(str(problem['loc'][-1]), keys)}"
    if kind == "missing":
        return "is missing"
    if kind == "no_name":
        return f"{value!r} is not a valid name: {problem['msg']}"
    if kind == "value_error":  # ours, which name the value
        return problem["msg"].removeprefix("Value error, ")
    if kind in EXPECTED:
        expected = EXPECTED[kind].format(**problem.get("ctx", {}))
        return f"expected {expected} (found {value!r}){_remedy(kind, value)}"
    message = problem["msg"]
    return f"{message[0].lower()}{message[1:]} (found {value!r})"


def _remedy(kind: str, value: Any) -> str:
    """How to write a value of the wrong type, where that can be told."""
    if kind == "string_type" and isinstance(value, int | float | date):
        return "; put it in quotes"
    if kind not in ("int_type", "float_type") or isinstance(value, bool):
        return ""
    with suppress(TypeError, ValueError, OverflowError):
        number = float(value)
        if not math.isfinite(number):
            return ""
        if kind == "float_type" or number.is_integer():
            return f"; write {int(number) if number.is_integer() else number}"
    return ""
