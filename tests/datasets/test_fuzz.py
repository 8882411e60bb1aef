"""Whatever a user's file holds, the answer is a result or a UserError, never a traceback.

Seconds here; `LOSSBENCH_FUZZ=5000 python -m pytest tests/test_fuzz.py` looks longer.
"""

import io
import json
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from lossbench.common.files import write_json
from lossbench.config import ConfigError, UserError, canonical, load, validate
from lossbench.stages.prepare import prepare
from tests.helpers.configs import default, merged
from tests.helpers.fake_results import compare_files

EXAMPLES = int(os.environ.get("LOSSBENCH_FUZZ", "40"))
bounded = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES <= 40,  # the same ones in every CI
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)


def paths(content: dict, above: tuple = ()) -> list[tuple]:
    """Every key of a config, with those above it."""
    found = []
    for key, value in content.items():
        found.append((*above, key))
        if isinstance(value, dict):
            found += paths(value, (*above, key))
    return found


PATHS = paths({k: v for k, v in default().items() if k in ("matrix", "training", "comparison")})
PATHS += [("experiment",), ("claims",), ("data_root",), ("losses", "dice"), ("datasets", "mni152")]
PATHS += [("losses", "dice", "training"), ("models",), ("losses",), ("execution", "ledger")]


@bounded
@given(st.sampled_from(PATHS), values)
@example(("training", "patch_size"), [2**70])
@example(("losses", "dice"), {"_target_": "a.B", "weight": float("nan")})
@example(("datasets", "mni152"), {"spacing": float("inf")})
@pytest.mark.slow
def test_any_value_at_any_key(path, value):
    change = value
    for key in reversed(path):
        change = {key: change}
    try:
        experiment = validate(merged(default(), change))
    except ConfigError:
        return
    canonical(json.loads(experiment.experiment_json()))


@bounded
@given(st.text(max_size=60))
@example("!!python/object/apply:os.system ['true']")
def test_any_text_as_a_study(text):
    try:
        raw = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return  # Snakemake's to say
    if isinstance(raw, dict):
        with suppress(ConfigError):
            validate(merged(default(), raw))


def image_bytes() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(file, "png")
    return file.getvalue()


def altered(original: bytes) -> st.SearchStrategy[bytes]:
    """The bytes with some of them changed, cut or repeated."""
    places = st.integers(0, len(original) - 1)

    def change(args: tuple[list[tuple[int, int]], int]) -> bytes:
        content = bytearray(original)
        for place, byte in args[0]:
            content[place] = byte
        return bytes(content[: args[1]])

    edits = st.lists(st.tuples(places, st.integers(0, 255)), max_size=4)
    return st.tuples(edits, st.integers(0, len(original))).map(change)


@bounded
@given(altered(image_bytes()), st.sampled_from(["images", "masks"]))
def test_any_bytes_as_an_image(tmp_path_factory, content, kind):
    root = tmp_path_factory.mktemp("fuzz")
    for folder in ("images", "masks"):
        (root / folder).mkdir()
        for name in "ab":
            (root / folder / f"{name}.png").write_bytes(image_bytes())
    (root / kind / "a.png").write_bytes(content)
    spec = {"_target_": "lossbench.datasets.ImageFolder", "classes": [str(n) for n in range(64)]}
    spec |= {"images": str(root / "images"), "masks": str(root / "masks")}
    dataset = {"name": "x", "spec": spec, "folds": 2, "fold_seed": 0, "surface_tolerance": 1.0}
    write_json(root / "dataset.json", dataset)
    with suppress(UserError):
        prepare(root / "dataset.json", root / "out")


TABLE = b"loss,case,class,dice\na,1,x,0.5\na,2,x,0.6\nb,1,x,0.7\nb,2,x,0.1\n"
SUMMARY = json.dumps(
    {"metric_per_case": [
        {"metrics": {"1": {"Dice": 0.5, "IoU": 0.3, "TP": 2, "FP": 1, "FN": 3, "TN": 9}},
         "reference_file": f"/a/{n}.nii.gz", "prediction_file": f"/b/{n}.nii.gz"} for n in "xy"
    ]}
).encode()  # fmt: skip


@bounded
@given(altered(TABLE))
def test_any_bytes_as_a_table(tmp_path_factory, content):
    root = tmp_path_factory.mktemp("fuzz")
    (root / "t.csv").write_bytes(content)
    refused_or_done([str(root / "t.csv")], "a", root / "out")


@bounded
@given(altered(SUMMARY))
@example(b"[" * 100_000)
@example(SUMMARY.replace(b"/b/x", b"caf\\udce9"))  # a file name that is not UTF-8
@example(
    b'{"results": {"all": [{"test": "x", "1": {"Dice": 1, "Total Positives Reference": Infinity,'
    b' "Total Positives Test": 1}}]}}'
)
def test_any_bytes_as_a_summary(tmp_path_factory, content):
    root = tmp_path_factory.mktemp("fuzz")
    (root / "summary.json").write_bytes(content)
    (root / "other.json").write_bytes(SUMMARY)
    refused_or_done([f"a={root / 'summary.json'}", f"b={root / 'other.json'}"], "b", root / "out")


def refused_or_done(cases: list[str], reference: str, output: Path) -> None:
    try:
        compare_files(cases, reference, output)
    except UserError:
        return
    assert (output / "comparisons.csv").exists()


@bounded
@given(altered(validate(default()).experiment_json().encode()))
def test_any_bytes_as_an_experiment_json(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("fuzz") / "experiment.json"
    path.write_bytes(content)
    with suppress(UserError):
        load(path)
