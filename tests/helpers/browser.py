"""A real browser that looks at MLflow and at the report.

`python -m tests.helpers.browser --results results --output pictures` writes the pictures of README.
"""

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lossbench.common.files import read_json
from lossbench.stages.track import mlflow_store
from tests.helpers.stores import Server

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
)
# Else an assistant for language models lies over a third of the window.
CALM = """
localStorage.setItem('mlflow.workflowType_v1', '"machine_learning"');
localStorage.setItem('mlflow.assistant.panelOpen_v1', 'false');
localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true');
"""


@contextmanager
def browser_page(width: int = 1700, height: int = 900) -> Iterator[Any]:
    """Open a page of a headless Chromium; playwright.sync_api.Page."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as profile, sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            profile,
            executable_path=CHROMIUM,
            headless=True,
            args=FLAGS,
            viewport={"width": width, "height": height},
        )
        context.add_init_script(CALM)
        yield context.pages[0]
        context.close()


def visit(page: Any, address: str, text: str, picture: Path | None = None, rest: float = 3) -> None:
    """Open an address, wait for a text, and take a picture."""
    page.goto("about:blank")  # the UI's routes differ in the hash alone
    page.goto(address)
    try:
        page.get_by_text(text).first.wait_for(timeout=30_000)
        page.wait_for_timeout(1000 * rest)  # it never ceases to poll: no event says it is drawn
    finally:
        if picture:
            page.screenshot(path=picture)


def pictures(results: Path, experiment: str, output: Path) -> None:
    """Write pictures of the screens that README shows."""
    said = read_json(results / experiment / "report" / "mlflow.json")
    output.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        Server(mlflow_store.embedded(results), Path(folder)) as server,
        browser_page() as page,
    ):
        for name, link in said["links"].items():
            visit(page, server.address + link, "matching runs", output / f"mlflow_{name}.png")
        page.set_viewport_size({"width": 1280, "height": 640})
        report = (results / experiment / "report" / "report.html").resolve()
        visit(page, report.as_uri(), "Which loss", output / "report.png", rest=0.5)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--experiment", default="default")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    pictures(options.results, options.experiment, options.output)
