#pragma once

#include <cstddef>
#include <utility>
#include <vector>

namespace tcast {

// A queue in one block of memory; std::deque without its allocations.
template <typename T>
class Ring {
 public:
  size_t size() const { return tail_ - head_; }
  bool empty() const { return tail_ == head_; }
  T &operator[](size_t i) { return items_[(head_ + i) & (items_.size() - 1)]; }
  const T &operator[](size_t i) const { return items_[(head_ + i) & (items_.size() - 1)]; }
  T &front() { return (*this)[0]; }
  void pop() { ++head_; }
  void clear() { head_ = tail_ = 0; }
  T &push() {
    if (size() == items_.size()) grow();
    return items_[tail_++ & (items_.size() - 1)];
  }

 private:
  void grow() {
    std::vector<T> larger(items_.size() * 2);
    size_t n = size();
    for (size_t i = 0; i < n; ++i) larger[i] = std::move((*this)[i]);
    items_.swap(larger);
    head_ = 0;
    tail_ = n;
  }
  std::vector<T> items_ = std::vector<T>(64);
  size_t head_ = 0, tail_ = 0;
};

}  // namespace tcast
