"""What ``tcast compare`` says: the rows of its tables, and an HTML page with plots.

The page stands alone: no script, no font, no picture from elsewhere, and a content policy that
forbids them. It is well-formed XML as well. Plots are SVG, drawn here.
"""

import json
import math
from html import escape
from statistics import geometric_mean

__all__ = ["LAYER_COLUMNS", "RATIO_COLUMNS", "agreement", "heading", "layer_rows", "milliseconds",
           "notes", "page", "ratio_rows", "system_columns", "system_heading", "system_rows"]

#: Of the table that :func:`layer_rows` fills.
LAYER_COLUMNS = ("backend", "agrees with golden", ">forward ms", ">cast ms", ">update ms",
                 ">cast + update ms", ">step ms", ">limit ÷ forward", ">limit ÷ update")


def layer_rows(run):
    """Return the rows of a cell's table: a row for each backend that ran, and the limit's."""
    rows = []
    for facts in run["backends"]:
        if "skipped" in facts:
            rows.append((facts["backend"], "skipped", *(None,) * 7))
            continue
        if "cycles" in facts:
            at = facts["ms_at_clock"]
            times = [f"{at['forward']:,.3f}", None, f"{at['update']:,.3f}", None, None]
        else:
            times = [milliseconds(facts.get("phases", {}).get(phase)) for phase in
                     ("forward", "cast", "update", "backward", "step")]
        share = facts.get("share_of_limit", {})
        rows.append((facts["backend"], agreement(facts), *times,
                     *(f"{share[phase]:.2f}" if phase in share else None
                       for phase in ("forward", "update"))))
    limit = run["limit"]
    rows.append(("limit", None, milliseconds(limit["forward"]), None,
                 milliseconds(limit["update"]), *(None,) * 4))
    return rows


def notes(report, run):
    """Return (backend, words) pairs: what was timed, or why it was skipped."""
    found = []
    for facts in run["backends"]:
        if "skipped" in facts:
            words = f"skipped: {facts['skipped']}"
        elif "cycles" in facts:
            cycles = facts["scaled_cycles"]
            scaled = "" if facts["simulated_lookups"] == run["lookups"] else \
                f", scaled from {facts['simulated_lookups']:,} lookups that were simulated"
            words = (f"{cycles['forward']:,} + {cycles['update']:,} {facts['timing']}; time at "
                     f"{report['clock_mhz']:g} MHz{scaled}; {report['preset']}, memory latency "
                     f"{report['latency']}")
        else:
            words = facts["timing"] if facts["equal"] else "not timed, because it is wrong"
        found.append((facts["backend"], words))
    found.append(("limit", "the same rows and nothing else: read in the order of the lookups; "
                           f"each read and written once ({report['limits_by']})"))
    return found


def heading(report, run):
    """Return the title of a cell's table."""
    cold = "caches warm" if report["warm"] else \
        f"{report['evicted_bytes'] >> 20} MiB read before each timed group"
    return (f"{run['title']}, batch {run['batch']:,}: {run['lookups']:,} lookups, "
            f"{run['distinct_rows']:,} distinct rows, tables {run['table_bytes'] / 1e6:,.0f} MB, "
            f"{report['optimizer']}; medians (quartiles) of {report['repeats']} alternating runs, "
            f"threads {report['threads']}, {cold}; bytes needed: forward "
            f"{run['bytes']['forward'] / 1e6:,.1f} MB, update {run['bytes']['update'] / 1e6:,.1f} "
            f"MB")


def milliseconds(spread):
    """Return a median with its quartiles as words; None for None."""
    if spread is None:
        return None
    return f"{spread['ms']:,.3f} ({spread['low_ms']:,.3f}-{spread['high_ms']:,.3f})"


#: Ours, of which ratios are shown.
OURS = ("cpu", "cupy")
#: Of the table that :func:`ratio_rows` fills.
RATIO_COLUMNS = ("ours", "over", "cell", ">forward", ">cast + update", ">step")


def ratio_rows(report):
    """Return rows (ours, peer, cell, forward, cast + update, step) of how many times faster.

    Of our timed backends but golden, over everything else but golden; with several cells a row of
    geometric means follows.
    """
    rows, gathered = [], {}
    for run in report["runs"]:
        for facts in run["backends"]:
            if facts["backend"] not in OURS or "speed_over" not in facts:
                continue
            for peer, speeds in facts["speed_over"].items():
                if peer == "golden":
                    continue
                values = [speeds[phase] for phase in ("forward", "backward", "step")]
                rows.append((facts["backend"], peer, run["title"], *(f"{v:.2f}" for v in values)))
                gathered.setdefault((facts["backend"], peer), []).append(values)
    if len(report["runs"]) > 1:
        for (own, peer), values in gathered.items():
            means = [geometric_mean(column) for column in zip(*values, strict=True)]
            rows.append((own, peer, f"geometric mean of {len(values)}",
                         *(f"{v:.2f}" for v in means)))
    return rows


def agreement(facts):
    """Return in words how a backend's results agree with golden's."""
    if "error_to_bound" in facts:
        return f"{'within' if facts['equal'] else 'BEYOND'} bound ({facts['error_to_bound']:.2g})"
    return "to the bit" if facts["equal"] else "NO"


def system_columns(run):
    """Return the columns of the table that :func:`system_rows` fills."""
    return ("phase", *(f">{way} ms" for way in run["ways"]))


def system_rows(run):
    """Return rows (phase, each way's time) of a system's cell, and how many times faster."""
    phases = dict.fromkeys(phase for way in run["ways"].values() for phase in way)
    last = [phase for phase in phases if phase in ("CPU", "step")]
    names = {"CPU": "the CPU's phases together", "step": "whole step"}
    rows = [(names.get(phase, phase),
             *(milliseconds(way.get(phase)) for way in run["ways"].values()))
            for phase in [phase for phase in phases if phase not in last] + last]
    if run["speed"]:
        rows.append(("times faster than the baseline",
                     *(f"{ratio:.2f}" for ratio in run["speed"].values())))
    return rows


def system_heading(report, run):
    """Return the title of a system's table."""
    cold = "caches warm" if report["warm"] else \
        f"{report['evicted_bytes'] >> 20} MiB read before each step"
    return (f"{run['title']}, batch {run['batch']:,}: {run['lookups']:,} lookups, tables "
            f"{run['table_bytes'] / 1e6:,.0f} MB on the host, {report['optimizer']}; CPU "
            f"({run['core']}), threads {report['threads']}; GPU: {run['gpu'] or 'none'}; every "
            f"way's tables {'equal' if run['equal'] else 'NOT equal'} to golden's to the bit; "
            f"medians (quartiles) of {report['repeats']} alternating runs, {cold}")


# the page

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1b1f24; background: #fff;
       max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.4rem; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #d8dee4; text-align: left; }
th.r, td.r { text-align: right; } td.r { white-space: nowrap; } tr.bad td { background: #ffe3e0; }
.scroll { overflow-x: auto; } .note, dd { color: #57606a; } dt { font-weight: 600; }
svg { max-width: 100%; height: auto; } details { margin-top: 2rem; }
pre { overflow-x: auto; font-size: 12px; }
"""

#: Colours that stay apart for the colour-blind (Okabe and Ito).
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#999999",
            "#000000", "#7b4ab5", "#8c510a", "#35978f")
#: Of the marks in a cell's plot: phase, word, colour.
_MARKS = (("forward", "forward", _COLOURS[0]), ("backward", "cast + update", _COLOURS[1]),
          ("step", "whole step", _COLOURS[2]))


def page(report):
    """Return a report of ``tcast compare`` as an HTML page.

    Parameters
    ----------
    report : dict
        What ``compare_backends`` or ``compare_systems`` returned.

    Returns
    -------
    str
    """
    layer = report["system"] == "layer"
    verdict = "Every result agrees with the golden model." if report["equal"] else \
        "NOT every result agrees with the golden model: see below."
    parts = [f"<h1>tcast compare: {'embedding layer' if layer else 'CPU-GPU system'}</h1>",
             f"<p><strong>{verdict}</strong> Lower times are better; docs/compare.md says what is "
             "timed and how to read it.</p>"]
    if layer:
        parts += _speed_section(report)
        for run in report["runs"]:
            wrong = {facts["backend"] for facts in run["backends"] if facts.get("equal") is False}
            parts += [f"<h2>{escape(run['title'])}</h2>",
                      f'<p class="note">{escape(heading(report, run))}.</p>',
                      _time_plot(run), _table(LAYER_COLUMNS, layer_rows(run), wrong)]
            parts += [f'<p><strong>MISMATCH</strong> {escape(mismatch)}</p>'
                      for facts in run["backends"] for mismatch in facts.get("mismatches", ())[:3]]
            parts += ["<dl>", *(f"<dt>{escape(name)}</dt><dd>{escape(words)}</dd>"
                                for name, words in notes(report, run)), "</dl>"]
    else:
        for run in report["runs"]:
            parts += [f"<h2>{escape(run['title'])}</h2>",
                      f'<p class="note">{escape(system_heading(report, run))}.</p>',
                      _system_plot(run), _table(system_columns(run), system_rows(run))]
            parts += [f'<p><strong>MISMATCH</strong> {escape(mismatch)}</p>'
                      for mismatch in run["mismatches"]]
        if report["not_run"]:
            parts.append(f"<p><strong>Not run:</strong> {escape(report['not_run'])}</p>")
    figures = escape(json.dumps(report, indent=1, ensure_ascii=False))
    parts.append(f"<details><summary>All figures, as --json prints them</summary>"
                 f"<pre>{figures}</pre></details>")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\"/>"
        '<meta name="viewport" content="width=device-width"/>'
        f"<title>tcast compare</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(parts) + "\n</body></html>\n")


def _speed_section(report):
    rows = ratio_rows(report)
    if not rows:
        return []
    return ["<h2>How many times faster</h2>",
            '<p class="note">Medians of the ratios of neighbouring runs: the other\'s time divided '
            "by ours; above 1, ours is faster.</p>",
            _speed_plot(report), _table(RATIO_COLUMNS, rows)]


def _table(columns, rows, wrong=()):
    def cell(tag, column, text):
        align = ' class="r"' if column.startswith(">") else ""
        return f"<{tag}{align}>{escape(text)}</{tag}>"

    lines = ['<div class="scroll"><table><thead><tr>',
             *(cell("th", column, column.removeprefix(">")) for column in columns),
             "</tr></thead><tbody>"]
    for row in rows:
        lines += ['<tr class="bad">' if row[0] in wrong else "<tr>",
                  *(cell("td", column, "" if value is None else str(value))
                    for column, value in zip(columns, row, strict=True)), "</tr>"]
    return "".join([*lines, "</tbody></table></div>"])


class _Plot:
    """An SVG of horizontal lanes, one for each name, on one axis.

    Parameters
    ----------
    label : str
        What it shows, for those who cannot see it.
    names : list of str
        Of the lanes.
    values : iterable of float
        What the axis must hold.
    log : bool
        Whether the axis is logarithmic; else it begins with 0.
    unit : str
        Under the axis.
    lines : int
        Of the legend, above the lanes.
    """

    left, width, lane, bottom = 190, 960, 26, 44

    def __init__(self, label, names, values, *, log, unit, lines=1):
        self.top = 10 + 20 * lines
        values = [value for value in values if value > 0] or [1.0]
        self.names, self.log = names, log
        self.height = self.top + self.lane * len(names) + self.bottom
        if log:
            self.low, self.high = min(values) / 1.3, max(values) * 1.3
        else:
            self.low, self.high = 0.0, max(values) * 1.05
        self._body = [f"<title>{escape(label)}</title>",
                      f'<rect width="{self.width}" height="{self.height}" fill="#fff"/>']
        self._axis(unit)
        for number, name in enumerate(names):
            y = self.y(number)
            self._body.append(f'<line x1="{self.left}" x2="{self.width - 20}" y1="{y:.1f}" '
                              f'y2="{y:.1f}" stroke="#eef1f4"/>')
            self.text(self.left - 10, y + 4, name, "end")

    def x(self, value):
        """Return where a value lies."""
        if self.log:
            share = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            share = value / self.high
        return self.left + share * (self.width - self.left - 20)

    def y(self, lane):
        """Return the middle of a lane."""
        return self.top + self.lane * (lane + 0.5)

    def _ticks(self):
        if not self.log:
            step = 10 ** math.floor(math.log10(self.high))
            step *= next(factor for factor in (0.1, 0.2, 0.5, 1) if self.high / step / factor <= 10)
            return [step * n for n in range(int(self.high / step) + 1)]
        first, last = (math.floor(math.log10(value)) for value in (self.low, self.high))
        decades = range(first, last + 1)
        for factors in ((1, 1.5, 2, 3, 4, 5, 7), (1, 2, 5), (1,)):
            ticks = [factor * 10.0 ** decade for decade in decades for factor in factors]
            ticks = [tick for tick in ticks if self.low <= tick <= self.high]
            if len(ticks) <= 12:
                break
        return ticks

    def _axis(self, unit):
        floor = self.height - self.bottom
        for tick in self._ticks():
            x = self.x(tick)
            self._body.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{self.top}" y2="{floor}" '
                              'stroke="#d8dee4"/>')
            self.text(x, floor + 16, f"{tick:g}", "middle")
        self.text((self.left + self.width) / 2, self.height - 6, unit, "middle")

    def text(self, x, y, words, anchor="start"):
        """Write."""
        self._body.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}'
                          "</text>")

    def mark(self, lane, value, low, high, colour, tip):
        """Draw a point with its spread."""
        y = self.y(lane)
        self._body.append(
            f'<g class="mark"><title>{escape(tip)}</title>'
            f'<line x1="{self.x(low):.1f}" x2="{self.x(high):.1f}" y1="{y:.1f}" y2="{y:.1f}" '
            f'stroke="{colour}" stroke-width="3" stroke-opacity="0.45"/>'
            f'<circle cx="{self.x(value):.1f}" cy="{y:.1f}" r="5.5" fill="{colour}"/></g>')

    def bar(self, lane, begin, end, colour, tip, half=9.0, offset=0.0):
        """Draw a bar."""
        a, b = sorted((self.x(begin), self.x(end)))
        self._body.append(
            f'<g class="mark"><title>{escape(tip)}</title><rect x="{a:.1f}" '
            f'y="{self.y(lane) - half + offset:.1f}" width="{max(b - a, 0.5):.1f}" '
            f'height="{2 * half:.1f}" fill="{colour}"/></g>')

    def legend(self, entries):
        """Draw (word, colour) pairs above the lanes."""
        x, y = self.left, 8
        for word, colour in entries:
            if x + 16 + 7 * len(word) > self.width:
                x, y = self.left, y + 20
            self._body.append(f'<rect x="{x}" y="{y}" width="11" height="11" fill="{colour}"/>')
            self.text(x + 16, y + 10, word)
            x += 30 + 7 * len(word)

    def svg(self):
        """Return the SVG."""
        return (f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{self.width}" '
                f'height="{self.height}" viewBox="0 0 {self.width} {self.height}" '
                f'font-family="system-ui, sans-serif" font-size="12" fill="#1b1f24">'
                + "".join(self._body) + "</svg>")


def _time_plot(run):
    """Return the SVG of a cell's times: forward, cast + update, step, with quartiles."""
    lanes = {facts["backend"]: facts["phases"] for facts in run["backends"] if "phases" in facts}
    for facts in run["backends"]:
        if "ms_at_clock" in facts:
            at = facts["ms_at_clock"]
            lanes["sim, at its clock"] = {phase: dict.fromkeys(("ms", "low_ms", "high_ms"), value)
                                          for phase, value in (("forward", at["forward"]),
                                                               ("backward", at["update"]))}
    lanes["limit"] = {"forward": run["limit"]["forward"], "backward": run["limit"]["update"]}
    values = [value for phases in lanes.values() for phase, _, _ in _MARKS if phase in phases
              for value in phases[phase].values()]
    plot = _Plot(f"times of {run['title']}", list(lanes), values, log=True, unit="milliseconds, "
                 "medians; bars from quartile to quartile")
    for lane, (name, phases) in enumerate(lanes.items()):
        for phase, word, colour in _MARKS:
            if phase in phases:
                at = phases[phase]
                plot.mark(lane, at["ms"], at["low_ms"], at["high_ms"], colour,
                          f"{name}, {word}: {milliseconds(at)} ms")
    plot.legend([(word, colour) for _, word, colour in _MARKS])
    return plot.svg()


def _speed_plot(report):
    """Return the SVG of how many times faster ours are, of every cell."""
    lanes = []
    for run in report["runs"]:
        for facts in run["backends"]:
            if facts["backend"] in OURS:
                lanes += [(f"{run['title']}: {peer}" if len(report["runs"]) > 1
                           else f"{facts['backend']} over {peer}", peer, speeds)
                          for peer, speeds in facts.get("speed_over", {}).items()
                          if peer != "golden"]
    values = [speeds[phase] for _, _, speeds in lanes for phase, _, _ in _MARKS]
    plot = _Plot("how many times faster than the peers", [name for name, _, _ in lanes],
                 [*values, 1.0], log=True, unit="times faster")
    for lane, (name, _, speeds) in enumerate(lanes):
        for number, (phase, word, colour) in enumerate(_MARKS):
            plot.bar(lane, 1.0, speeds[phase], colour, f"{name}, {word}: {speeds[phase]:.2f} times",
                     half=3.2, offset=7.0 * (number - 1))
    plot.legend([(word, colour) for _, word, colour in _MARKS])
    return plot.svg()


def _system_plot(run):
    """Return the SVG of a system's cell: the phases of each way, one behind the other."""
    phases = [phase for phase in dict.fromkeys(
        phase for way in run["ways"].values() for phase in way)
        if phase not in ("CPU", "step") and "hidden" not in phase]
    colours = {phase: _COLOURS[n % len(_COLOURS)] for n, phase in enumerate(phases)}
    totals = [sum(way[phase]["ms"] for phase in phases if phase in way)
              for way in run["ways"].values()]
    plot = _Plot(f"phases of {run['title']}", list(run["ways"]), totals, log=False,
                 unit="milliseconds, medians of the phases", lines=2)
    for lane, way in enumerate(run["ways"].values()):
        begin = 0.0
        for phase in phases:
            if phase in way:
                end = begin + way[phase]["ms"]
                plot.bar(lane, begin, end, colours[phase],
                         f"{phase}: {milliseconds(way[phase])} ms")
                begin = end
    plot.legend([(phase.removeprefix("CPU: "), colour) for phase, colour in colours.items()])
    return plot.svg()
