// Stand-in for the engine in the tests of the simulator: copies `count` bursts of `beats` beats from
// `source` to `target`, reads first, then writes. It has the engine's ports.
//
// Registers: 0x00 ID; 0x10/14 source; 0x18/1c target; 0x20 beats; 0x24 count; 0x28 fault; 0x2c start
// (write), busy (read); 0x30 clear irq; 0x40... the cycle numbers below; elsewhere SLVERR.
// Faults: 1 changes ARADDR while it waits; 2 fails an assertion; 3 never ends.

module copier #(
    parameter int WIDTH = `DATA_WIDTH
) (
    input  logic aclk, aresetn,
    output logic irq,
    output logic [3:0] m_axi_arid,
    output logic [63:0] m_axi_araddr,
    output logic [7:0] m_axi_arlen,
    output logic [2:0] m_axi_arsize,
    output logic [1:0] m_axi_arburst,
    output logic m_axi_arlock,
    output logic [3:0] m_axi_arcache,
    output logic [2:0] m_axi_arprot,
    output logic [3:0] m_axi_arqos,
    output logic m_axi_arvalid,
    input  logic m_axi_arready,
    input  logic [3:0] m_axi_rid,
    input  logic [WIDTH-1:0] m_axi_rdata,
    input  logic [1:0] m_axi_rresp,
    input  logic m_axi_rlast, m_axi_rvalid,
    output logic m_axi_rready,
    output logic [3:0] m_axi_awid,
    output logic [63:0] m_axi_awaddr,
    output logic [7:0] m_axi_awlen,
    output logic [2:0] m_axi_awsize,
    output logic [1:0] m_axi_awburst,
    output logic m_axi_awlock,
    output logic [3:0] m_axi_awcache,
    output logic [2:0] m_axi_awprot,
    output logic [3:0] m_axi_awqos,
    output logic m_axi_awvalid,
    input  logic m_axi_awready,
    output logic [WIDTH-1:0] m_axi_wdata,
    output logic [WIDTH/8-1:0] m_axi_wstrb,
    output logic m_axi_wlast, m_axi_wvalid,
    input  logic m_axi_wready,
    input  logic [3:0] m_axi_bid,
    input  logic [1:0] m_axi_bresp,
    input  logic m_axi_bvalid,
    output logic m_axi_bready,
    input  logic [11:0] s_axil_awaddr,
    input  logic [2:0] s_axil_awprot,
    input  logic s_axil_awvalid,
    output logic s_axil_awready,
    input  logic [31:0] s_axil_wdata,
    input  logic [3:0] s_axil_wstrb,
    input  logic s_axil_wvalid,
    output logic s_axil_wready,
    output logic [1:0] s_axil_bresp,
    output logic s_axil_bvalid,
    input  logic s_axil_bready,
    input  logic [11:0] s_axil_araddr,
    input  logic [2:0] s_axil_arprot,
    input  logic s_axil_arvalid,
    output logic s_axil_arready,
    output logic [31:0] s_axil_rdata,
    output logic [1:0] s_axil_rresp,
    output logic s_axil_rvalid,
    input  logic s_axil_rready
);
  localparam int BYTES = WIDTH / 8;

  logic [63:0] source, target;
  logic [31:0] beats, count, fault, cycle, responses;
  logic        reading, writing, done;
  logic [31:0] n_ar, n_r, n_aw, n_w, n_b;
  logic [31:0] first_ar, first_r, last_r, first_aw, first_wlast, first_b, last_b;
  logic [WIDTH-1:0] buffer [4096];

  wire [31:0] total = beats * count;

  assign irq = done;
  assign {m_axi_arid, m_axi_awid} = {4'd5, 4'd0};
  assign {m_axi_arlock, m_axi_arcache, m_axi_arprot, m_axi_arqos} = 0;
  assign {m_axi_awlock, m_axi_awcache, m_axi_awprot, m_axi_awqos} = 0;
  assign {m_axi_arsize, m_axi_awsize} = {2{3'($clog2(BYTES))}};
  assign {m_axi_arburst, m_axi_awburst} = 4'b0101;
  assign {m_axi_arlen, m_axi_awlen} = {2{8'(beats - 1)}};
  assign m_axi_arvalid = reading && n_ar < count;
  assign m_axi_araddr = source + 64'(n_ar * beats * BYTES)
                        + 64'(fault == 1 && m_axi_arvalid && cycle[0] ? BYTES : 0);
  assign m_axi_awvalid = writing && n_aw < count;
  assign m_axi_awaddr = target + 64'(n_aw * beats * BYTES);
  assign m_axi_wvalid = writing && n_w < total;
  assign m_axi_wdata = buffer[n_w[11:0]];
  assign m_axi_wstrb = '1;
  assign m_axi_wlast = n_w % beats == beats - 1;
  assign m_axi_rready = 1;
  assign m_axi_bready = 1;

  assign s_axil_awready = s_axil_awvalid && s_axil_wvalid && !s_axil_bvalid;
  assign s_axil_wready = s_axil_awready;
  assign s_axil_arready = !s_axil_rvalid;

  always @(posedge aclk) begin
    cycle <= cycle + 1;
    if (m_axi_arvalid && m_axi_arready) begin
      n_ar <= n_ar + 1;
      if (n_ar == 0) first_ar <= cycle;
    end
    if (m_axi_rvalid) begin
      buffer[n_r[11:0]] <= m_axi_rdata;
      responses <= responses | m_axi_rresp;
      n_r <= n_r + 1;
      if (n_r == 0) first_r <= cycle;
      last_r <= cycle;
      if (n_r == total - 1) {reading, writing} <= 2'b01;
    end
    if (m_axi_awvalid && m_axi_awready) begin
      n_aw <= n_aw + 1;
      if (n_aw == 0) first_aw <= cycle;
    end
    if (m_axi_wvalid && m_axi_wready) begin
      n_w <= n_w + 1;
      if (n_w == beats - 1) first_wlast <= cycle;
    end
    if (m_axi_bvalid) begin
      responses <= responses | m_axi_bresp;
      n_b <= n_b + 1;
      if (n_b == 0) first_b <= cycle;
      last_b <= cycle;
      if (n_b == count - 1 && fault != 3) {writing, done} <= 2'b01;
    end

    if (s_axil_bready) s_axil_bvalid <= 0;
    if (s_axil_awready) begin
      s_axil_bvalid <= 1;
      s_axil_bresp <= 0;
      case (s_axil_awaddr)
        12'h10: source[31:0] <= s_axil_wdata;
        12'h14: source[63:32] <= s_axil_wdata;
        12'h18: target[31:0] <= s_axil_wdata;
        12'h1c: target[63:32] <= s_axil_wdata;
        12'h20: beats <= s_axil_wdata;
        12'h24: count <= s_axil_wdata;
        12'h28: fault <= s_axil_wdata;
        12'h2c: begin
          {reading, writing, done} <= 3'b100;
          {n_ar, n_r, n_aw, n_w, n_b, responses} <= 0;
          assert (fault != 2);
        end
        12'h30: done <= 0;
        default: s_axil_bresp <= 2;
      endcase
    end
    if (s_axil_rready) s_axil_rvalid <= 0;
    if (s_axil_arvalid && s_axil_arready) begin
      s_axil_rvalid <= 1;
      s_axil_rresp <= 0;
      case (s_axil_araddr)
        12'h00: s_axil_rdata <= 32'h54534554;
        12'h10: s_axil_rdata <= source[31:0];
        12'h14: s_axil_rdata <= source[63:32];
        12'h2c: s_axil_rdata <= 32'(reading || writing);
        12'h40: s_axil_rdata <= first_ar;
        12'h44: s_axil_rdata <= first_r;
        12'h48: s_axil_rdata <= last_r;
        12'h4c: s_axil_rdata <= first_aw;
        12'h50: s_axil_rdata <= first_wlast;
        12'h54: s_axil_rdata <= first_b;
        12'h58: s_axil_rdata <= last_b;
        12'h5c: s_axil_rdata <= responses;
        default: begin
          s_axil_rdata <= 0;
          s_axil_rresp <= 2;
        end
      endcase
    end

    if (!aresetn) begin
      {reading, writing, done, s_axil_bvalid, s_axil_rvalid} <= 0;
      {source, target, beats, count, fault, cycle, responses} <= 0;
      {n_ar, n_r, n_aw, n_w, n_b} <= 0;
    end
  end
endmodule
