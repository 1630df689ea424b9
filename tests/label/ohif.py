"""MONAI Label's own viewer, OHIF, in Debian's Chromium without a screen: what it shows of a series and its mask."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

CHROMIUM = Path("/usr/bin/chromium")
_SOFTWARE = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]
_VOLUME = """() => {
  const volume = window.services.segmentationService.getLabelmapVolume('1');
  const mask = volume.voxelManager.getCompleteScalarDataArray();
  const size = volume.dimensions[0] * volume.dimensions[1];
  const counts = Array(volume.dimensions[2]).fill(0);
  mask.forEach((value, place) => { if (value) counts[Math.floor(place / size)] += 1; });
  return {dimensions: volume.dimensions, origin: volume.origin, counts: counts};
}"""


@contextmanager
def open_viewer(server: str, study: str, series: str = "") -> Iterator[Page]:
    """The viewer with its panel MONAI Label, connected to the server. With ``series``, it sees that one alone."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_SOFTWARE)
        try:
            page = browser.new_page(viewport={"width": 1100, "height": 640})
            page.set_default_timeout(90_000)
            chosen = f"&SeriesInstanceUIDs={series}" if series else ""
            page.goto(f"{server}/ohif/monai-label?StudyInstanceUIDs={study}{chosen}")
            page.get_by_text("Confirm and Hide").click()
            page.locator(".monaiLabelPanel input").first.fill(server)
            yield page
        finally:
            browser.close()


def connect(page: Page) -> None:
    """Press the arrow beside the server's address, once the images are there."""
    page.wait_for_function("window.cornerstone && window.cornerstone.cache.getCacheSize() > 0")
    page.wait_for_timeout(3000)
    page.locator(".monaiLabelPanel button").first.click()


def run_model(page: Page, model: str) -> dict[str, Any]:
    """Press Run, and read what the viewer then shows as a mask: its dimensions, its origin, its voxels by slice."""
    page.get_by_text("Auto-Segmentation").wait_for()
    page.wait_for_timeout(2000)  # colours are set a second later
    models = page.locator("select").filter(has=page.locator(f"option[value='{model}']"))
    models.first.select_option(model)
    page.get_by_role("button", name="Run").first.click()
    page.get_by_text("Running Segmentation - Successful").wait_for()
    return dict(page.evaluate(_VOLUME))
