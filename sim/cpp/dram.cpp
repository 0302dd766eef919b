#include "dram.h"

#include <algorithm>

namespace tcast {

void Dram::configure(const Timing &timing) {
  timing_ = timing;
  counters_ = Counters{};
  reset();
}

void Dram::reset() {
  reads_ = Queue{};
  writes_ = Queue{};
  banks_.assign(timing_.groups * timing_.banks, Bank{});
  groups_.assign(timing_.groups, Group{});
  writing_ = false;
  in_turn_ = column_from_ = read_from_ = write_from_ = activate_from_ = n_activated_ = 0;
  refreshing_until_ = 0;
  refresh_at_ = start_ = NEVER;
}

uint64_t Dram::push(bool write, uint64_t address) {
  uint64_t chunk = address / timing_.interleave;
  uint64_t group = chunk % timing_.groups;
  uint64_t place = chunk / timing_.groups / (timing_.row_bytes / timing_.interleave);
  Queue &queue = write ? writes_ : reads_;
  Access &access = queue.accesses.push();
  access.row = place / timing_.banks;
  access.bank = static_cast<uint32_t>(place % timing_.banks * timing_.groups + group);
  access.data_cycle = NEVER;
  access.taken = false;
  ++queue.waiting;
  return queue.base + queue.accesses.size() - 1;
}

uint64_t Dram::data_cycle(bool write, uint64_t number) const {
  const Queue &queue = write ? writes_ : reads_;
  return queue.accesses[number - queue.base].data_cycle;
}

void Dram::take(bool write, uint64_t number) {
  Queue &queue = write ? writes_ : reads_;
  queue.accesses[number - queue.base].taken = true;
  while (!queue.accesses.empty() && queue.accesses.front().taken) {
    queue.accesses.pop();
    ++queue.base;
    --queue.head;
  }
}

// True while nothing else may happen.
bool Dram::refresh(uint64_t cycle) {
  if (cycle < refreshing_until_) return true;
  if (cycle < refresh_at_) return false;
  uint64_t from = cycle;  // of the refresh command
  for (const Bank &bank : banks_) {
    if (bank.open && bank.precharge_from > cycle) return true;
    from = std::max(from, bank.open ? cycle + timing_.tRP : bank.activate_from);
  }
  refreshing_until_ = from + timing_.tRFC;
  for (Bank &bank : banks_) {
    bank.open = false;
    bank.activate_from = refreshing_until_;
  }
  refresh_at_ += timing_.tREFI;
  ++counters_.refreshes;
  return true;
}

void Dram::choose_turn() {
  bool over = in_turn_ >= timing_.batch;
  bool pass = writing_ ? reads_.waiting && (!writes_.waiting || over)
                       : writes_.waiting && (!reads_.waiting ||
                                             (over && writes_.waiting >= timing_.batch));
  if (!pass) return;
  writing_ = !writing_;
  in_turn_ = 0;
  ++counters_.turns;
}

void Dram::tick(uint64_t cycle) {
  if (start_ == NEVER) {
    start_ = cycle;
    if (timing_.tREFI) refresh_at_ = cycle + timing_.tREFI;
  }
  if (refresh(cycle)) {
    ++counters_.refresh_cycles;
    return;
  }
  choose_turn();
  Queue &queue = writing_ ? writes_ : reads_;
  if (!queue.waiting) {
    ++counters_.idle_cycles;
    return;
  }

  // One look at the window: the access for the column command, and what each bank is wanted for.
  Access *chosen = nullptr;
  bool turning = false;
  touched_.clear();
  size_t end = std::min(queue.accesses.size(), queue.head + size_t(timing_.window));
  uint64_t turn_from = writing_ ? write_from_ : read_from_;
  for (size_t i = queue.head; i < end; ++i) {
    Access &access = queue.accesses[i];
    if (access.data_cycle != NEVER) continue;
    Bank &bank = banks_[access.bank];
    if (bank.seen != cycle + 1) {
      bank.seen = cycle + 1;
      bank.wanted_open = false;
      bank.first = nullptr;
      touched_.push_back(access.bank);
    }
    if (!bank.open || bank.row != access.row) {
      if (!bank.first) bank.first = &access;
      continue;
    }
    bank.wanted_open = true;
    if (chosen) continue;
    const Group &group = groups_[access.bank % timing_.groups];
    uint64_t from = std::max({column_from_, group.column_from, bank.column_from});
    uint64_t turn = writing_ ? turn_from : std::max(turn_from, group.read_from);
    if (cycle >= from && cycle >= turn) chosen = &access;
    turning |= cycle >= from && cycle < turn;
  }

  bool activated = false, precharged = false;
  for (uint32_t number : touched_) {  // by the age of each bank's oldest access
    Bank &bank = banks_[number];
    if (!bank.first || bank.wanted_open) continue;
    Group &group = groups_[number % timing_.groups];
    if (bank.open) {
      if (precharged || cycle < bank.precharge_from) continue;
      precharged = true;
      bank.open = false;
      bank.activate_from = std::max(bank.activate_from, cycle + timing_.tRP);
      ++counters_.conflicts;
      continue;
    }
    uint64_t from = std::max({bank.activate_from, group.activate_from, activate_from_});
    if (n_activated_ >= 4) from = std::max(from, activated_[n_activated_ % 4] + timing_.tFAW);
    if (activated || cycle < from) continue;
    activated = true;
    bank.open = true;
    bank.row = bank.first->row;
    bank.column_from = cycle + timing_.tRCD;
    bank.precharge_from = cycle + timing_.tRAS;
    bank.activate_from = cycle + timing_.tRC;
    group.activate_from = cycle + timing_.tRRD_L;
    activate_from_ = cycle + timing_.tRRD_S;
    activated_[n_activated_++ % 4] = cycle;
    ++counters_.activates;
  }

  if (!chosen) {
    ++(turning ? counters_.turn_cycles : counters_.bank_cycles);
    return;
  }
  Bank &bank = banks_[chosen->bank];
  Group &group = groups_[chosen->bank % timing_.groups];
  column_from_ = cycle + timing_.tCCD_S;
  group.column_from = cycle + timing_.tCCD_L;
  if (writing_) {
    uint64_t end_of_data = cycle + timing_.tCWL + 1;
    chosen->data_cycle = end_of_data - 1;
    bank.precharge_from = std::max(bank.precharge_from, end_of_data + timing_.tWR);
    read_from_ = end_of_data + timing_.tWTR_S;
    group.read_from = end_of_data + timing_.tWTR_L;
    ++counters_.write_cycles;
  } else {
    uint64_t end_of_data = cycle + timing_.tCL + 1;
    chosen->data_cycle = end_of_data - 1;
    bank.precharge_from = std::max(bank.precharge_from, cycle + timing_.tRTP);
    write_from_ = end_of_data + timing_.tRTW > timing_.tCWL
                      ? end_of_data + timing_.tRTW - timing_.tCWL : 0;
    ++counters_.read_cycles;
  }
  ++in_turn_;
  --queue.waiting;
  while (queue.head < queue.accesses.size() && queue.accesses[queue.head].data_cycle != NEVER)
    ++queue.head;
}

}  // namespace tcast
