// The timing of a DRAM channel behind the memory model's AXI port: when each beat has the data bus.
//
// One column access (a burst of the DRAM) is one beat of the port and takes one cycle of the data
// bus, which reads and writes share. All times are cycles of the engine's clock.
//
// Controller. Reads and writes wait in two queues. Of the queue in turn it looks at the first
// `window` accesses from the oldest that has no column command yet, and gives in each cycle at most
//  - one column command, to the oldest access whose row is open and whose constraints are met,
//  - one activate, for the oldest access whose bank is closed,
//  - one precharge, for the oldest access whose bank holds another row which no access in the window
//    wants (FR-FCFS with open rows; the window bounds how far anything is overtaken).
// The turn passes to writes when no read waits, or when `batch` writes wait and `batch` reads have
// had their turn; back when no write waits, or when `batch` writes have had theirs and reads wait.
// Every tREFI cycles all banks are closed and refreshed, which takes tRFC.
//
// Address, from the lowest bit: `interleave` bytes, bank group, the rest of the row, bank in the
// group, row.

#pragma once

#include <cstdint>
#include <vector>

#include "ring.h"

namespace tcast {

class Dram {
 public:
  static constexpr uint64_t NEVER = ~uint64_t(0);

  // The names are JEDEC's. tRTW is the gap on the data bus from a read to a write. `Dram` of sim/dram.py has
  // the same order.
  struct Timing {
    uint64_t beat_bytes = 0;  // 0: no DRAM
    uint64_t groups = 1, banks = 1;  // banks: in a group; powers of two
    uint64_t row_bytes = 1024, interleave = 256;
    uint64_t tCL = 1, tCWL = 1, tRCD = 1, tRP = 1, tRAS = 1, tRC = 1;
    uint64_t tCCD_S = 1, tCCD_L = 1, tRRD_S = 1, tRRD_L = 1, tFAW = 1;
    uint64_t tRTP = 1, tWR = 1, tWTR_S = 1, tWTR_L = 1, tRTW = 0;
    uint64_t tREFI = 0, tRFC = 0;  // tREFI 0: no refresh
    uint64_t window = 1, batch = 1;  // accesses
  };

  // Totals since the DRAM was configured. Each cycle is in exactly one of the first six.
  struct Counters {
    uint64_t read_cycles = 0, write_cycles = 0;  // a column command was given
    uint64_t idle_cycles = 0;                    // no access waited
    uint64_t refresh_cycles = 0;                 // closing for a refresh, or in it
    uint64_t turn_cycles = 0;  // an open row's access waited only for the other direction's end
    uint64_t bank_cycles = 0;  // anything else: rows being opened, tCCD
    uint64_t activates = 0, conflicts = 0;  // conflicts: precharges of a bank for another row
    uint64_t turns = 0, refreshes = 0;
  };

  void configure(const Timing &timing);
  // Forgets all accesses and open rows.
  void reset();
  bool on() const { return timing_.beat_bytes != 0; }
  const Counters &counters() const { return counters_; }
  const Timing &timing() const { return timing_; }

  // Takes an access and returns its number; reads and writes are numbered each from 0.
  uint64_t push(bool write, uint64_t address);
  // The cycle in which the access has the data bus; NEVER while that is not known.
  uint64_t data_cycle(bool write, uint64_t number) const;
  // The access is over; nobody asks for it again.
  void take(bool write, uint64_t number);
  uint64_t writes_waiting() const { return writes_.waiting; }

  // The commands of one cycle; called for every cycle in turn.
  void tick(uint64_t cycle);

 private:
  struct Access {
    uint64_t row, data_cycle;
    uint32_t bank;
    bool taken;
  };
  struct Queue {
    Ring<Access> accesses;
    uint64_t base = 0;      // number of the first in `accesses`
    size_t head = 0;        // the first without a column command, from base
    uint64_t waiting = 0;   // accesses without a column command
  };
  struct Bank {
    bool open = false;
    uint64_t row = 0;
    uint64_t column_from = 0, precharge_from = 0, activate_from = 0;
    // Of the window, in one cycle:
    uint64_t seen = 0;  // cycle + 1 of the marks below
    bool wanted_open = false;
    Access *first = nullptr;  // oldest that wants another row than the open one
  };
  struct Group {
    uint64_t column_from = 0, read_from = 0, activate_from = 0;
  };

  bool refresh(uint64_t cycle);
  void choose_turn();

  Timing timing_;
  Counters counters_;
  Queue reads_, writes_;
  std::vector<Bank> banks_;  // bank number: bank in the group * groups + group
  std::vector<Group> groups_;
  std::vector<uint32_t> touched_;
  bool writing_ = false;
  uint64_t in_turn_ = 0;  // column commands since the turn passed
  uint64_t column_from_ = 0, read_from_ = 0, write_from_ = 0, activate_from_ = 0;
  uint64_t activated_[4] = {}, n_activated_ = 0;
  uint64_t refresh_at_ = NEVER, refreshing_until_ = 0, start_ = NEVER;
};

}  // namespace tcast
