"""RegisterBank: the AXI4-Lite subordinate, generated from the register map."""

import re
from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .axi import RESP_OKAY, RESP_SLVERR, axil_signature
from .fields import Access
from .registers import ADDRESS_WIDTH, REGISTERS, constant_values

__all__ = ["RegisterBank", "member_fields"]

#: What a soft reset of the engine clears in the bank.
_SOFT_RESET = ("control_enable", "ring_tail", "cast_ring_tail")

#: Registers that the first stage of a read selects from, as a number of address bits.
_GROUP_LOG2 = 3


def member_fields(config):
    """Return what stands behind each member of the bank.

    Parameters
    ----------
    config : EngineConfig
        Its constants (identity, capabilities) have no member.

    Returns
    -------
    dict of str to tuple
        Member name to its ``(register, field)`` pairs, low half first: two where the registers are
        the ``_lo`` and ``_hi`` halves of a 64-bit member, else one.
    """
    members = {}
    constants = constant_values(config)
    for register in REGISTERS:
        if register.name in constants:
            continue
        for field in register.fields:
            name = register.name
            if len(register.fields) > 1 or field.name != "value":
                name = f"{register.name}_{field.name}"
            members.setdefault(re.sub("_(lo|hi)$", "", name), []).append((register, field))
    return {name: tuple(halves) for name, halves in members.items()}


class RegisterBank(wiring.Component):
    """Hold the control registers, show the status registers, and raise the interrupt.

    The registers, their access and their rules are those of :mod:`tcast.hw.registers`; nothing is
    repeated here.

    Parameters
    ----------
    config : EngineConfig
        Decides the identity and capability registers.

    Members
    -------
    s_axil : In(axil_signature(12))
        The bus. AWPROT and ARPROT are ignored.
    irq : Out(1)
        High while an enabled cause is set; level, from a flip-flop.
    reset_done : In(1)
        Pulse at the end of a soft reset: clears control.enable, ring_tail and cast_ring_tail, over
        a write in the same cycle.
    one for each field, except of the registers in ``constant_values``
        Named as its register where the register has only the field ``value``, else
        ``<register>_<field>``. ``_lo`` and ``_hi`` registers share one 64-bit member.
        RW and W1S fields are ``Out``: the value. PULSE fields are ``Out``: high for one cycle.
        R fields are ``In``: the value to show. W1C fields are ``In``: a pulse that sets the bit,
        also in the cycle that clears it; the bank keeps the bit.

    Timing
        AW and W are accepted in any order. A write takes effect in the cycle BVALID rises, three
        cycles after AW and two after W (or once the response before it is taken); a PULSE output
        is high in that cycle. RVALID rises three cycles after AR; R fields are sampled one cycle
        after AR. One read and one write are in work at a time. irq follows the inputs that set its
        causes by two cycles. No combinational path from an input to an output.

    Reset
        Synchronous; every register takes the reset value of the map, BVALID and RVALID are low
        and the responses of accesses in work are dropped.

    Errors
        SLVERR for an address without a register, for a write to a register that is only read, and
        for a write to a locked window.
    """

    def __init__(self, config):
        self.config = config
        self._members = member_fields(config)
        ports = {}
        for name, halves in self._members.items():
            flow = In if halves[0][1].access in (Access.R, Access.W1C) else Out
            init = _concatenate(halves, "reset") if flow is Out else 0
            ports[name] = flow(sum(field.width for _, field in halves), init=init)
        super().__init__({
            "s_axil": In(axil_signature(ADDRESS_WIDTH)),
            "irq": Out(1),
            "reset_done": In(1),
            **ports,
        })

    def elaborate(self, platform):
        """Return the module."""
        m = Module()

        # Write: one holding register for each of AW and W, one cycle to decode, one to perform.
        bus = self.s_axil
        write_address = Signal(ADDRESS_WIDTH - 2)
        write_data = Signal(32)
        write_strobe = Signal(4)
        address_held = Signal()
        data_held = Signal()
        decoded = Signal()  # `hits` are of this address
        perform = Signal()
        m.d.comb += [
            bus.awready.eq(~address_held),
            bus.wready.eq(~data_held),
            perform.eq(decoded & data_held & ~bus.bvalid),
        ]
        m.d.sync += decoded.eq(address_held & ~perform)
        with m.If(bus.awvalid & bus.awready):
            m.d.sync += [write_address.eq(bus.awaddr[2:]), address_held.eq(1)]
        with m.If(bus.wvalid & bus.wready):
            m.d.sync += [write_data.eq(bus.wdata), write_strobe.eq(bus.wstrb), data_held.eq(1)]
        with m.If(bus.bvalid & bus.bready):
            m.d.sync += bus.bvalid.eq(0)
        with m.If(perform):
            m.d.sync += [address_held.eq(0), data_held.eq(0), bus.bvalid.eq(1)]
        write_mask = Cat(strobe.replicate(8) for strobe in write_strobe)

        # Registers: `stored` is what a read shows, by register; `allowed` the writes that succeed.
        stored = {name: Const(value, 32)
                  for name, value in constant_values(self.config).items()}
        shown = {register.name: [] for register in REGISTERS if register.name not in stored}
        allowed = {}  # name of a register that can be written -> whether this write is one to it
        for register in REGISTERS:
            if any(field.access != Access.R for field in register.fields):
                hit = Signal(name=f"hit_{register.name}")
                m.d.sync += hit.eq(write_address == register.offset // 4)
                locked = self.window_lock if re.match(r"window\d", register.name) else 0
                allowed[register.name] = hit & ~locked
        causes = {}
        for name, halves in self._members.items():
            member = getattr(self, name)
            position = 0
            for register, field in halves:
                part = member[position:position + field.width]
                position += field.width
                if field.access == Access.R:
                    shown[register.name].append((field, part))
                    continue
                selected = Signal(name=f"write_{register.name}_{field.name}")
                m.d.comb += selected.eq(perform & allowed[register.name])
                bits = slice(field.lsb, field.lsb + field.width)
                data = write_data[bits]
                written = selected.replicate(field.width) & write_mask[bits]
                if field.access == Access.RW:
                    # One enable for each byte lane, rather than a mask: no logic for each bit.
                    for lane, run in _writable_runs(field):
                        with m.If(selected & write_strobe[lane]):
                            m.d.sync += part[run].eq(data[run])
                elif field.access == Access.W1S:
                    m.d.sync += part.eq(part | (data & written))
                elif field.access == Access.PULSE:
                    m.d.sync += part.eq(data & written)
                elif field.access == Access.W1C:
                    # The set input wins, so that no cause is lost between read and clear.
                    cause = Signal(field.width, name=f"cause_{field.name}")
                    m.d.sync += cause.eq((cause & ~(data & written)) | part)
                    causes[field.name] = part = cause
                shown[register.name].append(
                    (field, Const(0, field.width) if field.access == Access.PULSE else part))
        with m.If(perform):
            m.d.sync += bus.bresp.eq(Mux(Cat(allowed.values()).any(), RESP_OKAY, RESP_SLVERR))
        with m.If(self.reset_done):
            m.d.sync += [getattr(self, name).eq(0) for name in _SOFT_RESET]
        raised = [cause & getattr(self, f"irq_enable_{name}") for name, cause in causes.items()]
        m.d.sync += self.irq.eq(Cat(raised).any())

        # Read: hold the decoded address; select inside groups; join the groups. Selecting by AND
        # and OR takes half the area of a `case` or a tree of multiplexers on FPGAs.
        for name, parts in shown.items():
            stored[name] = _assemble(parts)
        by_index = {register.offset // 4: stored[register.name] for register in REGISTERS}
        size = 1 << _GROUP_LOG2
        groups = sorted({index // size for index in by_index})
        address = bus.araddr[2:]
        word_select = Signal(size)
        group_select = Signal(len(groups))
        known = Signal()
        steps = Signal(2)
        m.d.comb += bus.arready.eq(~bus.rvalid & (steps == 0))
        m.d.sync += steps.eq(steps << 1)
        with m.If(bus.arvalid & bus.arready):
            m.d.sync += [
                steps.eq(1),
                word_select.eq(1 << address[:_GROUP_LOG2]),
                group_select.eq(Cat(address[_GROUP_LOG2:] == group for group in groups)),
            ]
        with m.If(steps[0]):
            m.d.sync += known.eq(Cat(
                selected & Cat(word_select[low] for low in range(size)
                               if group * size + low in by_index).any()
                for selected, group in zip(group_select, groups, strict=True)).any())
        data_of_group = []
        for selected, group in zip(group_select, groups, strict=True):
            data = Signal(32, name=f"group_{group}")
            words = [by_index[group * size + low] & word_select[low].replicate(32)
                     for low in range(size) if group * size + low in by_index]
            with m.If(steps[0]):
                m.d.sync += data.eq(Mux(selected, reduce(or_, words), 0))
            data_of_group.append(data)
        with m.If(steps[1]):
            m.d.sync += [
                bus.rvalid.eq(1),
                bus.rresp.eq(Mux(known, RESP_OKAY, RESP_SLVERR)),
                bus.rdata.eq(reduce(or_, data_of_group)),
            ]
        with m.If(bus.rvalid & bus.rready):
            m.d.sync += bus.rvalid.eq(0)
        return m


def _concatenate(halves, attribute):
    """Return an attribute of the fields of a member as one number, low half first."""
    value = position = 0
    for _, field in halves:
        value |= getattr(field, attribute) << position
        position += field.width
    return value


def _assemble(parts):
    """Return the 32-bit value of a register from its ``(field, value)`` pairs."""
    pieces, position = [], 0
    for field, value in sorted(parts, key=lambda part: part[0].lsb):
        pieces += [Const(0, field.lsb - position), value]
        position = field.lsb + field.width
    return Cat(*pieces, Const(0, 32 - position))


def _writable_runs(field):
    """Yield the byte lanes of ``field`` that can be written, each with its bits in the field."""
    for lane in range(4):
        bits = [bit for bit in range(field.width)
                if (field.lsb + bit) // 8 == lane and not field.fixed >> bit & 1]
        if bits:
            yield lane, slice(bits[0], bits[-1] + 1)
