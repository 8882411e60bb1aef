"""YAML files: what they say, and what in them YAML reads in silence as something else."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

# YAML 1.1 reads 0100 as 64 and 1:30 as 90.
_OCTAL = re.compile(r"[+-]?0[0-7_]+")
_SIXTIES = re.compile(r"[+-]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")


def read_yaml(path: str | Path, name: str) -> tuple[Any, list[str]]:
    """Read a YAML file, or a JSON file, as Snakemake does.

    Parameters
    ----------
    path
        The file.
    name
        What messages call it.

    Returns
    -------
    tuple
        Its content, and a line for each key that is there twice and each number that YAML reads in
        another base. The content is None where the file cannot be read.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        problems = [f"{name}, line {line}: {what}" for line, what in _problems(root, set())]
        return yaml.load(text, Loader=yaml.FullLoader), problems
    except (yaml.YAMLError, RecursionError) as error:
        try:
            return json.loads(text), []
        except (ValueError, RecursionError):
            what = " ".join(str(error).split())
            return None, [f"{name}: is not valid YAML: {what}"]
    except (OSError, UnicodeDecodeError) as error:
        return None, [f"{name}: cannot be read: {error}; save it as UTF-8"]


def typed(value: Any) -> Any:
    """What YAML reads in the texts of a value: Snakemake reads ``--config "a={b: 1}"`` as texts.

    A number that YAML would read in another base stays a text.
    """
    if isinstance(value, Mapping):
        return {key: typed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [typed(item) for item in value]
    if not isinstance(value, str) or _OCTAL.fullmatch(value) or _SIXTIES.fullmatch(value):
        return value
    try:
        read = yaml.safe_load(value)
    except yaml.YAMLError:
        return value
    return read if read is None or isinstance(read, bool | int | float) else value


def _problems(node: yaml.Node | None, seen: set[int]) -> Iterator[tuple[int, str]]:
    """Line and text of each problem of a node and of those below it."""
    if node is None or id(node) in seen:  # an alias shows a node again
        return
    seen.add(id(node))
    if isinstance(node, yaml.ScalarNode):
        if problem := _number_problem(node):
            yield node.start_mark.line + 1, problem
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _problems(item, seen)
    elif isinstance(node, yaml.MappingNode):
        first: dict[tuple[str, str], int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode):
                if before := first.get((key.tag, key.value)):
                    yield line, f"the key {key.value} stands in line {before} already; keep one"
                first.setdefault((key.tag, key.value), line)
            yield from _problems(key, seen)
            yield from _problems(value, seen)


def _number_problem(node: yaml.ScalarNode) -> str | None:
    text, kind = node.value, node.tag.rpartition(":")[2]
    if kind == "int" and _OCTAL.fullmatch(text):
        plain = re.sub(r"^([+-]?)[0_]+(?=.)", r"\1", text)
        return (
            f"{text} is an octal number in YAML, {yaml.safe_load(text)}; write {plain}, or "
            f"{text!r} for text"
        )
    if kind in ("int", "float") and _SIXTIES.fullmatch(text):
        return f"{text} is {yaml.safe_load(text)} in YAML, in base 60; write {text!r} for text"
    return None
