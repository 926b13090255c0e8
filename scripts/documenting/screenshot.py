"""A picture of the report: the real one, of the stand-in's run, in a real browser."""

import io
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SIZE = {"width": 1120, "height": 1620}
"""Down to the first charts over depth."""


def take(folder: Path) -> None:
    """Makes `report-light.png` and `report-dark.png` in a folder."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit(f"A picture of the report needs a browser: none of {', '.join(BROWSERS)} is on the PATH.")
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        page = _report(Path(scratch))
        running = playwright.chromium.launch(executable_path=browser)
        for scheme in ("light", "dark"):
            tab = running.new_context(viewport=SIZE, color_scheme=scheme, device_scale_factor=1.15).new_page()
            tab.goto(page.as_uri())
            tab.wait_for_selector("#browser .lane")
            image = Image.open(io.BytesIO(tab.screenshot())).convert("RGB")
            # A palette makes the file a third; this method keeps the charts' few strong colours as they are.
            image.quantize(256, Image.Quantize.MAXCOVERAGE).save(folder / f"report-{scheme}.png", optimize=True)
        running.close()


def _report(folder: Path) -> Path:
    """Runs what the demo runs."""
    command = [sys.executable, "-m", "layerscope"]
    run = ["run", "--standin", "--num-samples", "all", "--output-file", "demo.jsonl", "--address", "local"]
    for words in (run, ["report", "demo.jsonl"]):
        subprocess.run([*command, *words], cwd=folder, check=True, env={**os.environ, "HF_HOME": str(folder)})
    return folder / "demo.html"
