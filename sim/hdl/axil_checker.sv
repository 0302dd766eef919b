// AXI4-Lite protocol checker, both sides of one port: valid and payload stay until ready, responses
// follow their requests, one for one, and within LIMIT cycles.
//
// A broken rule is reported by tb_violation(); simulation goes on.

module axil_checker #(
    parameter int LIMIT = 64
) (
    input logic        aclk,
    input logic        aresetn,
    input logic [11:0] awaddr,
    input logic [2:0]  awprot,
    input logic        awvalid,
    input logic        awready,
    input logic [31:0] wdata,
    input logic [3:0]  wstrb,
    input logic        wvalid,
    input logic        wready,
    input logic [1:0]  bresp,
    input logic        bvalid,
    input logic        bready,
    input logic [11:0] araddr,
    input logic [2:0]  arprot,
    input logic        arvalid,
    input logic        arready,
    input logic [31:0] rdata,
    input logic [1:0]  rresp,
    input logic        rvalid,
    input logic        rready
);
  import "DPI-C" context function void tb_violation(input string message);

  logic        was_reset = 1;
  logic        ar_waits, aw_waits, w_waits, r_waits, b_waits;
  logic [14:0] ar_was, aw_was;
  logic [35:0] w_was;
  logic [33:0] r_was;
  logic [1:0]  b_was;
  // Requests without their response.
  logic [7:0]  open_ar, open_aw, open_w;
  // Cycles for which the subordinate has owed something.
  logic [15:0] owes_read, owes_write;

  always @(posedge aclk) begin
    if (!aresetn) begin
      was_reset <= 1;
      {ar_waits, aw_waits, w_waits, r_waits, b_waits} <= 0;
      open_ar <= 0;
      open_aw <= 0;
      open_w <= 0;
      owes_read <= 0;
      owes_write <= 0;
      if (was_reset) begin
        if (rvalid) tb_violation("s_axil RVALID is high in reset");
        if (bvalid) tb_violation("s_axil BVALID is high in reset");
      end
    end else begin
      was_reset <= 0;
      ar_waits <= arvalid && !arready;
      aw_waits <= awvalid && !awready;
      w_waits <= wvalid && !wready;
      r_waits <= rvalid && !rready;
      b_waits <= bvalid && !bready;
      ar_was <= {araddr, arprot};
      aw_was <= {awaddr, awprot};
      w_was <= {wdata, wstrb};
      r_was <= {rdata, rresp};
      b_was <= bresp;
      if (ar_waits && (!arvalid || {araddr, arprot} != ar_was))
        tb_violation("s_axil AR did not stay until ARREADY");
      if (aw_waits && (!awvalid || {awaddr, awprot} != aw_was))
        tb_violation("s_axil AW did not stay until AWREADY");
      if (w_waits && (!wvalid || {wdata, wstrb} != w_was))
        tb_violation("s_axil W did not stay until WREADY");
      if (r_waits && (!rvalid || {rdata, rresp} != r_was))
        tb_violation("s_axil R did not stay until RREADY");
      if (b_waits && (!bvalid || bresp != b_was))
        tb_violation("s_axil B did not stay until BREADY");

      // The handshakes of this cycle are no excuse for a response in this cycle.
      if (rvalid && !r_waits && open_ar == 0) tb_violation("s_axil R without an AR");
      if (bvalid && !b_waits && (open_aw == 0 || open_w == 0))
        tb_violation("s_axil B before its AW and W");
      if (rvalid && rresp == 2'b01) tb_violation("s_axil RRESP is EXOKAY");
      if (bvalid && bresp == 2'b01) tb_violation("s_axil BRESP is EXOKAY");
      open_ar <= open_ar + {7'b0, arvalid && arready} - {7'b0, rvalid && rready};
      open_aw <= open_aw + {7'b0, awvalid && awready} - {7'b0, bvalid && bready};
      open_w <= open_w + {7'b0, wvalid && wready} - {7'b0, bvalid && bready};

      // A request that waits, or a response that is due. A manager may hold AW or W back.
      owes_read <= (arvalid && !arready || open_ar != 0) && !rvalid ? owes_read + 1 : 0;
      owes_write <= (open_aw != 0 || awvalid) && (open_w != 0 || wvalid) && !bvalid
                    ? owes_write + 1 : 0;
      if (owes_read == LIMIT) tb_violation("s_axil does not answer a read");
      if (owes_write == LIMIT) tb_violation("s_axil does not answer a write");
    end
  end
endmodule
