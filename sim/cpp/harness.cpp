// The simulated device: an instance of sim/hdl/tb.sv that a Python process owns, with its clock,
// its reset and its register port.

#include <memory>

#include "Vtop.h"
#include "axi_memory.h"
#include "verilated.h"
#if VM_TRACE
#include "verilated_vcd_c.h"
#endif

using namespace tcast;

namespace {

struct Simulator {
  Bench bench;
  VerilatedContext context;
  std::unique_ptr<Vtop> top;
#if VM_TRACE
  std::unique_ptr<VerilatedVcdC> waves;
#endif
  uint64_t cycles = 0;

  void dump() {
#if VM_TRACE
    if (waves) waves->dump(context.time());
#endif
  }

  // One clock cycle, which ends with a rising edge. Inputs set before it are sampled by that edge.
  void cycle() {
    top->aclk = 0;
    top->eval();
    dump();
    context.timeInc(1);
    top->aclk = 1;
    top->eval();
    dump();
    context.timeInc(1);
    ++cycles;
  }

  void idle_registers() {
    top->s_axil_awvalid = top->s_axil_wvalid = top->s_axil_arvalid = 0;
    top->s_axil_bready = top->s_axil_rready = 0;
  }

  // Resets for `n` cycles. tb's flip-flop takes one before them, in which the design goes on; what it
  // breaks there does not count.
  void reset(int n) {
    idle_registers();
    top->aresetn = 0;
    size_t known = bench.violations.size();
    cycle();
    bench.violations.resize(known);
    while (--n > 0) cycle();
    top->aresetn = 1;
    cycle();
  }
};

// Makes its bench and its context the thread's for the time of a call. Verilator's destructors take
// the thread's context too: without this, the one of a simulation that was closed before.
struct Entered {
  explicit Entered(Simulator *simulator) {
    set_current_bench(&simulator->bench);
    Verilated::threadContextp(&simulator->context);
  }
  ~Entered() { set_current_bench(nullptr); }
};

}  // namespace

// Without these, an assertion in the design would end the Python process.
extern "C" void tb_violation(const char *message);

void vl_stop(const char *file, int line, const char *) VL_MT_UNSAFE {
  tb_violation((std::string("assertion of the design failed: ") + file + ":" +
                std::to_string(line)).c_str());
}
void vl_finish(const char *file, int line, const char *) VL_MT_UNSAFE {
  tb_violation((std::string("$finish of the design: ") + file + ":" + std::to_string(line)).c_str());
}
void vl_fatal(const char *file, int line, const char *, const char *message) VL_MT_UNSAFE {
  tb_violation((std::string(message) + ": " + file + ":" + std::to_string(line)).c_str());
}

extern "C" {

// `seed` is for values that the design leaves unset; `waves` a file name or null.
void *sim_open(uint64_t seed, const char *waves) {
  auto simulator = std::make_unique<Simulator>();
  Entered entered(simulator.get());
  simulator->context.randSeed(static_cast<int>(seed % 0x7fffffff) + 1);
  simulator->context.randReset(2);
#if VM_TRACE
  if (waves) simulator->context.traceEverOn(true);
#else
  if (waves) return nullptr;
#endif
  simulator->top = std::make_unique<Vtop>(&simulator->context, "tb");
#if VM_TRACE
  if (waves) {
    simulator->waves = std::make_unique<VerilatedVcdC>();
    simulator->top->trace(simulator->waves.get(), 99);
    simulator->waves->open(waves);
    if (!simulator->waves->isOpen()) return nullptr;
  }
#endif
  simulator->top->aclk = 0;
  simulator->reset(4);
  return simulator.release();
}

void sim_close(void *handle) {
  std::unique_ptr<Simulator> simulator(static_cast<Simulator *>(handle));
  Entered entered(simulator.get());
#if VM_TRACE
  if (simulator->waves) simulator->waves->close();
#endif
  simulator->top->final();
  simulator->top.reset();
}

void *sim_bench(void *handle) { return &static_cast<Simulator *>(handle)->bench; }
uint64_t sim_cycles(void *handle) { return static_cast<Simulator *>(handle)->cycles; }
int sim_irq(void *handle) { return static_cast<Simulator *>(handle)->top->irq; }

void sim_reset(void *handle, int cycles) {
  Simulator *simulator = static_cast<Simulator *>(handle);
  Entered entered(simulator);
  simulator->reset(cycles);
}

// Runs until `cycles` have passed, a checker reports, or (with `until_irq`) irq is high. Returns the
// number of cycles run.
uint64_t sim_run(void *handle, uint64_t cycles, int until_irq) {
  Simulator *simulator = static_cast<Simulator *>(handle);
  Entered entered(simulator);
  size_t known = simulator->bench.violations.size();
  uint64_t n = 0;
  while (n < cycles && !(until_irq && simulator->top->irq) &&
         simulator->bench.violations.size() == known) {
    simulator->cycle();
    ++n;
  }
  return n;
}

// Writes or reads one register while the clock runs. Returns the response, or -1 if none came within
// `limit` cycles.
int sim_write_register(void *handle, uint32_t address, uint32_t data, int strobe, uint64_t limit) {
  Simulator *simulator = static_cast<Simulator *>(handle);
  Entered entered(simulator);
  Vtop &top = *simulator->top;
  top.s_axil_awaddr = address;
  top.s_axil_awprot = 0;
  top.s_axil_wdata = data;
  top.s_axil_wstrb = strobe;
  top.s_axil_awvalid = top.s_axil_wvalid = top.s_axil_bready = 1;
  int response = -1;
  for (uint64_t n = 0; n < limit && response < 0; ++n) {
    top.eval();  // the ready pins may depend on what was just driven
    bool aw = top.s_axil_awready, w = top.s_axil_wready;
    bool b = top.s_axil_bvalid;
    int bresp = top.s_axil_bresp;
    simulator->cycle();
    if (aw) top.s_axil_awvalid = 0;
    if (w) top.s_axil_wvalid = 0;
    if (b) response = bresp;
  }
  simulator->idle_registers();
  return response;
}

int sim_read_register(void *handle, uint32_t address, uint32_t *data, uint64_t limit) {
  Simulator *simulator = static_cast<Simulator *>(handle);
  Entered entered(simulator);
  Vtop &top = *simulator->top;
  top.s_axil_araddr = address;
  top.s_axil_arprot = 0;
  top.s_axil_arvalid = top.s_axil_rready = 1;
  int response = -1;
  for (uint64_t n = 0; n < limit && response < 0; ++n) {
    top.eval();
    bool ar = top.s_axil_arready;
    bool r = top.s_axil_rvalid;
    int rresp = top.s_axil_rresp;
    uint32_t rdata = top.s_axil_rdata;
    simulator->cycle();
    if (ar) top.s_axil_arvalid = 0;
    if (r) {
      response = rresp;
      *data = rdata;
    }
  }
  simulator->idle_registers();
  return response;
}

}  // extern "C"
