"""MLflow's screens in a real browser: the links of a sync lead to what they promise."""

import pandas as pd
import pytest

from lossbench.stages.track import mlflow_store
from tests.helpers.browser import CHROMIUM, browser_page, visit
from tests.helpers.fake_results import write_experiment
from tests.helpers.stores import Server, empty_store, runs, sync

pytest.importorskip("playwright", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no {CHROMIUM}")


def test_the_links_lead_to_tables_charts_and_artifacts(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    experiment = write_experiment(tmp_path, folds=(0,))
    uri = mlflow_store.embedded(experiment.parents[1])
    empty_store(experiment.parents[1])
    said = sync(experiment)
    picture = tmp_path / "screen.png"  # of the last screen: pytest keeps it where this fails
    with Server(uri, tmp_path) as server, browser_page() as page:
        links = {name: server.address + link for name, link in said["links"].items()}

        # Which loss is better on which class: a row per loss, its verdicts in columns.
        visit(page, links["losses"], "3 matching runs", picture)
        table = page.locator(".ag-root").inner_text()
        assert "dice/anterior" in table
        verdicts = pd.read_csv(experiment.parent / "report/comparisons.csv")["verdict"]
        assert {"reference", *verdicts} <= set(table.split())
        assert "against dice: dice_no_background" in page.inner_text("body")

        visit(page, links["runs"], "6 matching runs", picture)
        assert "Group: dice" in page.locator(".ag-root").inner_text()

        search = page.locator("input[placeholder*='metrics.rmse']")
        search.fill("params.loss = 'dice' and metrics.\"test/dice/anterior\" > 0.1")
        search.press("Enter")
        page.get_by_text("3 matching runs").wait_for(timeout=30_000)
        page.screenshot(path=picture)

        visit(page, links["charts"], "test/dice/anterior", picture)
        assert "dice_no_background" in page.inner_text("body")

        visit(page, links["compare"], "Comparing 3 Runs", picture)
        assert "dice_inverse_frequency · hippocampus · unet" in page.inner_text("body")

        run = runs(experiment, "comparison")["run_id"].item()
        pages = f"{server.address}/#/experiments/{said['experiment_id']}/runs/{run}"
        visit(page, f"{pages}/artifacts", "report.html", picture)
        assert "comparisons.csv" in page.inner_text("body")
        visit(page, pages, "comparison of fake", picture)
        assert "against dice" in page.inner_text("body")
