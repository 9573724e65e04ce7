"""From starting JupyterLab to the first picture of a finished study: 00_start_here in `tiny`, nothing run before.

A JupyterLab server is started on a copy of the notebooks, Chromium opens the first one and runs all its cells, and the
clock is read when the kernel is idle, when the first picture is drawn, and when the last cell is done. The install is
warm: the 4-bit copy of the model is made beforehand, as `make demo` or an earlier study leaves it.

    pip install -c constraints.txt -e ".[bnb,notebooks,dev]"     # and a Chromium
    PYTHONPATH=tests python -m benchmarks.first_picture --rounds 3
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import common

LIMIT_S = 60.0
MODEL = "smollm2-135m-instruct"


def once(folder: Path) -> dict[str, float]:
    """Seconds from the server's start to each moment, in a new folder."""
    import lab_pages

    (work := folder / "work").mkdir()
    for notebook in (lab_pages.ROOT / "notebooks").glob("*.ipynb"):
        shutil.copy(notebook, work)
    began, at = time.monotonic(), {}
    with (
        lab_pages.serving(folder, work) as (address, token),
        lab_pages.sync_api.sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=lab_pages.CHROMIUM, args=lab_pages.QUIET.split()) as browser,
    ):
        view: Any = browser.new_page(viewport={"width": 1280, "height": 5000})  # so tall that pictures are drawn
        view.goto(f"{address}/lab/tree/00_start_here.ipynb?token={token}")
        lab_pages.kernel_is_idle(view)
        at["kernel idle"] = time.monotonic() - began
        for name in ("Run", "Run All Cells"):
            view.get_by_role("menuitem", name=name, exact=True).click()
        view.locator(".js-plotly-plot").first.wait_for(timeout=lab_pages.STUDY_MS)
        at["first picture"] = time.monotonic() - began
        view.wait_for_timeout(1000)
        lab_pages.kernel_is_idle(view)
        at["all cells"] = time.monotonic() - began
        view.screenshot(path=folder / "page.png")
    return at


def main() -> int:
    """Measure, and judge the median."""
    parser = common.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--picture", type=Path, help="where the last round's screenshot is put")
    arguments = parser.parse_args()
    facts = common.describe()
    import slmkit

    slmkit.load(MODEL, bits=4).release()
    rounds = []
    for number in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as name:
            rounds.append(once(Path(name)))
            if arguments.picture:
                shutil.copy(Path(name) / "page.png", arguments.picture)
        print(f"round {number}: " + ", ".join(f"{what} {seconds:.1f} s" for what, seconds in rounds[-1].items()))
    median = statistics.median(one["first picture"] for one in rounds)
    target = common.Target("seconds to the first picture, median", median, LIMIT_S, at_least=False)
    return common.finish("first_picture", {**facts, "rounds": rounds}, [target])


if __name__ == "__main__":
    common.run(main)
