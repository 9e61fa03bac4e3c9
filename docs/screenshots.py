"""Renews the pictures of Dagster's pages in this folder: `make screenshots`, with Chromium on PATH.

Starts the example on a free port with an empty folder of its own, publishes and imports a few times, and takes a picture of
each page.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from dagster_server import until
from test_dagster_example import Example

PUBLISHES = 5
GROUPS = "?expanded=" + "%2C".join(
    f"global%40global%3A{name}" for name in ("publisher", "client1", "client2")
)


def main(folder: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("there is no Chromium on PATH: apt-get install chromium")
    with tempfile.TemporaryDirectory() as place, sync_playwright() as playwright:
        example = Example(Path(place) / "example")
        example.start()
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        try:
            run = play(example)
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            address = f"http://127.0.0.1:{example.port}"
            page.goto(address)
            page.get_by_text("Hide navigation").click()
            for shot in shots(run):
                take(page, address, shot, folder / f"{shot.name}.png")
        finally:
            browser.close()
            example.stop()


def play(example: Example) -> str:
    """Publish and import a few times; return the last run of Client2's."""
    example.stop_schedule()
    runs: list[str] = []
    for _ in range(PUBLISHES):
        example.publish()
        before = len(runs)
        until(lambda n=before: len(example.runs_of("client2_sensor")) > n, "a run by Client2's sensor")
        runs = example.runs_of("client2_sensor")
        example.wait_for(runs[0])
    until(lambda: len(example.contracts()) >= PUBLISHES * 2, "Client1's contracts")
    return runs[0]


@dataclass(frozen=True)
class Shot:
    """A picture: of what page, a text that it has when it is there, its size, and what is done to it before."""

    name: str
    path: str
    shown: str
    height: int = 900
    width: int = 1440
    before: Callable[[Page], None] | None = None


def shots(run: str) -> list[Shot]:
    return [
        Shot("asset-graph", f"/asset-groups{GROUPS}", "imports", 640, width=1900),
        Shot("run", f"/runs/{run}", "RUN_SUCCESS", 1000, before=to_materialization),
        Shot("materialization", "/assets/client2/update?view=events", "mmmeta/added_by_day", 1500),
        Shot("sensor", "/locations/mmmeta/sensors/client2_sensor", "Latest tick"),
        Shot("checks", "/assets/client1/sync?view=checks", "This is a non-blocking asset check"),
    ]


def to_materialization(page: Page) -> None:
    page.get_by_text("ASSET_MATERIAL").last.scroll_into_view_if_needed()


def take(page: Page, address: str, shot: Shot, picture: Path) -> None:
    page.set_viewport_size({"width": shot.width, "height": shot.height})
    page.goto(address + shot.path)
    page.get_by_text(shot.shown).first.wait_for(timeout=60_000)
    page.wait_for_timeout(2_000)  # pictures and lists come after the text
    if shot.before is not None:
        shot.before(page)
    page.wait_for_timeout(1_000)
    page.screenshot(path=picture)
    print(picture.name)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
