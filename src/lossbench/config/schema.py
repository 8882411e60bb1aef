"""The keys of an experiment: as a JSON schema for editors, as a table for people."""

import json
import typing
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from lossbench.config import Experiment


def schema(markdown: bool = False) -> None:
    """Print the keys of an experiment: a JSON schema, for editors.

    Parameters
    ----------
    markdown
        Print a table of keys, defaults and meanings instead of the JSON schema.
    """
    if markdown:
        rows = [f"| {' | '.join(row)} |" for row in _rows(Experiment, "")]
        print("\n".join(["| key | default | meaning |", "| --- | --- | --- |", *rows]))
    else:
        print(json.dumps(Experiment.model_json_schema(by_alias=True), indent=2, sort_keys=True))


def _rows(section: type[BaseModel], path: str) -> Iterator[tuple[str, str, str]]:
    """Key, default and meaning of each field of a section, and of the sections below it."""
    for name, field in section.model_fields.items():
        key = path + (field.alias or name)
        below, step = _below(field.annotation)
        default = _default(field.get_default(call_default_factory=True), field.is_required())
        yield f"`{key}`", default, (field.description or "").replace("|", "\\|")
        if below:
            yield from _rows(below, f"{key}{step}.")


def _below(annotation: Any) -> tuple[type[BaseModel] | None, str]:
    """The section that a type holds, and how its keys are reached: by a name, as an entry."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, ""
    step = {dict: ".NAME", list: "[]"}.get(typing.get_origin(annotation), "")
    for inner in typing.get_args(annotation):
        below, further = _below(inner)
        if below:
            return below, step + further
    return None, ""


def _default(value: Any, required: bool) -> str:
    if required:
        return "required"
    if isinstance(value, BaseModel):
        return "as below"
    return f"`{json.dumps(value)}`"
