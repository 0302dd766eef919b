// AXI4 protocol checker, both sides of one port. Rules are of AMBA IHI 0022, and these of the engine:
// bursts are INCR of whole, aligned beats; R and B are accepted at once (room for them is reserved
// before the request); strobes are all ones but in what the cast unit writes, where they cover whole
// words of 32 bits; write responses come in the order of the requests.
// Read bursts of different IDs may overtake each other, beat by beat.
//
// A broken rule is reported by tb_violation(); simulation goes on.

module axi_checker #(
    parameter int WIDTH = 512,
    parameter bit PARTIAL = 0  // the cast unit writes here
) (
    input logic               aclk,
    input logic               aresetn,
    input logic [3:0]         arid,
    input logic [63:0]        araddr,
    input logic [7:0]         arlen,
    input logic [2:0]         arsize,
    input logic [1:0]         arburst,
    input logic               arlock,
    input logic [3:0]         arcache,
    input logic [2:0]         arprot,
    input logic [3:0]         arqos,
    input logic               arvalid,
    input logic               arready,
    input logic [3:0]         rid,
    input logic [WIDTH-1:0]   rdata,
    input logic [1:0]         rresp,
    input logic               rlast,
    input logic               rvalid,
    input logic               rready,
    input logic [3:0]         awid,
    input logic [63:0]        awaddr,
    input logic [7:0]         awlen,
    input logic [2:0]         awsize,
    input logic [1:0]         awburst,
    input logic               awlock,
    input logic [3:0]         awcache,
    input logic [2:0]         awprot,
    input logic [3:0]         awqos,
    input logic               awvalid,
    input logic               awready,
    input logic [WIDTH-1:0]   wdata,
    input logic [WIDTH/8-1:0] wstrb,
    input logic               wlast,
    input logic               wvalid,
    input logic               wready,
    input logic [3:0]         bid,
    input logic [1:0]         bresp,
    input logic               bvalid,
    input logic               bready
);
  import "DPI-C" context function void tb_violation(input string message);

  localparam int SIZE = $clog2(WIDTH / 8);

  function automatic bit whole_words(logic [WIDTH/8-1:0] strobe);
    for (int i = 0; i < WIDTH / 32; i++)
      if (strobe[4*i+:4] != 4'b0000 && strobe[4*i+:4] != 4'b1111) return 0;
    return 1;
  endfunction

  localparam int DEPTH_LOG2 = 13;  // more bursts of a kind in flight than any memory here takes

  // ---- one cycle ago

  logic               was_reset = 1;  // the last edge was in reset
  logic               ar_waits, aw_waits, w_waits, r_waits, b_waits;
  logic [92:0]        ar_was, aw_was;
  logic [WIDTH-1:0]   wdata_was, rdata_was;
  logic [WIDTH/8-1:0] wstrb_was;
  logic               wlast_was;
  logic [6:0]         r_was;
  logic [5:0]         b_was;

  wire [92:0] ar = {arid, araddr, arlen, arsize, arburst, arlock, arcache, arprot, arqos};
  wire [92:0] aw = {awid, awaddr, awlen, awsize, awburst, awlock, awcache, awprot, awqos};

  // ---- what is in flight

  // Read bursts, by ID: a ring of lengths.
  logic [7:0]            r_length [16][1 << DEPTH_LOG2];
  logic [DEPTH_LOG2-1:0] r_head [16], r_tail [16];
  logic [7:0]            r_beat [16];

  // Write bursts: the n-th AW goes with the n-th WLAST and, by ID, with its n-th B.
  logic [7:0]            aw_length [1 << DEPTH_LOG2], w_length [1 << DEPTH_LOG2];
  logic [3:0]            aw_id [1 << DEPTH_LOG2];
  logic [DEPTH_LOG2-1:0] n_aw, n_w, n_b;
  logic [7:0]            w_beat;

  function automatic void check_address(input logic [63:0] address, input logic [7:0] length,
                                        input logic [2:0] size, input logic [1:0] burst,
                                        input logic lock, input bit write);
    if (burst != 2'b01)
      tb_violation(write ? "AWBURST is not INCR" : "ARBURST is not INCR");
    if (size != SIZE[2:0])
      tb_violation(write ? "AWSIZE is not the bus width" : "ARSIZE is not the bus width");
    if (lock)
      tb_violation(write ? "AWLOCK is set" : "ARLOCK is set");
    if (address[SIZE-1:0] != 0)
      tb_violation(write ? "AWADDR is not aligned to the beat" : "ARADDR is not aligned to the beat");
    if ({1'b0, address[11:0]} + (({5'b0, length} + 13'd1) << SIZE) > 13'h1000)
      tb_violation(write ? "a write burst crosses 4 KiB" : "a read burst crosses 4 KiB");
  endfunction

  always @(posedge aclk) begin
    if (!aresetn) begin
      was_reset <= 1;
      {ar_waits, aw_waits, w_waits, r_waits, b_waits} <= 0;
      if (was_reset) begin  // the reset is seen by synchronous logic after its first edge
        if (arvalid) tb_violation("ARVALID is high in reset");
        if (awvalid) tb_violation("AWVALID is high in reset");
        if (wvalid) tb_violation("WVALID is high in reset");
        if (rvalid) tb_violation("RVALID is high in reset");
        if (bvalid) tb_violation("BVALID is high in reset");
      end
      for (int i = 0; i < 16; i++) begin
        r_head[i] <= 0;
        r_tail[i] <= 0;
        r_beat[i] <= 0;
      end
      n_aw <= 0;
      n_w <= 0;
      n_b <= 0;
      w_beat <= 0;
    end else begin
      was_reset <= 0;

      // ---- valid and payload stay until the handshake
      if (was_reset) begin
        if (arvalid) tb_violation("ARVALID is high at the first edge after reset");
        if (awvalid) tb_violation("AWVALID is high at the first edge after reset");
        if (wvalid) tb_violation("WVALID is high at the first edge after reset");
      end
      ar_waits <= arvalid && !arready;
      aw_waits <= awvalid && !awready;
      w_waits <= wvalid && !wready;
      r_waits <= rvalid && !rready;
      b_waits <= bvalid && !bready;
      if (arvalid && !arready) ar_was <= ar;
      if (awvalid && !awready) aw_was <= aw;
      if (wvalid && !wready) begin
        wdata_was <= wdata;
        wstrb_was <= wstrb;
        wlast_was <= wlast;
      end
      if (rvalid && !rready) begin
        rdata_was <= rdata;
        r_was <= {rid, rresp, rlast};
      end
      if (bvalid && !bready) b_was <= {bid, bresp};
      if (ar_waits) begin
        if (!arvalid) tb_violation("ARVALID fell before ARREADY");
        else if (ar != ar_was) tb_violation("the AR payload changed before ARREADY");
      end
      if (aw_waits) begin
        if (!awvalid) tb_violation("AWVALID fell before AWREADY");
        else if (aw != aw_was) tb_violation("the AW payload changed before AWREADY");
      end
      if (w_waits) begin
        if (!wvalid) tb_violation("WVALID fell before WREADY");
        else if (wdata != wdata_was || wstrb != wstrb_was || wlast != wlast_was)
          tb_violation("the W payload changed before WREADY");
      end
      if (r_waits) begin
        if (!rvalid) tb_violation("RVALID fell before RREADY");
        else if (rdata != rdata_was || {rid, rresp, rlast} != r_was)
          tb_violation("the R payload changed before RREADY");
      end
      if (b_waits) begin
        if (!bvalid) tb_violation("BVALID fell before BREADY");
        else if ({bid, bresp} != b_was) tb_violation("the B payload changed before BREADY");
      end

      // ---- the manager takes what it asked for
      if (rvalid && !rready) tb_violation("RREADY is low while RVALID is high");
      if (bvalid && !bready) tb_violation("BREADY is low while BVALID is high");

      // ---- read bursts
      if (arvalid && !ar_waits) check_address(araddr, arlen, arsize, arburst, arlock, 0);
      if (arvalid && arready) begin
        r_length[arid][r_tail[arid]] <= arlen;
        r_tail[arid] <= r_tail[arid] + 1;
      end
      if (rvalid && !r_waits) begin
        if (r_head[rid] == r_tail[rid]) tb_violation("R without a read burst of its ID");
        else if (rlast != (r_beat[rid] == r_length[rid][r_head[rid]]))
          tb_violation("RLAST is not at the last beat");
        if (rresp == 2'b01) tb_violation("RRESP is EXOKAY");
      end
      if (rvalid && rready) begin
        r_beat[rid] <= rlast ? 0 : r_beat[rid] + 1;
        if (rlast) r_head[rid] <= r_head[rid] + 1;
      end

      // ---- write bursts
      if (awvalid && !aw_waits) check_address(awaddr, awlen, awsize, awburst, awlock, 1);
      if (awvalid && awready) begin
        aw_length[n_aw] <= awlen;
        aw_id[n_aw] <= awid;
        n_aw <= n_aw + 1;
        // Its data may have come before it, whole or in part.
        if ($signed(n_w - n_aw) > 0) begin
          if (w_length[n_aw] != awlen) tb_violation("WLAST was not at the last beat of its AWLEN");
        end else if (n_aw == n_w && (w_beat > awlen ||
                     wvalid && wready && wlast != (w_beat == awlen))) begin
          tb_violation("WLAST was not at the last beat of its AWLEN");
        end
      end
      if (wvalid && wready) begin
        if (!PARTIAL && wstrb != '1) tb_violation("WSTRB is not all ones");
        if (PARTIAL && (wstrb == '0 || !whole_words(wstrb)))
          tb_violation("WSTRB does not select whole words");
        if ($signed(n_aw - n_w) > 0) begin
          if (wlast != (w_beat == aw_length[n_w])) tb_violation("WLAST is not at the last beat");
        end else if (!wlast && w_beat == 8'hff) begin
          tb_violation("a W burst is longer than 256 beats");
        end
        w_beat <= wlast ? 0 : w_beat + 1;
        if (wlast) begin
          w_length[n_w] <= w_beat;
          n_w <= n_w + 1;
        end
      end
      // The handshakes of this cycle are no excuse for a B in this cycle.
      if (bvalid && !b_waits) begin
        if (n_b == n_aw) tb_violation("B without an AW");
        else if (n_b == n_w || $signed(n_w - n_b) < 0) tb_violation("B before its WLAST");
        else if (bid != aw_id[n_b]) tb_violation("BID is not that of the oldest write burst");
        if (bresp == 2'b01) tb_violation("BRESP is EXOKAY");
      end
      if (bvalid && bready) n_b <= n_b + 1;
    end
  end
endmodule
