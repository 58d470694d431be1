"""Take the pictures of the dashboard in docs/images: `python docs/generate/pictures.py`. Some minutes; needs Chromium.

A job on the quickstart's texts, smaller than the quickstart's own, on a stack of its own.
"""

from __future__ import annotations

import sys
import tempfile
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page

from understudy.client import OrchestratorClient
from understudy.jobs import submit, watch
from understudy.quickstart import QUICKSTART_JOB, SENTENCES, write_data
from understudy.stack import Stack, StackConfig

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from stand.browser import chromium, watched  # noqa: E402

IMAGES = ROOT / "docs" / "images"
MOST_BYTES = 150_000
SPEC = QUICKSTART_JOB["method"]["distillation"] | {"recipe": ["rationale_gate", "logit_kd"], "seeds": [0, 1]}
JOB = {**QUICKSTART_JOB, "method": {"type": "distillation", "distillation": SPEC}}


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="understudy-") as folder:
        home = Path(folder)
        write_data(home / "docstrings.jsonl")
        with Stack(StackConfig(home / "stack", port=0, teacher_port=0, student_port=0)) as stack:
            with OrchestratorClient(stack.orchestrator_url) as client:
                job = submit(client, {"training_file": home / "docstrings.jsonl"}, JOB)
                watch(client, job, lambda _: None, stack.check)
            with chromium() as browser:
                with watched(browser, stack.orchestrator_url, viewport={"width": 1280, "height": 980}) as page:
                    page.goto(f"/#/jobs/{job}")
                    page.get_by_text("Read the report").wait_for()
                    page.get_by_role("img", name="Training loss").wait_for()
                    save(page, "dashboard-job.png")
                size = {"width": 1280, "height": 900}
                with watched(browser, stack.orchestrator_url, viewport=size, color_scheme="dark") as page:
                    page.goto("/#/models/production")
                    page.get_by_label("Text", exact=True).fill(SENTENCES[1])
                    page.get_by_role("button", name="Ask both").click()
                    page.get_by_role("article", name="Teacher").wait_for()
                    save(page, "dashboard-models.png")


def save(page: Page, name: str) -> None:
    page.mouse.move(0, 0)
    page.wait_for_timeout(500)  # canvases are drawn in the frame behind the one that shows them
    image = Image.open(BytesIO(page.screenshot())).convert("RGB")
    path = IMAGES / name
    image.quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
    size = path.stat().st_size
    assert size <= MOST_BYTES, f"{name} has {size} bytes"
    print(f"{path.relative_to(ROOT)}: {size:,} bytes")


if __name__ == "__main__":
    main()
