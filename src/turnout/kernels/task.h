// A product as tasks: what is blocked, packed and multiplied by one thread.

#pragma once

#include <atomic>
#include <numeric>
#include <type_traits>
#include <vector>

#include "tiles.h"

namespace turnout {
namespace {

// out[rows, columns] = left[rows, inner] right[inner, columns], columns at most WIDTH.
template <class Rows, class Right, class Out>
struct Task {
  using Entry = typename Right::Entry;
  static constexpr long MOST = WORDS * Entry::DEPTH;

  Matrix<Rows> left;
  Right right;
  long rows, columns, inner;
  Out* out;
  long line;  // entries from row to row of `out`
  bool past;  // whether it may be written past the caches

  Ahead ahead(long k) const { return right.ahead(columns, k, std::min(MOST, inner - k)); }

  void run(const Task* next) const {
    static thread_local Scratch scratch;
    if (inner == 0) return clear();
    for (long parts = (rows + Right::TALLEST - 1) / Right::TALLEST, row = 0; parts > 0; parts--) {
      const long count = (rows - row + parts - 1) / parts;
      run(scratch, row, count, parts == 1 ? next : nullptr);
      row += count;
    }
    _mm_sfence();  // behind what was written past the caches
  }

 private:
  void clear() const {
    for (long i = 0; i < rows; i++) std::memset(out + i * line, 0, columns * sizeof(Out));
  }

  void run(Scratch& scratch, long row, long count, const Task* next) const {
    const bool plain = std::is_same<Out, float>::value && inner <= MOST;
    Target to{scratch.sums.get(), WIDTH, false, false};
    if (plain) to = Target{reinterpret_cast<float*>(out + row * line), line, false, past};
    for (long k = 0; k < inner; k += MOST, to.add = true) {
      const long depth = std::min(MOST, inner - k), words = words_of<Entry>(depth);
      const Panels panels = right.panels(scratch, columns, k, depth);
      for (long parts = (count + HEIGHT - 1) / HEIGHT, from = 0; parts > 0; parts--) {
        const long height = (count - from + parts - 1) / parts;
        fetch(left, row + from, height, k, depth, scratch.left.get());
        Ahead then;
        if (parts == 1 && k + MOST < inner) then = ahead(k + MOST);
        if (parts == 1 && k + MOST >= inner && next) then = next->ahead(0);
        const Target part{to.at + from * to.line, to.line, to.add, to.past};
        if (left.upright)
          tiles<Rows, 1, BY_WORD>(scratch, panels, height, columns, words, part, then);
        else
          tiles<Rows, BY_ROW, 1>(scratch, panels, height, columns, words, part, then);
        from += height;
      }
    }
    if (!plain) write(scratch.sums.get(), count, columns, out + row * line, line);
  }
};

// The rows of each expert, and the threads.
struct Groups {
  const int32_t* ends;
  long experts, threads;
  long start(long expert) const { return expert ? ends[expert - 1] : 0; }
  long count(long expert) const { return ends[expert] - start(expert); }
  // Those to be run: what has no rows is not to be fetched either.
  std::vector<long> all() const {
    std::vector<long> found(experts);
    std::iota(found.begin(), found.end(), 0);
    return found;
  }
  std::vector<long> with_rows() const {
    std::vector<long> found = all();
    const auto none = [this](long expert) { return count(expert) == 0; };
    found.erase(std::remove_if(found.begin(), found.end(), none), found.end());
    return found;
  }
};

// Runs every block of columns of these experts. A thread takes its next task before it begins one,
// but for the last ones, for which another thread may be free earlier.
template <class Make>
void each(const std::vector<long>& experts, long threads, long columns, long most,
          const Make& make) {
  const long blocks = (columns + most - 1) / most, total = experts.size() * blocks;
  std::atomic<long> taken{0};
  const auto task = [&](long i) {
    const long column = i % blocks * most;
    return make(experts[i / blocks], column, std::min(most, columns - column));
  };
#pragma omp parallel num_threads(threads)
  for (long i = taken++; i < total;) {
    const bool ample = taken + threads <= total;
    const long following = ample ? taken++ : total;
    const auto now = task(i), next = task(std::min(following, total - 1));
    now.run(following < total ? &next : nullptr);
    i = ample ? following : taken++;
  }
}

}  // namespace
}  // namespace turnout
