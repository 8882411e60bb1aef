"""MLflow's screens in a real browser: the links of a sync lead to what they promise."""

import re

import pandas as pd
import pytest

from lossbench.stages.track import mlflow_store
from tests.helpers.browser import CHROMIUM, browser_page, visit
from tests.helpers.fake_results import write_experiment, write_street_study
from tests.helpers.stores import Server, empty_store, runs, sync

pytest.importorskip("playwright", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no {CHROMIUM}")


@pytest.mark.slow
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
        assert "anterior/dice" in table
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

        visit(page, links["compare"], "test/dice/anterior", picture)
        assert "dice_inverse_frequency" in page.inner_text("body")

        run = runs(experiment, "comparison")["run_id"].item()
        pages = f"{server.address}/#/experiments/{said['experiment_id']}/runs/{run}"
        visit(page, f"{pages}/artifacts", "report.html", picture)
        assert "comparisons.csv" in page.inner_text("body")
        visit(page, pages, "comparison of fake", picture)
        assert "against dice" in page.inner_text("body")


@pytest.mark.slow
def test_eleven_classes_fit_the_first_screens(tmp_path, monkeypatch):
    """At 1600 pixels: every verdict and, behind them, the mean; charts open on Dice."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    experiment = write_street_study(tmp_path)
    uri = mlflow_store.embedded(experiment.parents[1])
    empty_store(experiment.parents[1])
    said = sync(experiment)
    picture = tmp_path / "screen.png"
    with Server(uri, tmp_path) as server, browser_page(1600, 900) as page:
        links = {name: server.address + link for name, link in said["links"].items()}
        visit(page, links["losses"], "3 matching runs", picture)
        headers = page.locator(".ag-header-cell[col-id]")
        boxes = {header.get_attribute("col-id"): header.bounding_box() for header in headers.all()}
        verdicts = [box for name, box in boxes.items() if name.startswith("tags.")]
        mean = boxes["metrics.`test/dice`"]
        assert len(verdicts) == 11
        assert max(box["x"] + box["width"] for box in verdicts) <= mean["x"]
        assert mean["x"] + mean["width"] <= 1600
        assert page.locator(".ag-root").inner_text().count("undecided") >= 11  # not cut

        for name, section in (("charts", "val/dice"), ("compare", "test/dice")):
            visit(page, links[name], "matching runs", rest=0)  # no picture: charts take minutes
            shown = f"document.body.innerText.includes('{section}/building')"
            page.wait_for_function(shown, timeout=120_000)
            sections = re.findall(r"^(\S+)\n\(\d+\)$", page.inner_text("body"), re.MULTILINE)
            assert sections[0] == section
            assert not [name for name in sections if "ledger" in name]
