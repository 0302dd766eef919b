"""Signatures of the buses: AXI4 and AXI4-Lite (Arm IHI 0022), seen from the manager.

Both are flat: a member is named as the suffix of its port, so that ``m_axi.araddr`` in Amaranth is
``m_axi_araddr`` in Verilog. A manager has ``m_axi: Out(axi4_signature(...))``, a subordinate
``s_axil: In(axil_signature(...))``.
"""

from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["BURST_INCR", "RESP_DECERR", "RESP_EXOKAY", "RESP_OKAY", "RESP_SLVERR",
           "axi4_signature", "axil_signature"]

BURST_INCR = 0b01

RESP_OKAY = 0b00
RESP_EXOKAY = 0b01
RESP_SLVERR = 0b10
RESP_DECERR = 0b11


def axi4_signature(data_width, address_width=64, id_width=4):
    """Return the signature of an AXI4 port: AR, R, AW, W and B, without USER and REGION.

    Parameters
    ----------
    data_width : int
        Bits of RDATA and WDATA: 8 to 1024, a power of two.
    address_width : int
        Bits of ARADDR and AWADDR.
    id_width : int
        Bits of ARID, RID, AWID and BID.

    Raises
    ------
    ValueError
        ``data_width`` is not one that AXI4 has.
    """
    if data_width not in (8, 16, 32, 64, 128, 256, 512, 1024):
        raise ValueError(f"data_width must be a power of two from 8 to 1024, not {data_width!r}")

    def address_channel(prefix):
        return {
            f"{prefix}id": Out(id_width),
            f"{prefix}addr": Out(address_width),
            f"{prefix}len": Out(8),      # beats - 1
            f"{prefix}size": Out(3),     # log2 of the bytes in a beat
            f"{prefix}burst": Out(2),
            f"{prefix}lock": Out(1),
            f"{prefix}cache": Out(4),
            f"{prefix}prot": Out(3),
            f"{prefix}qos": Out(4),
            f"{prefix}valid": Out(1),
            f"{prefix}ready": In(1),
        }

    return wiring.Signature({
        **address_channel("ar"),
        "rid": In(id_width),
        "rdata": In(data_width),
        "rresp": In(2),
        "rlast": In(1),
        "rvalid": In(1),
        "rready": Out(1),
        **address_channel("aw"),
        "wdata": Out(data_width),
        "wstrb": Out(data_width // 8),
        "wlast": Out(1),
        "wvalid": Out(1),
        "wready": In(1),
        "bid": In(id_width),
        "bresp": In(2),
        "bvalid": In(1),
        "bready": Out(1),
    })


def axil_signature(address_width):
    """Return the signature of an AXI4-Lite port with 32-bit data.

    Parameters
    ----------
    address_width : int
        Bits of AWADDR and ARADDR.
    """
    return wiring.Signature({
        "awaddr": Out(address_width),
        "awprot": Out(3),
        "awvalid": Out(1),
        "awready": In(1),
        "wdata": Out(32),
        "wstrb": Out(4),
        "wvalid": Out(1),
        "wready": In(1),
        "bresp": In(2),
        "bvalid": In(1),
        "bready": Out(1),
        "araddr": Out(address_width),
        "arprot": Out(3),
        "arvalid": Out(1),
        "arready": In(1),
        "rdata": In(32),
        "rresp": In(2),
        "rvalid": In(1),
        "rready": Out(1),
    })
