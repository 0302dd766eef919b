"""The page and the picture of bench/bandwidth.py."""

from itertools import groupby

from results import table

__all__ = ["PEERS", "report"]

#: Cycles per row of two DMA engines in steady state on the same kind of memory, rows of 64, 128,
#: 256 and 512 bytes by (peer, bus width, latency). Measured in Verilator: 2,000 rows, a descriptor
#: each, handed over as fast as they are taken; no index is fetched and nothing is summed.
#: verilog-axi 516bd5d, axi_dma_rd; pulp iDMA v0.7.0, rw_axi backend, NumAxInFlight 64,
#: MemSysDepth 256 (on 128 bits by its closed form, max(B, (L + B + 2) / 64)).
PEERS = {
    ("verilog-axi axi_dma_rd", 512, 20): (12.50, 12.99, 14.00, 16.00),
    ("verilog-axi axi_dma_rd", 512, 64): (34.48, 34.98, 35.98, 37.99),
    ("verilog-axi axi_dma_rd", 512, 128): (66.47, 66.97, 67.97, 69.97),
    ("verilog-axi axi_dma_rd", 512, 256): (130.44, 130.94, 131.94, 133.94),
    ("verilog-axi axi_dma_rd", 128, 20): (14.00, 16.00, 20.00, 33.00),
    ("verilog-axi axi_dma_rd", 128, 64): (35.98, 37.99, 41.99, 49.99),
    ("verilog-axi axi_dma_rd", 128, 128): (67.97, 69.97, 73.97, 81.98),
    ("verilog-axi axi_dma_rd", 128, 256): (131.94, 133.94, 137.94, 145.94),
    ("iDMA, 64 in flight", 512, 20): (1.00, 2.00, 4.00, 8.00),
    ("iDMA, 64 in flight", 512, 64): (1.04, 2.00, 4.00, 8.00),
    ("iDMA, 64 in flight", 512, 128): (2.04, 2.06, 4.00, 8.00),
    ("iDMA, 64 in flight", 512, 256): (4.02, 4.04, 4.09, 8.00),
    ("iDMA, 64 in flight", 128, 20): (4.00, 8.00, 16.00, 32.00),
    ("iDMA, 64 in flight", 128, 64): (4.00, 8.00, 16.00, 32.00),
    ("iDMA, 64 in flight", 128, 128): (4.00, 8.00, 16.00, 32.00),
    ("iDMA, 64 in flight", 128, 256): (4.09, 8.00, 16.00, 32.00),
}
ROW_BYTES = (64, 128, 256, 512)
LATENCIES = (20, 64, 128, 256)
WIDTHS = {"ddr512": 512, "ecp5-128": 128}
COLOURS = {"tcast": "#0072b2", "iDMA, 64 in flight": "#d55e00",
           "verilog-axi axi_dma_rd": "#777777"}

#: Why a cell falls short, in cycles, by row of the target table; see the page.
REASONS = {
    "ring": "The descriptors' own beats do not count as useful, and with bags of 1 and rows of 64 "
            "bytes they are many: 2 for 37 useful ones at 512 bits, 8 for 144 at 128 bits, which "
            "alone leaves 37 / 39 = 0.949 and 144 / 152 = 0.947. What they have less than that are "
            "the cycles of the last row through the pipeline to W, and with `ecp5-128` at a "
            "latency of 256 one gap of 97 cycles at the start: the ninth descriptor waits for the "
            "first to complete, as `descriptors_in_flight` is 8 (a ring of 8 has no such gap; "
            "what follows the ninth has none either).",
}


def peer_utilisation(peer, width, latency):
    """Return the useful share of cycles for each of ROW_BYTES."""
    return [8 * size / width / cycles
            for size, cycles in zip(ROW_BYTES, PEERS[peer, width, latency], strict=True)]


def worst(cells, key="utilisation"):
    """Return the cell with the smallest ``key``."""
    return min(cells, key=lambda each: each[key])


def where(cell):
    """Return the coordinates of a cell in words."""
    return (f"`{cell['preset']}`, {cell['case']}, {cell['row_bytes']} B, "
            f"latency {cell['latency']}")


def report(cells):
    """Return (Markdown lines, SVG) of the measured cells."""
    by_group = {group: list(found) for group, found in
                groupby(sorted(cells, key=lambda each: each["group"]), lambda each: each["group"])}
    groups = list(dict.fromkeys(each["group"] for each in cells))
    lines = [
        "Memory model: fixed latency, a beat a cycle each way, R and W independent. "
        "**Utilisation** is of the busier of R and W: useful beats (all but descriptors: rows, "
        "indices, offsets, weights, scales, targets) from the first beat of a gathered row to the "
        "last R or W beat, ÷ those cycles; both ends are in. 16,384 lookups a cell; the ring has "
        "64 relaxed descriptors of 32 bags. Every result equal to the golden model to the bit.", "",
        "The forward pass is measured at every latency with every row; the other kinds at every "
        "latency with rows of 64 bytes, which need the most bursts in flight, and at 256 cycles "
        "with longer ones (`--full` measures all). What a cell at 0.996 to 0.9999 lacks are the "
        "cycles from the last row's beat to its sum's last beat on W, the length of the pipeline.",
        "",
        *table(("work", ">cells", ">target", ">worst", "where", ">median", ">short of it"),
               [_summary(group, by_group[group]) for group in groups]), ""]
    short = [each for each in cells if each["utilisation"] < each["target"]]
    lines += _short(short, groups)
    lines += [
        "## Total cycles", "",
        "*From arrival*: from the cycle in which the last beat of the (first) descriptor is on the "
        "bus to the last useful beat. *From doorbell*: from the write of `ring_tail` to the last "
        "write's response: one latency more for the descriptor's fetch and one for the response. "
        "The bound of the table is `useful beats + 2 latencies + 200` from arrival, where useful "
        "beats are those of the busier channel.", "",
        *table(("work", ">cells", ">within the bound", ">most beyond useful + 2 latencies",
                "where", ">most from doorbell, beyond useful + 4 latencies"),
               [_totals(group, by_group[group]) for group in groups]), ""]
    if "forward" in by_group:
        lines += ["## Against two DMA engines", "",
                  "![utilisation by row size and latency](bandwidth.svg)", "",
                  "Useful share of cycles in steady state. tcast: the worst of the forward pass's "
                  "bags, its index and offset beats counted as useful; the peers copy rows whose "
                  "addresses are handed to them, and fetch, sum and update nothing. Their cycles "
                  "per row were measured on a memory of the same kind with 2,000 rows "
                  "(verilog-axi 516bd5d; pulp iDMA v0.7.0, NumAxInFlight 64, MemSysDepth 256); "
                  "with 256 in flight iDMA has no bubble at 512 bits either.", "",
                  *table(("bus", ">latency", "engine", *(f">{size} B" for size in ROW_BYTES)),
                         _against(by_group["forward"])), ""]
    lines += ["## Every cell", "",
              *table(("work", "case", "preset", ">row", *(f">latency {n}" for n in LATENCIES)),
                     _grid(cells))]
    return lines, picture(by_group.get("forward", []))


def _summary(group, cells):
    low = worst(cells)
    values = sorted(each["utilisation"] for each in cells)
    return (group, len(cells), low["target"], f"{low['utilisation']:.4f}", where(low),
            f"{values[len(values) // 2]:.4f}",
            sum(each["utilisation"] < each["target"] for each in cells))


def _short(short, groups):
    if not short:
        return ["No cell falls short.", ""]
    lines = ["## Cells that fall short", ""]
    for group in groups:
        if group in REASONS and any(each["group"] == group for each in short):
            lines += [f"**{group}.** {REASONS[group]}", ""]
    columns = ("read_memory", "read_address", "read_credit", "read_index", "read_offset",
               "read_drain", "read_overhead")
    return [
        *lines, "The columns on the right are cycles without an R beat from doorbell to done, by "
        "cause.", "",
        *table(("work", "cell", ">utilisation", ">R", ">W", ">W stall",
                *(f">{name.removeprefix('read_')}" for name in columns)),
               [(each["group"], where(each), f"{each['utilisation']:.4f}",
                 f"{each['r_busy']:.4f}", f"{each['w_busy']:.4f}",
                 f"{each['counters']['w_stall']:,}",
                 *(f"{each['counters'][name]:,}" for name in columns)) for each in short]), ""]


def _totals(group, cells):
    def beyond(cell):
        return cell["startup_and_gaps"] - 2 * cell["latency"]

    def doorbell(cell):
        return cell["total_from_doorbell"] - cell["useful_beats"] - 4 * cell["latency"]

    high = max(cells, key=beyond)
    return (group, len(cells), sum(each["startup_and_gaps"] <= each["bound"] for each in cells),
            f"{beyond(high):,}", where(high), f"{max(map(doorbell, cells)):,}")


def _worst_forward(cells, width, latency):
    found = []
    for size in ROW_BYTES:
        here = [each["utilisation"] for each in cells if "bags" in each["case"]
                and WIDTHS[each["preset"]] == width and each["latency"] == latency
                and each["row_bytes"] == size]
        found.append(min(here, default=None))
    return found


def _against(cells):
    for width in (512, 128):
        for latency in LATENCIES:
            curves = {"tcast": _worst_forward(cells, width, latency)}
            curves |= {peer: peer_utilisation(peer, width, latency)
                       for peer in COLOURS if peer != "tcast"}
            for name, values in curves.items():
                yield (f"{width} bits", latency, name,
                       *("" if value is None else f"{value:.3f}" for value in values))


def _grid(cells):
    def key(each):
        return each["group"], each["case"], each["preset"], each["row_bytes"]

    for where_, found in groupby(cells, key):
        values = {each["latency"]: each for each in found}
        yield (*where_[:2], f"`{where_[2]}`", f"{where_[3]} B", *(
            f"{values[n]['utilisation']:.4f}" if n in values else "" for n in LATENCIES))


def picture(cells):
    """Return the SVG: a panel for each bus and latency, utilisation over the row's bytes."""
    width, height, left, top, gap = 190, 150, 60, 60, 30
    total_width = left + 4 * (width + gap)
    total_height = top + 2 * (height + 50) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total_width} {total_height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{total_width}" height="{total_height}" fill="white"/>',
        f'<text x="{left}" y="20" font-size="14">Cycles with a useful read beat, steady state, '
        'by bytes of a row</text>']
    for n, (name, colour) in enumerate(COLOURS.items()):
        x = left + 200 * n
        words = "tcast, forward (worst bags)" if name == "tcast" else name
        parts += [f'<line x1="{x}" y1="36" x2="{x + 20}" y2="36" stroke="{colour}" '
                  'stroke-width="2.5"/>', f'<text x="{x + 26}" y="40">{words}</text>']
    for row, bus in enumerate((512, 128)):
        for column, latency in enumerate(LATENCIES):
            x0, y0 = left + column * (width + gap), top + 16 + row * (height + 50)
            parts.append(f'<text x="{x0}" y="{y0 - 5}">{bus} bits, latency {latency}</text>')
            for share in (0, 0.25, 0.5, 0.75, 1):
                y = y0 + height * (1 - share)
                parts.append(f'<line x1="{x0}" y1="{y:.1f}" x2="{x0 + width}" y2="{y:.1f}" '
                             'stroke="#ddd"/>')
                if column == 0:
                    parts.append(f'<text x="{x0 - 6}" y="{y + 4:.1f}" text-anchor="end">'
                                 f'{share:.0%}</text>')
            ticks = [x0 + 20 + n * (width - 40) / 3 for n in range(4)]
            for x, size in zip(ticks, ROW_BYTES, strict=True):
                parts.append(f'<text x="{x:.1f}" y="{y0 + height + 14}" text-anchor="middle">'
                             f'{size}</text>')
            for name, colour in reversed(COLOURS.items()):
                values = _worst_forward(cells, bus, latency) if name == "tcast" \
                    else peer_utilisation(name, bus, latency)
                points = [(x, y0 + height * (1 - value))
                          for x, value in zip(ticks, values, strict=True) if value is not None]
                parts.append('<polyline fill="none" stroke-width="2.5" stroke="{}" points="{}"/>'
                             .format(colour, " ".join(f"{x:.1f},{y:.1f}" for x, y in points)))
                parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>'
                          for x, y in points]
    return "\n".join([*parts, "</svg>", ""])
