"""AxiMerge: two AXI4 managers on one port, in turn."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .axi import axi4_signature
from .queue import Queue

__all__ = ["SECOND_READ_ID", "AxiMerge"]

#: Set in the read IDs of the second manager, whose own are below it; those of the first are too.
SECOND_READ_ID = 0b1100


class AxiMerge(wiring.Component):
    """Share a port between two managers that keep RREADY and BREADY high.

    Contract: where both ask, they take turns, burst by burst, on AR and on AW. W follows the order
    of AW. A manager announces a write burst only with its data at hand, so none can hold up the
    other. Read IDs of the second manager (0 to 3) come out as 12 to 15, its write ID as 1; those
    of the first (0 to 11, and 0) as they are.

    Parameters
    ----------
    config : EngineConfig

    Members
    -------
    first, second : In(axi4_signature())
        The managers.
    port : Out(axi4_signature())

    Timing: AR, AW and W pass one register, R and B none; one burst and one beat per cycle on each
    channel.
    Reset: only while both managers are idle.   Errors: none.
    Resources: a register for each of AR, AW and W; a queue of who writes.
    """

    def __init__(self, config):
        self.config = config
        signature = axi4_signature(config.data_width)
        super().__init__({"first": In(signature), "second": In(signature), "port": Out(signature)})

    def elaborate(self, platform):
        """Arbitrate into registers; route the answers by ID."""
        m = Module()
        first, second, port = self.first, self.second, self.port
        members = port.signature.members

        def arbitrate(prefix, room=1):
            """Let one of the address channels into the register behind; return (takes, which)."""
            empty = ~getattr(port, f"{prefix}valid") | getattr(port, f"{prefix}ready")
            free = empty & room
            asks = [getattr(each, f"{prefix}valid") for each in (first, second)]
            turn = Signal(name=f"{prefix}_turn")   # whose turn it is where both ask
            # Who waits holds its request, so that it is enough to look at the other one.
            m.d.comb += [
                getattr(first, f"{prefix}ready").eq(free & ~(asks[1] & turn)),
                getattr(second, f"{prefix}ready").eq(free & ~(asks[0] & ~turn)),
            ]
            which = asks[1] & (turn | ~asks[0])
            takes = free & (asks[0] | asks[1])
            with m.If(takes):
                m.d.sync += turn.eq(~which)
                for name in members:
                    if name.startswith(prefix) and name[2:] not in ("id", "valid", "ready"):
                        m.d.sync += getattr(port, name).eq(
                            Mux(which, getattr(second, name), getattr(first, name)))
            with m.If(empty):
                m.d.sync += getattr(port, f"{prefix}valid").eq(takes)
            return takes, which

        # Reads.
        takes, which = arbitrate("ar")
        with m.If(takes):
            m.d.sync += port.arid.eq(Mux(which, second.arid | SECOND_READ_ID, first.arid))
        m.d.comb += port.rready.eq(1)
        theirs = port.rid[2:] == SECOND_READ_ID >> 2
        for manager, mine, rid in ((first, ~theirs, port.rid), (second, theirs, port.rid[:2])):
            m.d.comb += [manager.rvalid.eq(port.rvalid & mine), manager.rid.eq(rid)]
            for name in ("rdata", "rresp", "rlast"):
                m.d.comb += getattr(manager, name).eq(getattr(port, name))

        # Writes: who has announced, in order.
        m.submodules.writers = writers = Queue(1, 16)
        takes, which = arbitrate("aw", writers.i.ready)
        m.d.comb += [writers.i.valid.eq(takes), writers.i.payload.eq(which)]
        with m.If(takes):
            m.d.sync += port.awid.eq(which)
        free = ~port.wvalid | port.wready
        whose = writers.o.payload
        open_ = writers.o.valid & free
        valid = Mux(whose, second.wvalid, first.wvalid)
        m.d.comb += [
            first.wready.eq(open_ & ~whose),
            second.wready.eq(open_ & whose),
            writers.o.ready.eq(free & valid & Mux(whose, second.wlast, first.wlast)),
        ]
        with m.If(free):
            m.d.sync += port.wvalid.eq(writers.o.valid & valid)
            for name in ("wdata", "wstrb", "wlast"):
                m.d.sync += getattr(port, name).eq(
                    Mux(whose, getattr(second, name), getattr(first, name)))
        m.d.comb += port.bready.eq(1)
        for manager, mine in ((first, ~port.bid[0]), (second, port.bid[0])):
            m.d.comb += [manager.bvalid.eq(port.bvalid & mine), manager.bid.eq(0),
                         manager.bresp.eq(port.bresp)]
        return m
