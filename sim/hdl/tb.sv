// Testbench: the engine, its protocol checkers, and a memory (sim/cpp/axi_memory.h, called once per
// clock edge). The clock, the reset and s_axil come from outside: from sim/cpp/harness.cpp, or from
// cocotb.
//
// Macros: ENGINE, the engine's module; DATA_WIDTH, the width of its m_axi in bits;
// CAST_PORT, defined where it has an m_axi_cast.

module tb (
    input  logic        aclk,
    input  logic        aresetn,
    output logic        irq,
    input  logic [11:0] s_axil_awaddr,
    input  logic [2:0]  s_axil_awprot,
    input  logic        s_axil_awvalid,
    output logic        s_axil_awready,
    input  logic [31:0] s_axil_wdata,
    input  logic [3:0]  s_axil_wstrb,
    input  logic        s_axil_wvalid,
    output logic        s_axil_wready,
    output logic [1:0]  s_axil_bresp,
    output logic        s_axil_bvalid,
    input  logic        s_axil_bready,
    input  logic [11:0] s_axil_araddr,
    input  logic [2:0]  s_axil_arprot,
    input  logic        s_axil_arvalid,
    output logic        s_axil_arready,
    output logic [31:0] s_axil_rdata,
    output logic [1:0]  s_axil_rresp,
    output logic        s_axil_rvalid,
    input  logic        s_axil_rready
);
  localparam int WIDTH = `DATA_WIDTH;

  // Through a flip-flop, as in a chip. Verilator evaluates what depends on an input without one, here
  // every reset, twice a cycle more: a fifth of all time.
  logic resetn = 0;
  always_ff @(posedge aclk) resetn <= aresetn;

  logic [3:0]         m_axi_arid, m_axi_awid, m_axi_rid, m_axi_bid;
  logic [63:0]        m_axi_araddr, m_axi_awaddr;
  logic [7:0]         m_axi_arlen, m_axi_awlen;
  logic [2:0]         m_axi_arsize, m_axi_awsize, m_axi_arprot, m_axi_awprot;
  logic [1:0]         m_axi_arburst, m_axi_awburst, m_axi_rresp, m_axi_bresp;
  logic               m_axi_arlock, m_axi_awlock;
  logic [3:0]         m_axi_arcache, m_axi_awcache, m_axi_arqos, m_axi_awqos;
  logic               m_axi_arvalid, m_axi_arready, m_axi_awvalid, m_axi_awready;
  logic [WIDTH-1:0]   m_axi_rdata, m_axi_wdata;
  logic [WIDTH/8-1:0] m_axi_wstrb;
  logic               m_axi_rlast, m_axi_rvalid, m_axi_rready;
  logic               m_axi_wlast, m_axi_wvalid, m_axi_wready;
  logic               m_axi_bvalid, m_axi_bready;

`ifdef CAST_PORT
  logic [3:0]         m_axi_cast_arid, m_axi_cast_awid, m_axi_cast_rid, m_axi_cast_bid;
  logic [63:0]        m_axi_cast_araddr, m_axi_cast_awaddr;
  logic [7:0]         m_axi_cast_arlen, m_axi_cast_awlen;
  logic [2:0]         m_axi_cast_arsize, m_axi_cast_awsize, m_axi_cast_arprot, m_axi_cast_awprot;
  logic [1:0]         m_axi_cast_arburst, m_axi_cast_awburst, m_axi_cast_rresp, m_axi_cast_bresp;
  logic               m_axi_cast_arlock, m_axi_cast_awlock;
  logic [3:0]         m_axi_cast_arcache, m_axi_cast_awcache, m_axi_cast_arqos, m_axi_cast_awqos;
  logic               m_axi_cast_arvalid, m_axi_cast_arready;
  logic               m_axi_cast_awvalid, m_axi_cast_awready;
  logic [WIDTH-1:0]   m_axi_cast_rdata, m_axi_cast_wdata;
  logic [WIDTH/8-1:0] m_axi_cast_wstrb;
  logic               m_axi_cast_rlast, m_axi_cast_rvalid, m_axi_cast_rready;
  logic               m_axi_cast_wlast, m_axi_cast_wvalid, m_axi_cast_wready;
  logic               m_axi_cast_bvalid, m_axi_cast_bready;
`endif

  checked_engine checked (
      .aclk, .aresetn(resetn), .irq,
      .m_axi_arid, .m_axi_araddr, .m_axi_arlen, .m_axi_arsize, .m_axi_arburst, .m_axi_arlock,
      .m_axi_arcache, .m_axi_arprot, .m_axi_arqos, .m_axi_arvalid, .m_axi_arready,
      .m_axi_rid, .m_axi_rdata, .m_axi_rresp, .m_axi_rlast, .m_axi_rvalid, .m_axi_rready,
      .m_axi_awid, .m_axi_awaddr, .m_axi_awlen, .m_axi_awsize, .m_axi_awburst, .m_axi_awlock,
      .m_axi_awcache, .m_axi_awprot, .m_axi_awqos, .m_axi_awvalid, .m_axi_awready,
      .m_axi_wdata, .m_axi_wstrb, .m_axi_wlast, .m_axi_wvalid, .m_axi_wready,
      .m_axi_bid, .m_axi_bresp, .m_axi_bvalid, .m_axi_bready,
`ifdef CAST_PORT
      .m_axi_cast_arid, .m_axi_cast_araddr, .m_axi_cast_arlen, .m_axi_cast_arsize,
      .m_axi_cast_arburst, .m_axi_cast_arlock, .m_axi_cast_arcache, .m_axi_cast_arprot,
      .m_axi_cast_arqos, .m_axi_cast_arvalid, .m_axi_cast_arready, .m_axi_cast_rid,
      .m_axi_cast_rdata, .m_axi_cast_rresp, .m_axi_cast_rlast, .m_axi_cast_rvalid,
      .m_axi_cast_rready, .m_axi_cast_awid, .m_axi_cast_awaddr, .m_axi_cast_awlen,
      .m_axi_cast_awsize, .m_axi_cast_awburst, .m_axi_cast_awlock, .m_axi_cast_awcache,
      .m_axi_cast_awprot, .m_axi_cast_awqos, .m_axi_cast_awvalid, .m_axi_cast_awready,
      .m_axi_cast_wdata, .m_axi_cast_wstrb, .m_axi_cast_wlast, .m_axi_cast_wvalid,
      .m_axi_cast_wready, .m_axi_cast_bid, .m_axi_cast_bresp, .m_axi_cast_bvalid,
      .m_axi_cast_bready,
`endif
      .s_axil_awaddr, .s_axil_awprot, .s_axil_awvalid, .s_axil_awready,
      .s_axil_wdata, .s_axil_wstrb, .s_axil_wvalid, .s_axil_wready,
      .s_axil_bresp, .s_axil_bvalid, .s_axil_bready,
      .s_axil_araddr, .s_axil_arprot, .s_axil_arvalid, .s_axil_arready,
      .s_axil_rdata, .s_axil_rresp, .s_axil_rvalid, .s_axil_rready
  );

  memory_port #(.WIDTH(WIDTH)) memory (
      .aclk, .aresetn(resetn),
      .arvalid(m_axi_arvalid), .arid(m_axi_arid), .araddr(m_axi_araddr), .arlen(m_axi_arlen),
      .rready(m_axi_rready), .awvalid(m_axi_awvalid), .awid(m_axi_awid), .awaddr(m_axi_awaddr),
      .awlen(m_axi_awlen), .wvalid(m_axi_wvalid), .wdata(m_axi_wdata), .wstrb(m_axi_wstrb),
      .wlast(m_axi_wlast), .bready(m_axi_bready), .arready(m_axi_arready), .rvalid(m_axi_rvalid),
      .rid(m_axi_rid), .rdata(m_axi_rdata), .rresp(m_axi_rresp), .rlast(m_axi_rlast),
      .awready(m_axi_awready), .wready(m_axi_wready), .bvalid(m_axi_bvalid), .bid(m_axi_bid),
      .bresp(m_axi_bresp)
  );
`ifdef CAST_PORT
  memory_port #(.WIDTH(WIDTH), .SECOND(1)) cast_memory (
      .aclk, .aresetn(resetn),
      .arvalid(m_axi_cast_arvalid), .arid(m_axi_cast_arid), .araddr(m_axi_cast_araddr),
      .arlen(m_axi_cast_arlen), .rready(m_axi_cast_rready), .awvalid(m_axi_cast_awvalid),
      .awid(m_axi_cast_awid), .awaddr(m_axi_cast_awaddr), .awlen(m_axi_cast_awlen),
      .wvalid(m_axi_cast_wvalid), .wdata(m_axi_cast_wdata), .wstrb(m_axi_cast_wstrb),
      .wlast(m_axi_cast_wlast), .bready(m_axi_cast_bready), .arready(m_axi_cast_arready),
      .rvalid(m_axi_cast_rvalid), .rid(m_axi_cast_rid), .rdata(m_axi_cast_rdata),
      .rresp(m_axi_cast_rresp), .rlast(m_axi_cast_rlast), .awready(m_axi_cast_awready),
      .wready(m_axi_cast_wready), .bvalid(m_axi_cast_bvalid), .bid(m_axi_cast_bid),
      .bresp(m_axi_cast_bresp)
  );
`endif
endmodule

// One port of the memory.
module memory_port #(
    parameter int WIDTH = 512,
    parameter bit SECOND = 0
) (
    input logic aclk,
    input logic aresetn,
    input logic arvalid,
    input logic [3:0] arid,
    input logic [63:0] araddr,
    input logic [7:0] arlen,
    input logic rready,
    input logic awvalid,
    input logic [3:0] awid,
    input logic [63:0] awaddr,
    input logic [7:0] awlen,
    input logic wvalid,
    input logic [WIDTH-1:0] wdata,
    input logic [WIDTH/8-1:0] wstrb,
    input logic wlast,
    input logic bready,
    output logic arready,
    output logic rvalid,
    output logic [3:0] rid,
    output logic [WIDTH-1:0] rdata,
    output logic [1:0] rresp,
    output logic rlast,
    output logic awready,
    output logic wready,
    output logic bvalid,
    output logic [3:0] bid,
    output logic [1:0] bresp
);
  import "DPI-C" function chandle tb_open(input int beat_bytes);
  import "DPI-C" function chandle tb_open_second(input int beat_bytes);
  import "DPI-C" function void tb_tick(
      input chandle bench, input bit aresetn,
      input bit arvalid, input byte unsigned arid, input longint unsigned araddr,
      input byte unsigned arlen, input bit rready,
      input bit awvalid, input byte unsigned awid, input longint unsigned awaddr,
      input byte unsigned awlen, input bit wvalid, input bit [WIDTH-1:0] wdata,
      input bit [WIDTH/8-1:0] wstrb, input bit wlast, input bit bready,
      output bit arready, output bit rvalid, output byte unsigned rid,
      output bit [WIDTH-1:0] rdata, output byte unsigned rresp, output bit rlast,
      output bit awready, output bit wready,
      output bit bvalid, output byte unsigned bid, output byte unsigned bresp);

  chandle bench;
  initial bench = SECOND ? tb_open_second(WIDTH / 8) : tb_open(WIDTH / 8);

  bit               n_arready, n_rvalid, n_rlast, n_awready, n_wready, n_bvalid;
  byte unsigned     n_rid, n_rresp, n_bid, n_bresp;
  bit [WIDTH-1:0]   n_rdata;

  initial begin
    arready = 0;
    rvalid = 0;
    awready = 0;
    wready = 0;
    bvalid = 0;
  end

  always @(posedge aclk) begin
    tb_tick(bench, aresetn,
            arvalid, {4'b0, arid}, araddr, arlen, rready,
            awvalid, {4'b0, awid}, awaddr, awlen,
            wvalid, wdata, wstrb, wlast, bready,
            n_arready, n_rvalid, n_rid, n_rdata, n_rresp, n_rlast,
            n_awready, n_wready, n_bvalid, n_bid, n_bresp);
    arready <= n_arready;
    rvalid <= n_rvalid;
    rid <= n_rid[3:0];
    rdata <= n_rdata;
    rresp <= n_rresp[1:0];
    rlast <= n_rlast;
    awready <= n_awready;
    wready <= n_wready;
    bvalid <= n_bvalid;
    bid <= n_bid[3:0];
    bresp <= n_bresp[1:0];
  end
endmodule
