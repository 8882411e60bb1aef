"""A split that the data come with: training, validation and test cases, by folders or by lists."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lossbench.common.files import read_text
from lossbench.config import UserError, did_you_mean
from lossbench.datasets.contract import PARTS, problem_list


def checked_split(split: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a split in the order of `PARTS`; UserError where one has another name."""
    if not isinstance(split, Mapping):
        raise UserError(f"split is {split!r}; expected {{train: ..., test: ...}}")
    for part, source in split.items():
        if part not in PARTS:
            raise UserError(f"split: no part {part!r}; {did_you_mean(str(part), PARTS)}")
        if not isinstance(source, str | Mapping):
            raise UserError(
                f"split.{part} is {source!r}; expected a folder, or a file with a name in each line"
            )
    return {part: split[part] for part in PARTS if part in split}


def read_lines(path: Path) -> list[str]:
    """The lines of a list file that are not empty.

    Raises
    ------
    UserError
        Where there is no such file, or nothing in it, or it is not in UTF-8.
    """
    lines = [line.strip() for line in read_text(path, "split").splitlines()]
    return [line for line in lines if line]


def listed_file(text: str, list_file: Path) -> Path:
    """The file that a list names.

    Lists are made on another machine: where there is no such path, its end is looked for next to
    the list, as /SegNet/CamVid/train/a.png in the folder of CamVid's train.txt.
    """
    path = Path(text if Path(text).is_file() else text.replace("\\", "/"))  # of Windows
    ends = [list_file.parent.joinpath(*path.parts[n:]) for n in range(len(path.parts))]
    return next((candidate for candidate in (path, *ends) if candidate.is_file()), path)


def part_of_names(lists: Mapping[str, Sequence[str]], names: Iterable[str]) -> dict[str, str]:
    """The part of each name that is in a list; of all others train, where train has no list.

    Raises
    ------
    UserError
        For a name that is unknown, or in two lists.
    """
    names, problems = list(names), []
    parts: dict[str, str] = {} if "train" in lists else dict.fromkeys(names, "")
    for part, members in lists.items():
        for name in members:
            if name not in names:
                problems.append(f"{part} names {name!r}, and there is no such case")
            elif parts.get(name):
                problems.append(f"case {name} is in {parts[name]} and in {part}")
            else:
                parts[name] = part
    if problems:
        raise problem_list("split: the lists cannot be used", problems)
    return {name: part or "train" for name, part in parts.items()}


def check_parts(cases: pd.DataFrame, own_folds: object, where: str) -> None:
    """Check the parts of all cases.

    Parameters
    ----------
    cases
        Columns case, subject and part, which is empty where a case has none.
    own_folds
        Those of the dataset, if it has any.
    where
        The entry, for messages.

    Raises
    ------
    UserError
        Cases without a part, no training or no test case, a subject in two parts, folds as well.
    """
    problems = [] if own_folds is None else ["it has folds as well; one of the two is expected"]
    problems += [f"case {name} has no part" for name in cases["case"][cases["part"] == ""]]
    problems += [
        f"no case is of part {p}" for p in ("train", "test") if p not in set(cases["part"])
    ]
    for subject, parts in cases["part"].groupby(cases["subject"]):
        if len(several := [part for part in PARTS if part in set(parts)]) > 1:
            problems.append(f"subject {subject} has cases in {', '.join(several)}; one is expected")
    if problems:
        raise problem_list(f"{where}: the split cannot be used", problems)
