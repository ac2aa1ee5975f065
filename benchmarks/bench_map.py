"""How smooth a map of many clips is in a browser: our page against Bokeh's scatter on canvas and with WebGL.

    python benchmarks/bench_map.py
    python benchmarks/bench_map.py --points 50000 --folder /tmp/map_bench

Headless Chromium without a GPU opens each page from disk (as the tests do; Debian's packages chromium and
chromium-driver). Printed are the page's size, the time from opening to the first picture, and medians of the time from
a change of the view, or a move of the pointer onto another clip, until the frame after it is there (of Bokeh the view
only); a page that has nothing to draw takes two frames, 33 ms. The pages take turns. Last comes one line of JSON.
"""

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from bokeh.models import HoverTool
from bokeh.plotting import figure, output_file, save

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from browser import Browser

from hiera_video.report.map_page import make_coloring, render_map_page
from hiera_video.report.page import write_page

NUM_CLASSES = 20
STEP = """
const done = arguments[arguments.length - 1], change = (step) => { CHANGE };
const frame = () => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)));
(async () => {
  const times = [];
  for (let step = 0; step < 24; step++) {
    const start = performance.now();
    change(step);
    await frame();
    times.push(performance.now() - start);
  }
  done(times.slice(4));
})();
"""
OUR_ZOOM = """
const canvas = document.getElementById("map-canvas"), box = canvas.getBoundingClientRect();
const place = { clientX: box.x + 300, clientY: box.y + 250, cancelable: true };
canvas.dispatchEvent(new WheelEvent("wheel", { deltaY: step % 2 ? 60 : -60, ...place }));
"""
OUR_HOVER = """
const canvas = document.getElementById("map-canvas"), box = canvas.getBoundingClientRect();
const place = { clientX: box.x + 320 + 9 * step, clientY: box.y + 300 + 5 * (step % 7) };
canvas.dispatchEvent(new PointerEvent("pointermove", place));
"""
BOKEH_ZOOM = """
const plot = Bokeh.documents[0].roots()[0], zoom = step % 2 ? 1 : 1.1;
plot.x_range.setv({ start: -12 / zoom, end: 12 / zoom });
plot.y_range.setv({ start: -12 / zoom, end: 12 / zoom });
"""


def make_points(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Clouds around random centers, (n, 2), and the cloud of each point."""
    rng = np.random.default_rng(0)
    classes = rng.integers(0, NUM_CLASSES, count)
    return rng.normal(0, 4, (NUM_CLASSES, 2))[classes] + rng.normal(0, 1, (count, 2)), classes


def write_ours(path: Path, points: np.ndarray, classes: np.ndarray) -> None:
    paths = [f"/videos/class_{label}/clip_{number:06d}.mp4" for number, label in enumerate(classes)]
    table = pd.DataFrame({"path": paths, "start_sec": 0.0, "end_sec": 2.0})
    colorings = [make_coloring("label", pd.Series(classes), names=[f"class {i}" for i in range(NUM_CLASSES)])]
    write_page(path, render_map_page(table, points, colorings, title="Map", page_dir=path.parent, num_stills=0))


def write_bokeh(path: Path, points: np.ndarray, classes: np.ndarray, backend: str) -> None:
    colorings = make_coloring("label", pd.Series(classes)).colors
    output_file(str(path), mode="inline", title="Map")
    shown = figure(width=880, height=660, output_backend=backend, x_range=(-12, 12), y_range=(-12, 12))
    names = [f"clip_{number:06d}" for number in range(len(points))]
    source = {"x": points[:, 0], "y": points[:, 1], "color": [colorings[i] for i in classes], "name": names}
    shown.scatter("x", "y", color="color", size=3.2, line_color=None, source=source)
    shown.add_tools(HoverTool(tooltips=[("clip", "@name")]))
    save(shown)


def measure(browser: Browser, path: Path) -> dict[str, float]:
    """Milliseconds of opening, of a zoom and of a hover."""
    is_ours = path.stem == "ours"
    browser.open(path)
    ready = (
        "document.getElementById('map-canvas').dataset.draws" if is_ours else "window.Bokeh && Bokeh.index.roots.length"
    )
    browser.wait(f"return {ready}", seconds=120)
    browser.driver.set_script_timeout(120)
    load = browser.driver.execute_async_script(
        "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now())));"
    )
    found = {"open": load}
    for name, change in {"zoom": OUR_ZOOM, "hover": OUR_HOVER}.items() if is_ours else {"zoom": BOKEH_ZOOM}.items():
        found[name] = statistics.median(browser.driver.execute_async_script(STEP.replace("CHANGE", change)))
        if is_ours and name == "zoom":
            found["draw"] = float(browser.run("return document.getElementById('map-canvas').dataset.drawMs"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="keeps the pages")
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = args.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        points, classes = make_points(args.points)
        pages = {name: folder / f"{name}.html" for name in ("ours", "bokeh-canvas", "bokeh-webgl")}
        write_ours(pages["ours"], points, classes)
        for backend in ("canvas", "webgl"):
            write_bokeh(pages[f"bokeh-{backend}"], points, classes, backend)
        browser = stack.enter_context(
            contextlib.closing(Browser(Path(stack.enter_context(tempfile.TemporaryDirectory()))))
        )
        runs = {name: [] for name in pages}
        for _ in range(args.rounds):
            for name, path in pages.items():
                runs[name].append(measure(browser, path))
        result = {"points": args.points, "load_average": os.getloadavg()[0]}
        print(f"{args.points:,} points; load average {os.getloadavg()[0]:.1f}; medians of {args.rounds} rounds")
        print(f"{'':14}{'page':>10}{'open':>12}{'zoom':>12}{'hover':>12}")
        for name, found in runs.items():
            row = {key: statistics.median(run[key] for run in found) for key in found[0]}
            result[name] = {"bytes": pages[name].stat().st_size, **{f"{key}_ms": round(row[key], 1) for key in row}}
            times = "".join(f"{row[key]:9.0f} ms" for key in ("open", "zoom", "hover") if key in row)
            print(f"{name:14}{pages[name].stat().st_size / 1e6:7.1f} MB{times}")
        print(f"our own drawing of all points: {result['ours']['draw_ms']:.1f} ms")
        print(json.dumps(result))


if __name__ == "__main__":
    main()
