// A cycle-accurate AXI4 memory whose content is the caller's own arrays.
//
// tick() is called once per clock cycle with the pins as they are in that cycle and returns the pins
// that the memory drives in the next one: every output is registered.
//
// Timing. An AR handshake in cycle t gives its first R beat in cycle t + read_latency at the
// earliest (plus a random delay of up to read_jitter cycles, drawn for each burst); R moves a beat
// every cycle, over bursts without a gap. B comes write_latency (plus up to write_jitter) cycles
// after the later of the AW handshake and the burst's last W handshake. Reads and writes do not
// disturb each other.
//
// With a DRAM (dram.h; off by default), every beat has its turn on the DRAM's one data bus: reads
// queue from the cycle after their AR handshake, write beats from the cycle after their data and
// address are here. An R beat then comes read_latency cycles (with the jitter of its burst) after
// the cycle of its data on that bus at the earliest, a B write_latency cycles after that of the
// burst's last one: the latencies are what lies between the port and the DRAM. Of write beats the
// controller holds two batches, behind which `write_ahead` more are accepted.
//
// Order. Responses come in the order of the requests, over all IDs. With `reorder`, read bursts of
// different IDs overtake each other at random; with `interleave`, beat by beat.
//
// Memory effects. AXI lets a read that is issued before the response of a write see the memory
// before or after that write. `late` takes the last moment for writes (they are applied when their
// response appears) and the first moment for reads (data is taken at the AR handshake), which
// exposes a manager that does not wait for its responses. Without it, writes are applied as their
// data arrives and read data is taken when it appears, which exposes the opposite assumption.
// Writes are applied in their order in both.
//
// W data may arrive before its AW: up to `write_ahead` beats are kept until it comes; with 0, WREADY
// waits for the AW.
//
// Regions may have any address and length, so a beat may lie in several, or partly in none. Such a
// read answers OKAY if any region touches the beat; bytes of none read as those of 0xDEADBEEF. A
// write needs a writable region for every byte that its strobes select.
//
// Errors. A beat outside every region answers DECERR, a write to a read-only region SLVERR, a beat
// in an error range what that range says. Nothing is written by such a beat, and its read data is
// 0xDEADBEEF. A write burst answers the worst of its beats; the others are written.

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "dram.h"
#include "ring.h"

namespace tcast {

enum Response : uint8_t { OKAY = 0, SLVERR = 2, DECERR = 3 };

// Pins driven by the manager. Data and strobes are little-endian.
struct ManagerPins {
  bool arvalid, rready, awvalid, wvalid, wlast, bready;
  uint8_t arid, arlen, awid, awlen;
  uint64_t araddr, awaddr;
  const uint8_t *wdata, *wstrb;
};

// Pins driven by the memory, apart from the read data.
struct MemoryPins {
  bool arready, rvalid, rlast, awready, wready, bvalid;
  uint8_t rid, rresp, bid, bresp;
};

// splitmix64 (Steele, Lea, Flood 2014): any seed is good.
class Random {
 public:
  void seed(uint64_t value) { state_ = value; }
  uint64_t next() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  // 0 to limit, both included.
  uint64_t below_or_at(uint64_t limit) { return limit ? next() % (limit + 1) : 0; }
  // True with the probability threshold / 2**32; draws nothing when it is 0.
  bool chance(uint64_t threshold) { return threshold && (next() >> 32) < threshold; }

 private:
  uint64_t state_ = 0;
};

class AxiMemory {
 public:
  static constexpr int IDS = 16;

  // What can be set at run time. Probabilities are per cycle, as a threshold of 2**32.
  struct Options {
    uint64_t read_latency = 64, write_latency = 64;   // cycles, at least 1
    uint64_t read_jitter = 0, write_jitter = 0;       // cycles
    uint64_t read_outstanding = 1024, write_outstanding = 1024;  // bursts
    uint64_t write_ahead = 256;                       // beats
    uint64_t withhold_ar = 0, withhold_r = 0, withhold_aw = 0, withhold_w = 0, withhold_b = 0;
    bool reorder = false, interleave = false, late = true;
    bool stall = false;  // offers no handshake on any channel
    bool trace = false;  // records every burst that is accepted
  };

  // Totals since the start; they survive a reset.
  struct Counters {
    uint64_t cycles = 0, read_bursts = 0, read_beats = 0, write_bursts = 0, write_beats = 0,
             write_responses = 0, read_outstanding_max = 0, write_outstanding_max = 0,
             error_beats = 0;
  };

  // A burst and the cycle of its address handshake.
  struct Request {
    uint64_t cycle, write, address, beats;
  };

  explicit AxiMemory(size_t beat_bytes) { set_beat_bytes(beat_bytes); }
  void set_beat_bytes(size_t beat_bytes);

  Options options;
  Counters counters;
  Random random;
  std::vector<Request> trace;

  // Changes the DRAM, or takes it away (beat_bytes 0). False, and no change, if bursts are open or
  // its beats are not the port's.
  bool set_dram(const Dram::Timing &timing);
  const Dram &dram() const { return dram_; }

  // False if it would overlap another region.
  bool map(uint64_t base, uint64_t bytes, uint8_t *data, bool writable);
  // False if no region begins there.
  bool unmap(uint64_t base);
  // Forgets all regions and error ranges, and sets every option to its default.
  void restore();
  void add_error_range(uint64_t base, uint64_t last, Response response, bool read, bool write);
  void clear_error_ranges() { error_ranges_.clear(); }
  uint64_t bursts_open() const { return reads_open_ + writes_.size(); }

  // `pins` are the memory's in this cycle on entry, those of the next on return; `rdata` holds
  // beat_bytes and is the R payload of the same cycle as `pins`.
  void tick(const ManagerPins &manager, MemoryPins &pins, uint8_t *rdata);
  void reset(MemoryPins &pins);

 private:
  struct Region {
    uint64_t base, last;
    uint8_t *data;
    bool writable;
  };
  struct ErrorRange {
    uint64_t base, last;
    Response response;
    bool read, write;
  };
  struct ReadBurst {
    uint64_t address, ready_at, sequence;
    uint32_t beats, sent;
    int32_t slot;  // of the data taken at the AR handshake; -1: taken beat by beat
    uint64_t access;  // of the DRAM, for the first beat; ready_at is then a delay
  };
  struct WriteBurst {
    uint64_t address, ready_at;
    uint32_t beats, received, applied;
    uint8_t id, response;
    uint64_t access;  // of the DRAM, for the first beat; ready_at is then a delay
    uint32_t stored;  // beats that have had the DRAM's data bus
    uint64_t stored_at;  // cycle of the last of them
  };
  // Data of a read burst, as it was at its AR handshake.
  struct Slot {
    std::vector<uint8_t> data, response;
  };

  const Region *find(uint64_t address, const Region *&hint) const;
  template <typename Use>
  void each_part(uint64_t address, Use use) const;
  Response error_in(uint64_t address, bool write) const;
  Response read_beat(uint64_t address, int id, uint8_t *data);
  Response write_beat(uint64_t address, const uint8_t *beat);
  Response write_parts(uint64_t address, const uint8_t *beat);
  int choose_read(uint64_t cycle);
  bool read_ready(int id, uint64_t cycle) const;
  bool write_ready(uint64_t cycle);
  bool write_room() const;
  void accept_read(const ManagerPins &manager);
  void collect_writes();
  void apply_beat(WriteBurst &burst);

  size_t beat_bytes_ = 0, beat_stride_ = 0;
  std::vector<Region> regions_;  // by base
  std::vector<ErrorRange> error_ranges_;
  const Region *read_hint_[IDS] = {}, *write_hint_ = nullptr;

  Dram dram_;

  Ring<ReadBurst> reads_[IDS];
  uint32_t ids_open_ = 0;  // bit i: reads_[i] is not empty
  int reading_ = -1;       // ID whose burst is on R
  uint64_t reads_open_ = 0, sequence_ = 0;
  std::vector<Slot> slots_;
  std::vector<int32_t> free_slots_;

  Ring<WriteBurst> writes_;
  size_t complete_ = 0;  // the first bursts of writes_, which have all their data
  // W beats not applied yet: data, then strobes.
  std::vector<uint8_t> beats_;
  size_t beats_head_ = 0, beats_tail_ = 0, beats_claimed_ = 0;
  std::vector<uint8_t> full_strobe_;
};

// The memory of one testbench and what its checkers reported. A second port of the engine has a
// memory of its own, in which the same arrays are mapped.
struct Bench {
  AxiMemory memory{4};
  MemoryPins pins{};
  std::vector<uint8_t> rdata;
  std::vector<std::string> violations;
  std::unique_ptr<Bench> second;

  void open(int beat_bytes) {
    memory.set_beat_bytes(beat_bytes);
    rdata.assign(beat_bytes, 0);
  }
};

// The bench whose testbench is being evaluated by this thread; where nobody set one (cocotb), the
// only one of the process.
Bench *current_bench();
void set_current_bench(Bench *bench);

}  // namespace tcast
