// The two faces of the testbench's memory: DPI functions for sim/hdl/tb.sv, and a C interface for
// Python (ctypes), whether the simulation lives in a Python process or Python lives in it (cocotb).

#include <algorithm>
#include <cstdio>

#include "axi_memory.h"
#include "svdpi.h"

using namespace tcast;

namespace tcast {
static Bench only_bench;
static thread_local Bench *bench_of_thread = nullptr;
Bench *current_bench() { return bench_of_thread ? bench_of_thread : &only_bench; }
void set_current_bench(Bench *bench) { bench_of_thread = bench; }
}  // namespace tcast

namespace {
// Calls use(memory) for that of each port of a bench.
template <typename Use>
void each_memory(void *handle, Use use) {
  Bench *bench = static_cast<Bench *>(handle);
  use(bench->memory);
  if (bench->second) use(bench->second->memory);
}
}  // namespace

extern "C" {

// ---- DPI

void *tb_open(int beat_bytes) {
  Bench *bench = current_bench();
  bench->open(beat_bytes);
  return bench;
}

// What tb_tick() takes for the second port.
void *tb_open_second(int beat_bytes) {
  Bench *bench = current_bench();
  if (!bench->second) bench->second.reset(new Bench);
  bench->second->open(beat_bytes);
  return bench->second.get();
}

void tb_violation(const char *message) {
  Bench *bench = current_bench();
  if (bench->violations.size() >= 100) return;  // the first ones say what happened
  char text[400];
  std::snprintf(text, sizeof text, "cycle %llu: %s",
                static_cast<unsigned long long>(bench->memory.counters.cycles), message);
  bench->violations.push_back(text);
}

void tb_tick(void *handle, svBit aresetn,
             svBit arvalid, unsigned char arid, unsigned long long araddr, unsigned char arlen,
             svBit rready,
             svBit awvalid, unsigned char awid, unsigned long long awaddr, unsigned char awlen,
             svBit wvalid, const svBitVecVal *wdata, const svBitVecVal *wstrb, svBit wlast,
             svBit bready,
             svBit *arready, svBit *rvalid, unsigned char *rid, svBitVecVal *rdata,
             unsigned char *rresp, svBit *rlast, svBit *awready, svBit *wready,
             svBit *bvalid, unsigned char *bid, unsigned char *bresp) {
  Bench *bench = static_cast<Bench *>(handle);
  MemoryPins &pins = bench->pins;
  if (aresetn) {
    ManagerPins manager;
    manager.arvalid = arvalid;
    manager.arid = arid;
    manager.araddr = araddr;
    manager.arlen = arlen;
    manager.rready = rready;
    manager.awvalid = awvalid;
    manager.awid = awid;
    manager.awaddr = awaddr;
    manager.awlen = awlen;
    manager.wvalid = wvalid;
    manager.wdata = reinterpret_cast<const uint8_t *>(wdata);
    manager.wstrb = reinterpret_cast<const uint8_t *>(wstrb);
    manager.wlast = wlast;
    manager.bready = bready;
    bench->memory.tick(manager, pins, bench->rdata.data());
  } else {
    bench->memory.reset(pins);
  }
  *arready = pins.arready;
  *rvalid = pins.rvalid;
  *rid = pins.rid;
  std::memcpy(rdata, bench->rdata.data(), bench->rdata.size());
  *rresp = pins.rresp;
  *rlast = pins.rlast;
  *awready = pins.awready;
  *wready = pins.wready;
  *bvalid = pins.bvalid;
  *bid = pins.bid;
  *bresp = pins.bresp;
}

// ---- C interface. `handle` is a Bench.

void *bench_current() { return current_bench(); }

// A memory on its own, for who calls tb_tick() himself.
void *bench_open(int beat_bytes) {
  Bench *bench = new Bench;
  bench->open(beat_bytes);
  return bench;
}

void bench_close(void *handle) { delete static_cast<Bench *>(handle); }

int bench_map(void *handle, uint64_t base, uint64_t bytes, void *data, int writable) {
  bool mapped = true;
  each_memory(handle, [&](AxiMemory &memory) {
    mapped &= memory.map(base, bytes, static_cast<uint8_t *>(data), writable);
  });
  return mapped;
}

int bench_unmap(void *handle, uint64_t base) {
  bool unmapped = true;
  each_memory(handle, [&](AxiMemory &memory) { unmapped &= memory.unmap(base); });
  return unmapped;
}

// Forgets all regions and error ranges, and sets every option to its default.
void bench_restore(void *handle) {
  each_memory(handle, [](AxiMemory &memory) { memory.restore(); });
}

void bench_error_range(void *handle, uint64_t base, uint64_t last, int response, int read,
                       int write) {
  each_memory(handle, [&](AxiMemory &memory) {
    memory.add_error_range(base, last, Response(response), read, write);
  });
}

void bench_clear_error_ranges(void *handle) {
  each_memory(handle, [](AxiMemory &memory) { memory.clear_error_ranges(); });
}

void bench_seed(void *handle, uint64_t seed) {
  each_memory(handle, [&](AxiMemory &memory) { memory.random.seed(seed++); });
}

static int set_option(AxiMemory::Options &options, const std::string &key, uint64_t value) {
#define NUMBER(field) if (key == #field) return options.field = value, 1
#define FLAG(field) if (key == #field) return options.field = value != 0, 1
  NUMBER(read_latency);
  NUMBER(write_latency);
  NUMBER(read_jitter);
  NUMBER(write_jitter);
  NUMBER(read_outstanding);
  NUMBER(write_outstanding);
  NUMBER(write_ahead);
  NUMBER(withhold_ar);
  NUMBER(withhold_r);
  NUMBER(withhold_aw);
  NUMBER(withhold_w);
  NUMBER(withhold_b);
  FLAG(reorder);
  FLAG(interleave);
  FLAG(late);
  FLAG(stall);
  FLAG(trace);
#undef NUMBER
#undef FLAG
  return 0;
}

// Probabilities are thresholds of 2**32. 0 if there is no such option.
int bench_set(void *handle, const char *name, uint64_t value) {
  int known = 1;
  each_memory(handle,
              [&](AxiMemory &memory) { known &= set_option(memory.options, name, value); });
  return known;
}

// The nine numbers of AxiMemory::Counters, in their order: sums of both ports, but the cycles, and
// the most that one of them had outstanding.
void bench_counters(void *handle, uint64_t *values) {
  static_assert(sizeof(AxiMemory::Counters) == 9 * sizeof(uint64_t));
  Bench *bench = static_cast<Bench *>(handle);
  AxiMemory::Counters sum = bench->memory.counters;
  if (bench->second) {
    const AxiMemory::Counters &other = bench->second->memory.counters;
    sum.read_bursts += other.read_bursts;
    sum.read_beats += other.read_beats;
    sum.write_bursts += other.write_bursts;
    sum.write_beats += other.write_beats;
    sum.write_responses += other.write_responses;
    sum.read_outstanding_max = std::max(sum.read_outstanding_max, other.read_outstanding_max);
    sum.write_outstanding_max = std::max(sum.write_outstanding_max, other.write_outstanding_max);
    sum.error_beats += other.error_beats;
  }
  std::memcpy(values, &sum, sizeof sum);
}

// The numbers of Dram::Timing in their order; all 0 take the DRAM away. 0 if it cannot be changed now.
// A DRAM serves the first port alone.
int bench_set_dram(void *handle, const uint64_t *values) {
  static_assert(sizeof(Dram::Timing) == 25 * sizeof(uint64_t));
  Dram::Timing timing;
  std::memcpy(&timing, values, sizeof timing);
  if (!timing.beat_bytes) timing = Dram::Timing{};
  return static_cast<Bench *>(handle)->memory.set_dram(timing);
}

// The ten numbers of Dram::Counters, in their order.
void bench_dram_counters(void *handle, uint64_t *values) {
  static_assert(sizeof(Dram::Counters) == 10 * sizeof(uint64_t));
  std::memcpy(values, &static_cast<Bench *>(handle)->memory.dram().counters(),
              sizeof(Dram::Counters));
}

// Requests recorded since the last call for data; with `values`, moves them there (four numbers
// each).
uint64_t bench_trace(void *handle, uint64_t *values) {
  Bench *bench = static_cast<Bench *>(handle);
  std::vector<AxiMemory::Request> &trace = bench->memory.trace;
  if (bench->second && !bench->second->memory.trace.empty()) {
    std::vector<AxiMemory::Request> &other = bench->second->memory.trace;
    trace.insert(trace.end(), other.begin(), other.end());
    other.clear();
    std::stable_sort(trace.begin(), trace.end(),
                     [](const auto &a, const auto &b) { return a.cycle < b.cycle; });
  }
  uint64_t n = trace.size();
  if (!values) return n;
  std::memcpy(values, trace.data(), n * sizeof(AxiMemory::Request));
  trace.clear();
  return n;
}

// Offers `n` requests (four numbers each, of which the cycle is ignored) to a memory without a
// testbench, each as early as possible: reads in their order, writes in theirs (or, if `in_order`,
// none before all requests before it), W data at once, R and B always accepted. Returns the cycles
// from the first address that is offered to the last response, or 0 if that takes more than `limit`.
uint64_t bench_replay(void *handle, const uint64_t *values, uint64_t n, int in_order,
                      uint64_t limit) {
  Bench *bench = static_cast<Bench *>(handle);
  const auto *requests = reinterpret_cast<const AxiMemory::Request *>(values);
  std::vector<AxiMemory::Request> reads, writes;
  std::vector<size_t> reads_before, writes_before;  // of each write, of each read
  for (uint64_t i = 0; i < n; ++i) {
    if (requests[i].write) reads_before.push_back(reads.size());
    else writes_before.push_back(writes.size());
    (requests[i].write ? writes : reads).push_back(requests[i]);
  }
  std::vector<uint8_t> zeros(bench->rdata.size());
  MemoryPins &pins = bench->pins;
  bench->memory.reset(pins);
  ManagerPins manager{};
  manager.rready = manager.bready = true;
  manager.wdata = manager.wstrb = zeros.data();
  size_t read = 0, write = 0, data = 0, left = 0, answered = 0;
  if (!writes.empty()) left = writes[0].beats;
  bench->memory.tick(manager, pins, bench->rdata.data());  // the first in which it is ready
  for (uint64_t cycle = 1; cycle <= limit; ++cycle) {
    manager.arvalid = read < reads.size() && (!in_order || write >= writes_before[read]);
    manager.awvalid = write < writes.size() && (!in_order || read >= reads_before[write]);
    if (manager.arvalid) {
      manager.araddr = reads[read].address;
      manager.arlen = uint8_t(reads[read].beats - 1);
      read += pins.arready;
    }
    if (manager.awvalid) {
      manager.awaddr = writes[write].address;
      manager.awlen = uint8_t(writes[write].beats - 1);
      write += pins.awready;
    }
    manager.wvalid = data < writes.size() && (!in_order || data < write);
    if (manager.wvalid) {
      manager.wlast = left == 1;
      if (pins.wready && --left == 0 && ++data < writes.size()) left = writes[data].beats;
    }
    answered += (pins.rvalid && pins.rlast) + pins.bvalid;
    if (answered == n) return cycle;
    bench->memory.tick(manager, pins, bench->rdata.data());
  }
  return 0;
}

uint64_t bench_bursts_open(void *handle) {
  uint64_t open = 0;
  each_memory(handle, [&](AxiMemory &memory) { open += memory.bursts_open(); });
  return open;
}

int bench_violations(void *handle) {
  return static_cast<int>(static_cast<Bench *>(handle)->violations.size());
}

const char *bench_violation(void *handle, int index) {
  return static_cast<Bench *>(handle)->violations[index].c_str();
}

void bench_clear_violations(void *handle) { static_cast<Bench *>(handle)->violations.clear(); }

}  // extern "C"
