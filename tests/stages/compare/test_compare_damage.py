"""compare: files cut out of a finished experiment give a message that names them, and no table."""

import json
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from lossbench.common.files import read_json, write_json
from lossbench.common.provenance import run_digest
from lossbench.config import UserError
from lossbench.stages.compare import compare
from tests.helpers.fake_results import write_experiment


@pytest.fixture
def experiment(tmp_path):
    return write_experiment(tmp_path, n_cases=8)


def truncated(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def rewritten(edit):
    def damage(file):
        edit(pd.read_parquet(file)).to_parquet(file, index=False)

    return damage


def one_bit(file):
    """Of the first value of Dice: all would look well."""
    column = pq.ParquetFile(file).metadata.row_group(0).column(11)
    assert column.path_in_schema == "dice"
    content = bytearray(file.read_bytes())
    content[column.dictionary_page_offset + column.total_compressed_size // 2] ^= 1
    file.write_bytes(content)


def trained_again(file):
    """Of another training: as where a clock jumped, and Snakemake took the file for new."""
    table = pq.read_table(file).replace_schema_metadata({"digests": '{"dice": "of another"}'})
    pq.write_table(table, file)


def of_other_data(file):
    """As where the data of one block were prepared anew before it was trained."""
    status, run = read_json(file), read_json(file.parent / "run.json")
    digests = {"data_digest": "0123456789", "digest": run_digest(run, "0123456789")}
    write_json(file, status | digests)


def of_other_settings(file):
    status, run = read_json(file), read_json(file.parent / "run.json")
    digest = run_digest(run | {"code": {"mine.py": "old"}}, status["data_digest"])
    write_json(file, status | {"digest": digest})


def measured_otherwise(file):
    """As where a metric of the user's has changed since."""
    old = {"metrics": {}, "metrics_code": {"x": {"mine.py": "old"}}, "surface_tolerance": 1}
    table = pq.read_table(file).replace_schema_metadata({"measured": json.dumps(old)})
    pq.write_table(table, file)


DAMAGE = {
    "other metrics": ("cases.parquet", measured_otherwise, "was measured by other metrics, or another version"),
    "other data": ("dice/status.json", of_other_data, "was trained on other data (01234567) than other runs"),
    "other settings": ("dice/status.json", of_other_settings, "not of the settings and the code in experiment.json"),
    "one bit": ("cases.parquet", one_bit, "damaged"),
    "stale": ("cases.parquet", trained_again, "of another training of dice than is there; delete it"),
    "no cases": ("cases.parquet", Path.unlink, "no such file"),
    "cut cases": ("cases.parquet", truncated, "damaged"),
    "empty cases": ("cases.parquet", lambda f: f.write_bytes(b""), "damaged"),
    "no column": ("cases.parquet", rewritten(lambda t: t.drop(columns="fp")), "lacks the column 'fp'"),
    "text": ("cases.parquet", rewritten(lambda t: t.assign(dice="high")), "damaged"),
    "no loss": ("cases.parquet", rewritten(lambda t: t[t["loss"] != "dice"]), "no row of dice, case"),
    "no case": ("cases.parquet", rewritten(lambda t: t[t["case"] != "case_001"]), "case case_001"),
    "one row": ("cases.parquet", rewritten(lambda t: t.drop(index=5)), "1 missing"),
    "twice": ("cases.parquet", rewritten(lambda t: pd.concat([t, t.iloc[:1]])), "in two rows"),
    "no rows": ("cases.parquet", rewritten(lambda t: t.iloc[:0]), "has no rows"),
    "another seed": ("cases.parquet", rewritten(lambda t: t.assign(seed=7)), "seed is 7, not 0"),
    "no name": ("cases.parquet", rewritten(lambda t: t.assign(case=None)), "damaged"),
    "one name": ("cases.parquet", rewritten(lambda t: t.assign(case=t["case"].where(t.index > 3))), "case is None"),
    "another model": ("cases.parquet", rewritten(lambda t: t.assign(model="other")), "model is 'other', not 'unet'"),
    "no status": ("dice/status.json", Path.unlink, "no such file"),
    "cut status": ("dice/status.json", truncated, "damaged"),
    "other status": ("dice/status.json", lambda f: f.write_text("[1, 2]"), "expected keys and values"),
    "bare status": ("dice/status.json", lambda f: f.write_text("{}"), "lacks 'digest'"),
    "unfinished": ("dice/status.json", lambda f: f.write_text(f.read_text().replace('": "finished"', '": "training"')), "status is 'training'"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_is_named_and_no_table_is_written(experiment, name):
    file, damage, said = DAMAGE[name]
    report = experiment.parent / "report"
    for table in report.iterdir():
        if table.is_file():
            table.unlink()
    damage(next(experiment.parent.glob(f"*/*/fold1/seed0/{file}")))
    with pytest.raises(UserError, match="fold1/seed0") as error:
        compare(experiment, report)
    assert file.rpartition("/")[2] in str(error.value)
    assert said in str(error.value)
    assert not [table for table in report.iterdir() if table.is_file()]


def test_what_was_measured_as_the_experiment_says_is_read(experiment):
    for file in experiment.parent.glob("*/*/*/*/cases.parquet"):
        said = {"metrics": {}, "metrics_code": {}, "surface_tolerance": 1.0}
        table = pq.read_table(file).replace_schema_metadata({"measured": json.dumps(said)})
        pq.write_table(table, file)
    compare(experiment, experiment.parent / "report")
