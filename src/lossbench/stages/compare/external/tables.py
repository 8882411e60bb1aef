"""Tables of other programs as they come: separators, decimal signs, names of columns, wide ones."""

import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from lossbench.common.tables import COUNTS
from lossbench.config import METRICS, UserError, did_you_mean

FIGURES = (*COUNTS, *METRICS)
# How compressed files begin.
PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
# What people call a column, best first, without case, blanks and signs; also in the plural.
CALLED = {
    "case": "case caseid casename id image imageid imagename img imgid filename file scan scanid "
    "sample sampleid volume name",
    "subject": "subject subjectid patient patientid pt ptid",
    "class": "class classname label labelname structure region organ roi tissue anatomy",
    "fold": "fold foldid cvfold",
    "seed": "seed randomseed repeat repetition replicate trial",
    "dataset": "dataset task cohort",
    "model": "model modelname network architecture backbone",
    "loss": "loss lossfunction lossname method methodname algorithm approach config configuration "
    "experiment team",
}
KEYS = {
    key: [name + end for name in names.split() for end in ("", "s")]
    for key, names in CALLED.items()
}
FIGURE_NAMES = {
    "tp": "tp truepositive truepositives",
    "fp": "fp falsepositive falsepositives",
    "fn": "fn falsenegative falsenegatives",
    "dice": "dice dsc dc dicescore dicecoefficient dicecoef dicesimilaritycoefficient "
    "dicesimilarity sorensendice dicesorensen f1 f1score",
    "iou": "iou jaccard jaccardindex jaccardscore jaccardcoefficient jc intersectionoverunion",
    "precision": "precision ppv positivepredictivevalue",
    "recall": "recall sensitivity sens tpr truepositiverate",
    "hd95": "hd95 hd95mm 95hd hausdorff95 hausdorff95mm hausdorffdistance95 hd95percentile "
    "hausdorffdistance95mm 95hausdorff 95hausdorffdistance percentile95hausdorff robusthausdorff "
    "hdrfdst95",
    "surface_dice": "surfacedice nsd surfacedsc normalizedsurfacedistance "
    "normalisedsurfacedistance normalizedsurfacedice normalisedsurfacedice surfacedicecoefficient",
}
OF_FIGURE = {name: ours for ours, names in FIGURE_NAMES.items() for name in names.split()}
# Rows, classes and columns of a summary; in a name such as mean_dice one of its words.
SUMMARY = re.compile(
    r"macro|micro|overall|global|all|mean|std|sd|stddev|dev|avg|average|median|min|max|minimum|maximum|count|sum|total|iqr|rank"
    r"|variance|var|quantile|percentile|standard|deviation|ci|notnans"
    r"|\d+(th)?(percentile|quantile|%)"
)
# Words of a column's name that make it none of a class: of a summary, or of a difference.
NO_CLASS = re.compile(
    rf"{SUMMARY.pattern}|loss|threshold|pvalue|delta|diff|difference|change|gain|improvement"
)


def _words(name: str) -> list[str]:
    return re.findall(r"[\w%]+", name.lower().replace("_", " "))


def is_summary(name: str) -> bool:
    """Whether a row is of a summary: Mean, `std dev`, `mean ± sd`, 25%, foreground_mean."""
    words = [word for word in _words(name) if word not in ("and", "foreground")]
    return bool(words) and all(map(SUMMARY.fullmatch, words))


def read_table(path: Path, content: bytes, named: bool) -> tuple[pd.DataFrame, list[str]]:
    """Read a table with columns of our names.

    Parameters
    ----------
    path, content
        A CSV, TSV or Parquet file, and its bytes.
    named
        Whether the loss is known without the table: then `model` is not taken for it.

    Returns
    -------
    tuple
        A row per case x class with keys, subject and the figures, numbers of a CSV
        still as text; and notes on what was taken for what, and what was left out.

    Raises
    ------
    UserError
        Where it is no table, and where two columns are the same figure.
    """
    if path.suffix.lower() in (".xlsx", ".xls", ".ods") or content[:4] == b"PK\3\4":
        raise UserError(f"{path}: is a spreadsheet; save it as CSV (UTF-8)")
    if kind := next((kind for start, kind in PACKED.items() if content.startswith(start)), None):
        raise UserError(f"{path}: is compressed ({kind}); unpack it")
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            table = pd.read_parquet(io.BytesIO(content)).rename(columns=str)
        else:
            table = _csv(path, _decoded(content))
    except (ValueError, OSError, csv.Error) as error:  # of pandas and pyarrow, too
        raise UserError(f"{path}: is not a valid CSV or Parquet file ({error})") from None
    if duplicates := [name for name, n in Counter(table.columns).items() if n > 1 and name]:
        raise UserError(f"{path}: two columns are called {duplicates[0]!r}")
    return _with_our_names(path, table, named)


def _decoded(content: bytes) -> str:
    """Text of UTF-8, of UTF-16 where it says so, or of the Windows code page."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = content.decode("utf-16")
    else:
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = content.decode("cp1252")
    if "\0" in text:  # as in UTF-16 that does not say so
        raise ValueError("it holds NUL bytes; save it as UTF-8")
    return text


def _csv(path: Path, text: str) -> pd.DataFrame:
    """All cells as text; a case may be called 007, a class NA."""
    said = re.match(r"sep=(.)\r?\n", text)  # Excel's
    text = text[said.end() :] if said else text
    first = next((line for line in text.splitlines() if line.strip()), "")
    counts = {sep: len(next(csv.reader([first], delimiter=sep), [])) for sep in ",;\t|"}
    separator = said[1] if said else max(counts, key=counts.__getitem__)
    rows = [
        [cell.strip() for cell in row]
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        if any(cell.strip() for cell in row)
    ]
    if not rows:
        raise ValueError("it is empty")
    header, rows = _header(rows)
    for number, row in enumerate(rows, start=1):
        if len(row) > len(header) and not any(row[len(header) :]):
            del row[len(header) :]
        if len(row) != len(header):
            raise ValueError(f"row {number} has {len(row)} cells, the header {len(header)}")
    return pd.DataFrame(rows, columns=header, dtype=str)


def _header(rows: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """Names of the columns, and the rows below; merged cells above stand for those beside them."""
    known = {name for names in KEYS.values() for name in names}
    depth = next((i for i in range(min(3, len(rows))) if known & set(map(_plain, rows[i]))), 0)
    width = max(len(row) for row in rows[: depth + 1])
    names = [""] * width
    for row in rows[:depth]:
        above = ""
        for i, cell in enumerate(row + [""] * (width - len(row))):
            is_key = i < len(rows[depth]) and _plain(rows[depth][i]) in known
            above = "" if is_key else cell or above
            names[i] = f"{names[i]} {above}".strip()
    last = rows[depth] + [""] * (width - len(rows[depth]))
    return [f"{a} {b}".strip() for a, b in zip(names, last, strict=True)], rows[depth + 1 :]


def _plain(name: str) -> str:
    """`HD 95` is hd95, `NSD@2mm` is nsd."""
    plain = re.sub(r"[\W_]+", "", name.lower())
    return re.sub(r"^(nsd|surfacedice|surfacedsc)(at)?\d+(mm|px)?$", r"\1", plain)


def _with_our_names(path: Path, table: pd.DataFrame, named: bool) -> tuple[pd.DataFrame, list[str]]:
    """Keys and figures by our names; a column per class becomes a row per class."""
    ours: dict[str, str] = {}  # key -> column
    found = {_plain(column): column for column in reversed(table.columns)}
    for key, names in KEYS.items():
        column = next((found[name] for name in names if name in found), None)
        if column is not None:
            ours[key] = column
    if not named and "loss" not in ours and "model" in ours:  # the networks are compared
        ours["loss"] = ours.pop("model")
    figures = {c: OF_FIGURE[_plain(c)] for c in table.columns if _plain(c) in OF_FIGURE}
    wide = {
        column: of
        for column in table.columns
        if column not in (*ours.values(), *figures) and (of := _class_and_figure(column))
    }
    rest = [c for c in table.columns if c not in (*ours.values(), *figures, *wide)]
    if not (figures or wide) and (metric := re.fullmatch(r"(.+)_raw", path.stem)):
        wide, rest = _of_monai(metric[1], rest), []
    left_out = {c: of for c, of in wide.items() if any(map(NO_CLASS.fullmatch, _words(of[0])))}
    wide = {c: of for c, of in wide.items() if c not in left_out}
    if wide and "class" in ours and "case" not in ours:  # BraTS calls a case a label
        ours["case"] = ours.pop("class")
    if "case" not in ours and "subject" in ours:
        ours["case"] = ours["subject"]
    if "case" not in ours and rest and rest[0] == "":  # the index of a data frame
        ours["case"] = rest.pop(0)
    if "case" not in ours or not (named or "loss" in ours):
        key = "case" if named or "loss" in ours else "loss"
        also = "; or name the file: NAME=PATH" if key == "loss" else ""
        hint = did_you_mean(key, list(table.columns))
        raise UserError(f"{path}: no column {key!r}{also}; {hint}")
    if wide and "class" not in ours:  # figures of no class are means over those that have one
        left_out |= dict.fromkeys(figures, ("", ""))
        figures = {}
    elif wide:
        rest, wide = [*rest, *wide], {}
    for metric, n in Counter(figures.values()).items():
        if n > 1:
            both = " and ".join(repr(c) for c, of in figures.items() if of == metric)
            raise UserError(f"{path}: the columns {both} are both {metric}; leave one of them out")
    keyed = pd.DataFrame({key: table[column] for key, column in ours.items()})
    parts = [keyed.assign(**{of: table[c] for c, of in figures.items()})] if figures else []
    spelled: dict[str, str] = {}
    for column, (class_, metric) in wide.items():
        class_ = spelled.setdefault(class_.lower(), class_)
        wide[column] = (class_, metric)
    for class_ in dict.fromkeys(class_ for class_, _ in wide.values()):
        of_class = {of: table[c] for c, (name, of) in wide.items() if name == class_}
        parts.append(keyed.assign(**{"class": class_}, **of_class))
    result = pd.concat(parts, ignore_index=True) if parts else keyed
    taken = {c: key for key, c in ours.items() if _plain(c) != key} | {
        c: of for c, of in figures.items() if _plain(c) != _plain(of)
    }
    texts = [f"{column or 'the first column'} as {of}" for column, of in taken.items()]
    texts += [f"{column} as {of} of {class_}" for column, (class_, of) in wide.items()]
    notes = [f"{path}: read {', '.join(texts)}."] if texts else []
    if left_out:
        notes.append(
            f"{path}: columns of a summary or a difference are left out: {', '.join(left_out)}."
        )
    if unread := [name for name in rest if name]:
        notes.append(f"{path}: columns that are not read: {', '.join(unread)}.")
    return result, notes


def _class_and_figure(column: str) -> tuple[str, str] | None:
    """Class and figure of `WT_dice`, `dice_class0`, `HD 95 (liver)`; the longest name counts."""
    words = list(re.finditer(r"[^\W_]+", column))
    best = None
    for n in range(1, len(words)):
        before, after = column[: words[n - 1].end()], column[words[n].start() :]
        for name, class_ in ((before, column[words[n].start() : words[-1].end()]),
                             (after, column[words[0].start() : words[n - 1].end()])):  # fmt: skip
            metric = OF_FIGURE.get(_plain(name))
            if metric and (best is None or len(name) > len(best[0])):
                best = (name, class_, metric)
    if best:
        return best[1:]
    joined = re.fullmatch(r"([a-z]+)(\d+)", column.lower())  # dice1
    if joined and joined[1] in OF_FIGURE:
        return joined[2], OF_FIGURE[joined[1]]
    return None


def _of_monai(stem: str, columns: Sequence[str]) -> dict[str, tuple[str, str]]:
    """MONAI's write_metrics_reports: the metric is in the file's name, a column for each class."""
    metric = OF_FIGURE.get(_plain(stem)) or (_class_and_figure(stem) or ("", ""))[1]
    return {column: (column, metric) for column in columns} if metric else {}
