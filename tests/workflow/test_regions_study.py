"""The example study of overlapping regions, by Snakemake."""

import pandas as pd
import pytest

from tests.helpers.workflow_runs import REPOSITORY, snakemake

pytestmark = pytest.mark.slow


def test_a_study_of_regions_runs_to_its_report(tmp_path):
    (tmp_path / "short.yaml").write_text(
        "training: {steps: 6, batch_size: 2, patch_size: [32, 32]}\nexecution: {validate_every: 6, ledger: {every: 6}}\n"
    )
    config = str(REPOSITORY / "config/regions.yaml")
    result = snakemake(tmp_path, "--configfile", config, "short.yaml", "--until", "report")
    assert result.returncode == 0, result.stderr + result.stdout
    report = tmp_path / "results/regions/report"
    comparisons = pd.read_csv(report / "comparisons.csv")
    assert {*comparisons["class"]} == {"lesion", "core"}
    assert {*comparisons["loss"]} == {"dice_ce", "cross_entropy"}
    page = (report / "report.html").read_text()
    assert "lesion" in page
    assert len(list((report / "figures").glob("examples_*"))) == 3
