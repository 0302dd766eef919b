#include "axi_memory.h"

#include <algorithm>

namespace tcast {

static const uint32_t POISON = 0xdeadbeef;

void AxiMemory::set_beat_bytes(size_t beat_bytes) {
  beat_bytes_ = beat_bytes;
  beat_stride_ = beat_bytes + (beat_bytes + 7) / 8;
  beats_.assign(1024 * beat_stride_, 0);
  full_strobe_.assign((beat_bytes + 7) / 8, beat_bytes >= 8 ? 0xff : (1u << beat_bytes) - 1);
  slots_.clear();
  free_slots_.clear();
}

bool AxiMemory::map(uint64_t base, uint64_t bytes, uint8_t *data, bool writable) {
  Region region{base, base + (bytes - 1), data, writable};
  auto next = std::lower_bound(regions_.begin(), regions_.end(), base,
                               [](const Region &r, uint64_t address) { return r.base < address; });
  if (next != regions_.end() && next->base <= region.last) return false;
  if (next != regions_.begin() && std::prev(next)->last >= base) return false;
  regions_.insert(next, region);
  std::fill(read_hint_, read_hint_ + IDS, nullptr);
  write_hint_ = nullptr;
  return true;
}

bool AxiMemory::unmap(uint64_t base) {
  for (auto region = regions_.begin(); region != regions_.end(); ++region) {
    if (region->base != base) continue;
    regions_.erase(region);
    std::fill(read_hint_, read_hint_ + IDS, nullptr);
    write_hint_ = nullptr;
    return true;
  }
  return false;
}

void AxiMemory::restore() {
  regions_.clear();
  error_ranges_.clear();
  std::fill(read_hint_, read_hint_ + IDS, nullptr);
  write_hint_ = nullptr;
  options = Options{};
  trace.clear();
  dram_.configure(Dram::Timing{});
}

bool AxiMemory::set_dram(const Dram::Timing &timing) {
  if (bursts_open() || beats_head_ != beats_tail_) return false;
  if (timing.beat_bytes && timing.beat_bytes != beat_bytes_) return false;
  dram_.configure(timing);
  return true;
}

void AxiMemory::add_error_range(uint64_t base, uint64_t last, Response response, bool read,
                                bool write) {
  error_ranges_.push_back({base, last, response, read, write});
}

// The region that holds the whole beat at `address`, or nullptr.
const AxiMemory::Region *AxiMemory::find(uint64_t address, const Region *&hint) const {
  uint64_t last = address + (beat_bytes_ - 1);
  if (hint && address >= hint->base && last <= hint->last) return hint;
  auto next = std::upper_bound(regions_.begin(), regions_.end(), address,
                               [](uint64_t a, const Region &r) { return a < r.base; });
  if (next == regions_.begin()) return nullptr;
  const Region &region = *std::prev(next);
  if (last > region.last) return nullptr;
  return hint = &region;
}

// Calls use(region, first byte in the beat, bytes) for every region that touches the beat.
template <typename Use>
void AxiMemory::each_part(uint64_t address, Use use) const {
  uint64_t last = address + (beat_bytes_ - 1);
  auto region = std::upper_bound(regions_.begin(), regions_.end(), address,
                                 [](uint64_t a, const Region &r) { return a < r.base; });
  if (region != regions_.begin() && std::prev(region)->last >= address) --region;
  for (; region != regions_.end() && region->base <= last; ++region) {
    uint64_t from = std::max(address, region->base), to = std::min(last, region->last);
    use(*region, size_t(from - address), size_t(to - from + 1));
  }
}

Response AxiMemory::error_in(uint64_t address, bool write) const {
  for (const ErrorRange &range : error_ranges_)
    if (address <= range.last && address + (beat_bytes_ - 1) >= range.base &&
        (write ? range.write : range.read))
      return range.response;
  return OKAY;
}

Response AxiMemory::read_beat(uint64_t address, int id, uint8_t *data) {
  Response response = error_ranges_.empty() ? OKAY : error_in(address, false);
  if (response == OKAY) {
    if (const Region *region = find(address, read_hint_[id])) {
      std::memcpy(data, region->data + (address - region->base), beat_bytes_);
      return OKAY;
    }
  }
  for (size_t i = 0; i < beat_bytes_; i += sizeof POISON)
    std::memcpy(data + i, &POISON, sizeof POISON);
  if (response == OKAY) {
    response = DECERR;
    each_part(address, [&](const Region &region, size_t first, size_t bytes) {
      std::memcpy(data + first, region.data + (address + first - region.base), bytes);
      response = OKAY;
    });
  }
  counters.error_beats += response != OKAY;
  return response;
}

// `beat` is data, then strobes.
Response AxiMemory::write_beat(uint64_t address, const uint8_t *beat) {
  const uint8_t *strobe = beat + beat_bytes_;
  bool full = !std::memcmp(strobe, full_strobe_.data(), full_strobe_.size());
  Response response = error_ranges_.empty() ? OKAY : error_in(address, true);
  if (response == OKAY) {
    const Region *region = find(address, write_hint_);
    if (full && region && region->writable) {
      std::memcpy(region->data + (address - region->base), beat, beat_bytes_);
      return OKAY;
    }
    response = write_parts(address, beat);
  }
  counters.error_beats += response != OKAY;
  return response;
}

// A write that is not a whole beat of one writable region: all of its bytes, or none.
Response AxiMemory::write_parts(uint64_t address, const uint8_t *beat) {
  const uint8_t *strobe = beat + beat_bytes_;
  auto chosen = [&](size_t i) { return strobe[i / 8] >> (i % 8) & 1; };
  size_t missing = 0;
  bool read_only = false;
  for (size_t i = 0; i < beat_bytes_; ++i) missing += chosen(i);
  each_part(address, [&](const Region &region, size_t first, size_t bytes) {
    for (size_t i = first; i < first + bytes; ++i) {
      missing -= chosen(i);
      read_only |= chosen(i) && !region.writable;
    }
  });
  if (missing) return DECERR;
  if (read_only) return SLVERR;
  each_part(address, [&](const Region &region, size_t first, size_t bytes) {
    for (size_t i = first; i < first + bytes; ++i)
      if (chosen(i)) region.data[address + i - region.base] = beat[i];
  });
  return OKAY;
}

void AxiMemory::accept_read(const ManagerPins &manager) {
  int id = manager.arid & (IDS - 1);
  ReadBurst &burst = reads_[id].push();
  burst.address = manager.araddr & ~uint64_t(beat_bytes_ - 1);
  burst.ready_at = (dram_.on() ? 0 : counters.cycles) +
                   std::max<uint64_t>(options.read_latency, 1) +
                   random.below_or_at(options.read_jitter);
  burst.sequence = sequence_++;
  burst.beats = manager.arlen + 1u;
  burst.sent = 0;
  burst.slot = -1;
  for (uint32_t beat = 0; dram_.on() && beat < burst.beats; ++beat) {
    uint64_t access = dram_.push(false, burst.address + beat * beat_bytes_);
    if (!beat) burst.access = access;
  }
  if (options.trace) trace.push_back({counters.cycles, 0, burst.address, burst.beats});
  ids_open_ |= 1u << id;
  ++reads_open_;
  ++counters.read_bursts;
  counters.read_outstanding_max = std::max(counters.read_outstanding_max, reads_open_);
  if (!options.late) return;
  if (free_slots_.empty()) {
    free_slots_.push_back(static_cast<int32_t>(slots_.size()));
    slots_.emplace_back();
  }
  burst.slot = free_slots_.back();
  free_slots_.pop_back();
  Slot &slot = slots_[burst.slot];
  if (slot.response.size() < burst.beats) {
    slot.data.resize(burst.beats * beat_bytes_);
    slot.response.resize(burst.beats);
  }
  for (uint32_t beat = 0; beat < burst.beats; ++beat)
    slot.response[beat] = read_beat(burst.address + beat * beat_bytes_, id,
                                    slot.data.data() + beat * beat_bytes_);
}

// Whether the next beat of the ID's oldest burst may be on R in `cycle`.
bool AxiMemory::read_ready(int id, uint64_t cycle) const {
  const ReadBurst &burst = reads_[id][0];
  if (!dram_.on()) return burst.ready_at <= cycle;
  uint64_t data_cycle = dram_.data_cycle(false, burst.access + burst.sent);
  return data_cycle != Dram::NEVER && data_cycle + burst.ready_at <= cycle;
}

// Whether the response of the first of the complete write bursts may come in `cycle`.
bool AxiMemory::write_ready(uint64_t cycle) {
  WriteBurst &burst = writes_.front();
  if (!dram_.on()) return burst.ready_at <= cycle;
  for (; burst.stored < burst.beats; ++burst.stored) {
    uint64_t data_cycle = dram_.data_cycle(true, burst.access + burst.stored);
    if (data_cycle == Dram::NEVER) return false;
    burst.stored_at = std::max(burst.stored_at, data_cycle);
    dram_.take(true, burst.access + burst.stored);
  }
  return burst.stored_at + burst.ready_at <= cycle;
}

// Whether the DRAM's controller, if there is one, takes another write beat.
bool AxiMemory::write_room() const {
  return !dram_.on() || dram_.writes_waiting() < 2 * dram_.timing().batch;
}

// The ID whose oldest burst may put a beat on R in `cycle`, or -1.
int AxiMemory::choose_read(uint64_t cycle) {
  if (!ids_open_) return -1;
  if (reading_ >= 0 && !(options.reorder && options.interleave))
    return !dram_.on() || read_ready(reading_, cycle) ? reading_ : -1;
  if (!options.reorder) {
    int oldest = -1;
    for (uint32_t left = ids_open_; left; left &= left - 1) {
      int id = __builtin_ctz(left);
      if (oldest < 0 || reads_[id].front().sequence < reads_[oldest].front().sequence) oldest = id;
    }
    return read_ready(oldest, cycle) ? oldest : -1;
  }
  int ready[IDS], n = 0;
  for (uint32_t left = ids_open_; left; left &= left - 1) {
    int id = __builtin_ctz(left);
    if (read_ready(id, cycle)) ready[n++] = id;
  }
  return n ? ready[random.below_or_at(n - 1)] : -1;
}

// Writes the oldest beat that is not applied yet, which is this burst's.
void AxiMemory::apply_beat(WriteBurst &burst) {
  size_t mask = beats_.size() / beat_stride_ - 1;
  uint8_t response = write_beat(burst.address + burst.applied++ * beat_bytes_,
                                beats_.data() + (beats_head_++ & mask) * beat_stride_);
  burst.response = std::max(burst.response, response);
}

// Gives W beats to the bursts that wait for them.
void AxiMemory::collect_writes() {
  while (complete_ < writes_.size() && beats_claimed_ < beats_tail_ && write_room()) {
    WriteBurst &burst = writes_[complete_];
    ++beats_claimed_;
    if (dram_.on()) {
      uint64_t access = dram_.push(true, burst.address + burst.received * beat_bytes_);
      if (!burst.received) burst.access = access;
    }
    // Only in order: after a change of `late`, older beats may still wait for their response.
    if (!options.late && beats_head_ + 1 == beats_claimed_) apply_beat(burst);
    if (++burst.received < burst.beats) continue;
    burst.ready_at = (dram_.on() ? 0 : counters.cycles) +
                     std::max<uint64_t>(options.write_latency, 1) +
                     random.below_or_at(options.write_jitter);
    ++complete_;
  }
}

void AxiMemory::tick(const ManagerPins &manager, MemoryPins &pins, uint8_t *rdata) {
  // Handshakes of this cycle.
  if (pins.rvalid && manager.rready) {
    ++counters.read_beats;
    reads_open_ -= pins.rlast;
    pins.rvalid = false;
  }
  if (pins.bvalid && manager.bready) {
    ++counters.write_responses;
    writes_.pop();
    --complete_;
    pins.bvalid = false;
  }
  if (pins.arready && manager.arvalid) accept_read(manager);
  if (pins.awready && manager.awvalid) {
    WriteBurst &burst = writes_.push();
    burst = {manager.awaddr & ~uint64_t(beat_bytes_ - 1), 0, manager.awlen + 1u, 0, 0,
             uint8_t(manager.awid & (IDS - 1)), OKAY, 0, 0, 0};
    if (options.trace) trace.push_back({counters.cycles, 1, burst.address, burst.beats});
    ++counters.write_bursts;
    counters.write_outstanding_max =
        std::max<uint64_t>(counters.write_outstanding_max, writes_.size());
  }
  if (pins.wready && manager.wvalid) {
    size_t capacity = beats_.size() / beat_stride_;
    if (beats_tail_ - beats_head_ == capacity) {
      std::vector<uint8_t> larger(2 * beats_.size());
      for (size_t i = beats_head_; i < beats_tail_; ++i)
        std::memcpy(larger.data() + (i & (2 * capacity - 1)) * beat_stride_,
                    beats_.data() + (i & (capacity - 1)) * beat_stride_, beat_stride_);
      beats_.swap(larger);
      capacity *= 2;
    }
    uint8_t *beat = beats_.data() + (beats_tail_++ & (capacity - 1)) * beat_stride_;
    std::memcpy(beat, manager.wdata, beat_bytes_);
    std::memcpy(beat + beat_bytes_, manager.wstrb, beat_stride_ - beat_bytes_);
    ++counters.write_beats;
  }
  if (complete_ < writes_.size() && beats_claimed_ < beats_tail_) collect_writes();

  // Pins of the next cycle. What is valid and was not accepted stays.
  uint64_t next = counters.cycles + 1;
  if (dram_.on()) dram_.tick(next);
  if (!pins.rvalid && !options.stall) {
    int id = choose_read(next);
    if (id >= 0 && !random.chance(options.withhold_r)) {
      ReadBurst &burst = reads_[id].front();
      if (burst.slot >= 0) {
        Slot &slot = slots_[burst.slot];
        std::memcpy(rdata, slot.data.data() + burst.sent * beat_bytes_, beat_bytes_);
        pins.rresp = slot.response[burst.sent];
      } else {
        pins.rresp = read_beat(burst.address + burst.sent * beat_bytes_, id, rdata);
      }
      pins.rvalid = true;
      pins.rid = static_cast<uint8_t>(id);
      pins.rlast = ++burst.sent == burst.beats;
      if (dram_.on()) dram_.take(false, burst.access + burst.sent - 1);
      reading_ = id;
      if (pins.rlast) {
        reading_ = -1;
        if (burst.slot >= 0) free_slots_.push_back(burst.slot);
        reads_[id].pop();
        if (reads_[id].empty()) ids_open_ &= ~(1u << id);
      }
    }
  }
  if (!pins.bvalid && complete_ && write_ready(next) && !options.stall &&
      !random.chance(options.withhold_b)) {
    WriteBurst &burst = writes_.front();
    while (burst.applied < burst.beats) apply_beat(burst);
    pins.bvalid = true;
    pins.bid = burst.id;
    pins.bresp = burst.response;
  }
  pins.arready = !options.stall && reads_open_ < options.read_outstanding &&
                 !random.chance(options.withhold_ar);
  pins.awready = !options.stall && writes_.size() < options.write_outstanding &&
                 !random.chance(options.withhold_aw);
  pins.wready = !options.stall &&
                ((complete_ < writes_.size() && write_room()) ||
                 beats_tail_ - beats_claimed_ < options.write_ahead) &&
                !random.chance(options.withhold_w);
  ++counters.cycles;
}

void AxiMemory::reset(MemoryPins &pins) {
  for (Ring<ReadBurst> &queue : reads_) {
    for (; !queue.empty(); queue.pop())
      if (queue.front().slot >= 0) free_slots_.push_back(queue.front().slot);
  }
  ids_open_ = 0;
  reading_ = -1;
  reads_open_ = 0;
  writes_.clear();
  complete_ = 0;
  beats_head_ = beats_tail_ = beats_claimed_ = 0;
  dram_.reset();
  pins = MemoryPins{};
  ++counters.cycles;
}

}  // namespace tcast
