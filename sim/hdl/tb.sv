// Testbench: the engine, its protocol checkers, and a memory (sim/cpp/axi_memory.h, called once per
// clock edge). The clock, the reset and s_axil come from outside: from sim/cpp/harness.cpp, or from
// cocotb.
//
// Macros: ENGINE, the engine's module; DATA_WIDTH, the width of its m_axi in bits.

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

  import "DPI-C" function chandle tb_open(input int beat_bytes);
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

  checked_engine checked (
      .aclk, .aresetn, .irq,
      .m_axi_arid, .m_axi_araddr, .m_axi_arlen, .m_axi_arsize, .m_axi_arburst, .m_axi_arlock,
      .m_axi_arcache, .m_axi_arprot, .m_axi_arqos, .m_axi_arvalid, .m_axi_arready,
      .m_axi_rid, .m_axi_rdata, .m_axi_rresp, .m_axi_rlast, .m_axi_rvalid, .m_axi_rready,
      .m_axi_awid, .m_axi_awaddr, .m_axi_awlen, .m_axi_awsize, .m_axi_awburst, .m_axi_awlock,
      .m_axi_awcache, .m_axi_awprot, .m_axi_awqos, .m_axi_awvalid, .m_axi_awready,
      .m_axi_wdata, .m_axi_wstrb, .m_axi_wlast, .m_axi_wvalid, .m_axi_wready,
      .m_axi_bid, .m_axi_bresp, .m_axi_bvalid, .m_axi_bready,
      .s_axil_awaddr, .s_axil_awprot, .s_axil_awvalid, .s_axil_awready,
      .s_axil_wdata, .s_axil_wstrb, .s_axil_wvalid, .s_axil_wready,
      .s_axil_bresp, .s_axil_bvalid, .s_axil_bready,
      .s_axil_araddr, .s_axil_arprot, .s_axil_arvalid, .s_axil_arready,
      .s_axil_rdata, .s_axil_rresp, .s_axil_rvalid, .s_axil_rready
  );

  // ---- memory

  chandle bench;
  initial bench = tb_open(WIDTH / 8);

  bit               n_arready, n_rvalid, n_rlast, n_awready, n_wready, n_bvalid;
  byte unsigned     n_rid, n_rresp, n_bid, n_bresp;
  bit [WIDTH-1:0]   n_rdata;

  initial begin
    m_axi_arready = 0;
    m_axi_rvalid = 0;
    m_axi_awready = 0;
    m_axi_wready = 0;
    m_axi_bvalid = 0;
  end

  always @(posedge aclk) begin
    tb_tick(bench, aresetn,
            m_axi_arvalid, {4'b0, m_axi_arid}, m_axi_araddr, m_axi_arlen, m_axi_rready,
            m_axi_awvalid, {4'b0, m_axi_awid}, m_axi_awaddr, m_axi_awlen,
            m_axi_wvalid, m_axi_wdata, m_axi_wstrb, m_axi_wlast, m_axi_bready,
            n_arready, n_rvalid, n_rid, n_rdata, n_rresp, n_rlast,
            n_awready, n_wready, n_bvalid, n_bid, n_bresp);
    m_axi_arready <= n_arready;
    m_axi_rvalid <= n_rvalid;
    m_axi_rid <= n_rid[3:0];
    m_axi_rdata <= n_rdata;
    m_axi_rresp <= n_rresp[1:0];
    m_axi_rlast <= n_rlast;
    m_axi_awready <= n_awready;
    m_axi_wready <= n_wready;
    m_axi_bvalid <= n_bvalid;
    m_axi_bid <= n_bid[3:0];
    m_axi_bresp <= n_bresp[1:0];
  end
endmodule
