"""The HTML report: well-formed, alone, its plots drawn from the figures, opened in Chromium."""

import copy
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree

import pytest

from tcast import report

BROWSER = next(filter(None, map(shutil.which, (
    "chromium", "chromium-browser", "google-chrome", "chrome"))), None)
SVG = "{http://www.w3.org/2000/svg}"


def at(ms):
    return {"ms": ms, "low_ms": 0.9 * ms, "high_ms": 1.2 * ms}


def run(title, wrong=False):
    own = {"backend": "cpu", "equal": True, "mismatches": [], "timing": "public API",
           "phases": {phase: at(ms) for phase, ms in (
               ("forward", 2.0), ("cast", 1.0), ("update", 3.0), ("backward", 4.0),
               ("step", 6.0))},
           "speed_over": {"torch": {"forward": 2.5, "backward": 8.0, "step": 0.5}},
           "share_of_limit": {"forward": 0.9, "update": 0.5}}
    peer = {"backend": "torch", "equal": True, "mismatches": [], "error_to_bound": 0.25,
            "timing": "backward() & <step>", "phases": {
                phase: at(ms) for phase, ms in (("forward", 5.0), ("backward", 32.0),
                                                ("step", 37.0))},
            "speed_over": {}, "share_of_limit": {"forward": 0.4}}
    bad = {"backend": "scipy", "equal": not wrong, "mismatches": ["scipy: <wrong>"] * wrong,
           "error_to_bound": 7.0, "timing": "csr"}
    sim = {"backend": "sim", "equal": True, "mismatches": [], "timing": "cycles of the engine",
           "cycles": {"forward": 10, "update": 20}, "simulated_lookups": 50,
           "scaled_cycles": {"forward": 1000, "update": 2000},
           "ms_at_clock": {"forward": 0.004, "update": 0.008}}
    return {"title": title, "batch": 64, "lookups": 5000, "distinct_rows": 900,
            "table_bytes": 4_000_000, "bytes": {"forward": 1e6, "update": 2e6},
            "equal": not wrong, "limit": {"forward": at(1.8), "update": at(1.5)},
            "backends": [own, peer, bad, sim, {"backend": "cupy", "skipped": "no GPU & no luck"}]}


def layer_report(*runs):
    return {"system": "layer", "optimizer": "sgd", "seed": 0, "threads": 1, "repeats": 3,
            "warm": False, "evicted_bytes": 96 << 20, "preset": "tiny64", "latency": 64,
            "clock_mhz": 250.0, "limits_by": "compiled core", "runs": list(runs),
            "equal": all(run["equal"] for run in runs)}


def system_report(gpu=True):
    ways = {"baseline": {"CPU: forward": at(2.0), "CPU: expand": at(3.0)},
            "casted": {"CPU: forward": at(2.0), "GPU: cast (hidden)": at(1.0),
                       "CPU: casted gather-reduce": at(1.0)},
            "fused": {"CPU: forward": at(2.0), "CPU: fused update": at(0.5)}}
    for way in ways.values():
        if gpu:
            way |= {phase: at(0.5) for phase in (
                "PCIe: pooled rows", "GPU: MLP", "PCIe: gradient", "wait for the casting")}
        way["step" if gpu else "CPU"] = at(5.0)
    cell = {"title": "rm1, uniform", "batch": 64, "lookups": 5000, "table_bytes": 4e6,
            "gpu": "a GPU" if gpu else None, "core": "avx2", "equal": True, "mismatches": [],
            "ways": ways, "speed": {"baseline": 1.0, "casted": 1.6, "fused": 2.5}}
    return {"system": "cpu-gpu", "optimizer": "sgd", "seed": 0, "threads": 1, "repeats": 3,
            "warm": True, "evicted_bytes": 0, "gpu": cell["gpu"],
            "not_run": "" if gpu else "the GPU's phases were not run: none", "runs": [cell],
            "equal": True}


REPORTS = {"one": layer_report(run("rm1, uniform")),
           "two": layer_report(run("rm1, uniform"), run("rm2, powerlaw 1.2")),
           "wrong": layer_report(run("rm1, uniform", wrong=True)),
           "system": system_report(), "no GPU": system_report(gpu=False)}
#: Plots: one of all cells and one of each; marks in them.
PLOTS = {"one": 2, "two": 3, "wrong": 2, "system": 1, "no GPU": 1}
#: cpu and torch 3 each, sim and limit 2 each; 3 bars for cpu over torch; phases of the ways.
MARKS = {"one": 13, "two": 26, "wrong": 13, "system": 18, "no GPU": 6}


def parsed(page):
    """Return the root element; the page is XML but for its first line."""
    return ElementTree.fromstring(page.removeprefix("<!DOCTYPE html>\n"))


@pytest.mark.parametrize("name", REPORTS)
def test_page_is_well_formed_and_stands_alone(name):
    page = report.page(REPORTS[name])
    root = parsed(page)
    tags = {element.tag.removeprefix(SVG) for element in root.iter()}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "image", "use"}
    for element in root.iter():
        for attribute in element.attrib:
            assert attribute not in ("src", "href") and not attribute.startswith("on")
    # The one address is a name: that of SVG's namespace.
    assert set(re.findall(r"\w+://[^\s\"'<>]+", page)) == {"http://www.w3.org/2000/svg"}
    assert "url(" not in page and "@import" not in page


@pytest.mark.parametrize("name", REPORTS)
def test_plots_are_there_with_a_mark_for_every_figure(name):
    root = parsed(report.page(REPORTS[name]))
    plots = root.findall(f".//{SVG}svg")
    assert len(plots) == PLOTS[name]
    marks = root.findall(f".//{SVG}g[@class='mark']")
    assert len(marks) == MARKS[name]
    for plot in plots:
        assert plot.find(f"{SVG}title").text
        width, height = float(plot.get("width")), float(plot.get("height"))
        for mark in plot.iter(f"{SVG}circle"):
            assert 0 <= float(mark.get("cx")) <= width and 0 <= float(mark.get("cy")) <= height
        for bar in plot.iter(f"{SVG}rect"):
            x, y = float(bar.get("x", 0)), float(bar.get("y", 0))
            assert x >= 0 and x + float(bar.get("width")) <= width + 0.1
            assert y >= 0 and y + float(bar.get("height")) <= height + 0.1
        # Texts of one line do not lie on each other (7 is wider than a letter).
        places = [(float(text.get("y")), float(text.get("x")), text.text)
                  for text in plot.iter(f"{SVG}text") if text.get("text-anchor") == "start"]
        for (y, x, words), (y_next, x_next, _) in zip(sorted(places), sorted(places)[1:],
                                                      strict=False):
            assert y != y_next or x + 7 * len(words) <= x_next


def test_marks_lie_where_their_figures_are():
    root = parsed(report.page(REPORTS["one"]))
    speeds, times = root.findall(f".//{SVG}svg")
    place = {mark.find(f"{SVG}title").text.split(":")[0]: float(
        mark.find(f"{SVG}circle").get("cx")) for mark in times.findall(f"{SVG}g")}
    assert place["cpu, forward"] < place["cpu, cast + update"] < place["cpu, whole step"]
    assert place["torch, forward"] < place["torch, whole step"]
    assert place["limit, forward"] < place["cpu, forward"]
    # Logarithmic: 32 / 4 is as far as (2 / 0.004) ^ (ln 8 / ln 500).
    assert (place["torch, cast + update"] - place["cpu, cast + update"]) / (
        place["cpu, forward"] - place["sim, at its clock, forward"]) == pytest.approx(0.3346, 0.01)
    slower = next(bar for bar in speeds.findall(f"{SVG}g") if "whole step" in bar[0].text)
    faster = next(bar for bar in speeds.findall(f"{SVG}g") if "forward" in bar[0].text)
    # A bar to the left of 1 ends where one to the right of it begins.
    left = slower.find(f"{SVG}rect")
    assert float(left.get("x")) + float(left.get("width")) == pytest.approx(
        float(faster.find(f"{SVG}rect").get("x")), abs=0.2)


def test_page_says_what_was_skipped_wrong_and_not_run():
    page = report.page(REPORTS["wrong"])
    assert "NOT every result agrees" in page and "scipy: &lt;wrong&gt;" in page
    assert '<tr class="bad"><td>scipy</td><td>BEYOND bound (7)</td>' in page
    assert "not timed, because it is wrong" in page
    assert "skipped: no GPU &amp; no luck" in page
    assert "scaled from 50 lookups that were simulated" in page
    assert "Every result agrees" in report.page(REPORTS["one"])
    assert "<strong>Not run:</strong> the GPU's phases were not run: none" in \
        report.page(REPORTS["no GPU"]).replace("&#x27;", "'")
    assert "Not run" not in report.page(REPORTS["system"])


def test_ratios_of_several_cells_end_with_the_geometric_mean():
    two = copy.deepcopy(REPORTS["two"])
    two["runs"][1]["backends"][0]["speed_over"]["torch"]["step"] = 8.0
    assert report.ratio_rows(two)[-1] == ("cpu", "torch", "geometric mean of 2", "2.50", "8.00",
                                          "2.00")
    assert len(report.ratio_rows(two)) == 3 and len(report.ratio_rows(REPORTS["one"])) == 1


needs_browser = pytest.mark.skipif(
    BROWSER is None, reason="no chromium or chrome on PATH: apt-get install chromium")


def opened(page, directory):
    """Open a page in headless Chromium; return what it made of it, and its log."""
    file = directory / "report.html"
    file.write_text(page, encoding="utf-8")
    # No sandbox: containers have none to offer, and the page is ours.
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
               "--enable-logging=stderr", f"--user-data-dir={directory / 'profile'}", "--dump-dom",
               file.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@needs_browser
@pytest.mark.parametrize("name", REPORTS)
def test_headless_chromium_opens_it_without_an_error(tmp_path, name):
    found, log = opened(report.page(REPORTS[name]), tmp_path)
    # What a page's scripts and its content policy complain of is logged as CONSOLE.
    assert "CONSOLE" not in log
    assert found.count("<svg") == PLOTS[name]
    assert found.count('<g class="mark">') == MARKS[name]
    assert "<title>tcast compare</title>" in found


@needs_browser
def test_chromium_would_have_told_of_an_error(tmp_path):
    page = report.page(REPORTS["one"]).replace("</body>", "<script>nothing()</script></body>")
    assert "CONSOLE" in opened(page, tmp_path)[1]
