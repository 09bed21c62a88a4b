// Grouped matrix products for processors with AVX-512: rows sorted by expert, a matrix an expert.
//
// Blocked as by Goto and van de Geijn (2008): a part of the right matrix is packed into panels of
// COLUMNS columns, of which a block of the left one's rows is multiplied while both stay in the
// caches. A task is one expert's block of columns, so that what one task writes no other does, and
// a sum is added up in the same order whatever the threads.
//
// Both sides are packed as words of 32 bits: one float, or two neighbours of the inner dimension in
// bfloat16, which is what the processor multiplies and adds to a float in one go. Where rows are
// bfloat16 and weights float, weights are rounded on their way into a panel and no copy is kept.

#include <atomic>
#include <type_traits>

#include "panels.h"

namespace turnout {
namespace {

#ifdef __AVX512BF16__
__m512 multiplied(__m512 sum, __m512 left, __m512 right, Half) {
  return _mm512_dpbf16_ps(sum, (__m512bh)left, (__m512bh)right);
}
#endif

__m512 multiplied(__m512 sum, __m512 left, __m512 right, float) {
  return _mm512_fmadd_ps(left, right, sum);
}

// Where sums go: `line` floats from row to row; added to what is there, or written past the caches.
struct Target {
  float* at;
  long line;
  bool add, past;
};

// What is fetched while tiles are multiplied: so many cache lines a word.
struct Meanwhile {
  Ahead ahead;
  long pace;
};

// Some rows of a packed left factor, a panel of a packed right one, and their words.
struct Factors {
  const float* left;
  const float* right;
  long words;
};

template <class Rows, int COUNT, int ROW, int WORD>
__attribute__((noinline)) void tile(Factors of, Target to, long columns, Meanwhile& meanwhile) {
  __m512 sums[COUNT][2];
#pragma GCC unroll 14
  for (int i = 0; i < COUNT; i++) sums[i][0] = sums[i][1] = _mm512_setzero_ps();
  Ahead next = meanwhile.ahead;
  const long pace = meanwhile.pace;
  for (long word = 0; word < of.words; word++, of.left += WORD, of.right += COLUMNS) {
    const __m512 one = _mm512_load_ps(of.right), other = _mm512_load_ps(of.right + 16);
#pragma GCC unroll 14
    for (int i = 0; i < COUNT; i++) {
      const __m512 factor = _mm512_set1_ps(of.left[i * ROW]);
      sums[i][0] = multiplied(sums[i][0], factor, one, Rows());
      sums[i][1] = multiplied(sums[i][1], factor, other, Rows());
    }
    for (long i = 0; i < pace; i++) next.step();
  }
  meanwhile.ahead = next;
  const __mmask16 one = first(columns), other = first(columns - 16);
#pragma GCC unroll 14
  for (int i = 0; i < COUNT; i++) {
    float* at = to.at + i * to.line;
    if (to.past) {
      _mm512_stream_ps(at, sums[i][0]);
      _mm512_stream_ps(at + 16, sums[i][1]);
      continue;
    }
    if (to.add) {
      sums[i][0] = _mm512_add_ps(sums[i][0], _mm512_maskz_loadu_ps(one, at));
      sums[i][1] = _mm512_add_ps(sums[i][1], _mm512_maskz_loadu_ps(other, at + 16));
    }
    _mm512_mask_storeu_ps(at, one, sums[i][0]);
    _mm512_mask_storeu_ps(at + 16, other, sums[i][1]);
  }
}

template <class Rows, int ROW, int WORD>
void tile_of(long rows, Factors of, Target to, long columns, Meanwhile& meanwhile) {
  static_assert(ROWS == 14, "a case for each number of rows");
  switch (rows) {
#define CASE(COUNT) \
  case COUNT:       \
    return tile<Rows, COUNT, ROW, WORD>(of, to, columns, meanwhile);
    CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7)
    CASE(8) CASE(9) CASE(10) CASE(11) CASE(12) CASE(13) CASE(14)
#undef CASE
  }
}

// All tiles of what is packed; rows are shared out so that no tile is much lower than another.
template <class Rows, int ROW, int WORD>
void tiles(const Scratch& scratch, long rows, long columns, long words, Target to, Ahead ahead) {
  const float* left = reinterpret_cast<const float*>(scratch.left.get());
  const float* right = reinterpret_cast<const float*>(scratch.right.get());
  long parts = (rows + ROWS - 1) / ROWS;
  const long steps = parts * ((columns + COLUMNS - 1) / COLUMNS) * words;
  Meanwhile meanwhile{ahead, (ahead.lines * ahead.each + steps - 1) / steps};
  for (long row = 0; parts > 0; parts--) {
    const long count = (rows - row + parts - 1) / parts;
    for (long column = 0; column < columns; column += COLUMNS) {
      const bool past = to.past && columns - column >= COLUMNS;
      const Target part{to.at + row * to.line + column, to.line, to.add, past};
      const Factors of{left + row * ROW, right + column * words, words};
      tile_of<Rows, ROW, WORD>(count, of, part, columns - column, meanwhile);
    }
    row += count;
  }
}

void write(const float* sums, long rows, long columns, float* out, long line) {
  for (long i = 0; i < rows; i++)
    std::memcpy(out + i * line, sums + i * WIDTH, columns * sizeof(float));
}

#ifdef __AVX512BF16__
void write(const float* sums, long rows, long columns, Half* out, long line) {
  for (long i = 0; i < rows; i++)
    for (long j = 0; j < columns; j += 16) {
      const __m256i found = (__m256i)_mm512_cvtneps_pbh(_mm512_load_ps(sums + i * WIDTH + j));
      _mm256_mask_storeu_epi16(out + i * line + j, first(columns - j), found);
    }
}
#endif

// out[rows, columns] = left[rows, inner] right[inner, columns], columns at most WIDTH.
template <class Rows, class Stored, class Out>
struct Task {
  using Entry = Words<Rows, Stored>;
  static constexpr long MOST = WORDS * Entry::DEPTH;

  Matrix<Rows> left;
  Matrix<Stored> right;
  long rows, columns, inner;
  Out* out;
  long line;  // entries from row to row of `out`
  bool past;  // whether it may be written past the caches

  Ahead ahead(long k) const { return Ahead::of(right, columns, k, std::min(MOST, inner - k)); }

  void run(const Task* next) const {
    static thread_local Scratch scratch;
    if (inner == 0) return clear();
    for (long parts = (rows + TALLEST - 1) / TALLEST, row = 0; parts > 0; parts--) {
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
      pack<Rows>(right, columns, k, depth, scratch.right.get());
      for (long parts = (count + HEIGHT - 1) / HEIGHT, from = 0; parts > 0; parts--) {
        const long height = (count - from + parts - 1) / parts;
        fetch(left, row + from, height, k, depth, scratch.left.get());
        Ahead then;
        if (parts == 1 && k + MOST < inner) then = ahead(k + MOST);
        if (parts == 1 && k + MOST >= inner && next) then = next->ahead(0);
        const Target part{to.at + from * to.line, to.line, to.add, to.past};
        if (left.upright)
          tiles<Rows, 1, BY_WORD>(scratch, height, columns, words, part, then);
        else
          tiles<Rows, BY_ROW, 1>(scratch, height, columns, words, part, then);
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
};

// Runs every expert's every block of columns; a thread knows its next task before it begins one.
template <class Make>
void each(Groups groups, long columns, const Make& make) {
  const long blocks = (columns + WIDTH - 1) / WIDTH, total = groups.experts * blocks;
  std::atomic<long> taken{0};
  const auto task = [&](long i) {
    const long column = i % blocks * WIDTH;
    return make(i / blocks, column, std::min<long>(WIDTH, columns - column));
  };
#pragma omp parallel num_threads(groups.threads)
  for (long i = taken++; i < total;) {
    const long following = taken++;
    const auto now = task(i), next = task(std::min(following, total - 1));
    now.run(following < total ? &next : nullptr);
    i = following;
  }
}

// From rows [N, inner] and weights [E, inner, columns], or [E, columns, inner] if transposed.
template <class Rows, class Stored>
void product(const void* rows, const void* weight, Groups groups, long inner, long columns,
             bool transposed, void* out) {
  each(groups, columns, [=](long expert, long column, long width) {
    const Stored* matrix = static_cast<const Stored*>(weight) + expert * inner * columns;
    const long start = groups.start(expert);
    const Matrix<Rows> left{static_cast<const Rows*>(rows) + start * inner, inner, false};
    const Matrix<Stored> plain{matrix + column, columns, true};
    const Matrix<Stored> turned{matrix + column * inner, inner, false};
    Rows* at = static_cast<Rows*>(out) + start * columns + column;
    const long count = groups.count(expert);
    return Task<Rows, Stored, Rows>{left,  transposed ? turned : plain, count, width, inner, at,
                                    columns, false};
  });
}

// From rows [N, height] and gradients [N, columns].
template <class Rows, class Out>
void outer(const void* rows, const void* grad, Groups groups, long height, long columns,
           void* out) {
  const bool past = columns % 16 == 0 && reinterpret_cast<uintptr_t>(out) % 64 == 0;
  each(groups, columns, [=](long expert, long column, long width) {
    const long start = groups.start(expert), count = groups.count(expert);
    const Matrix<Rows> left{static_cast<const Rows*>(rows) + start * height, height, true};
    const Rows* from = static_cast<const Rows*>(grad) + start * columns + column;
    Out* at = static_cast<Out*>(out) + expert * height * columns + column;
    const Matrix<Rows> right{from, columns, true};
    return Task<Rows, Rows, Out>{left, right, height, width, count, at, columns, past};
  });
}

}  // namespace
}  // namespace turnout

#define EXPORTED extern "C" __attribute__((visibility("default")))

// Kinds: 0 all float32; 1 rows bfloat16, weights and their gradient float32; 2 all bfloat16.

EXPORTED void turnout_product(const void* rows, const void* weight, const int32_t* ends,
                              long experts, long inner, long columns, int transposed, int kind,
                              long threads, void* out) {
  using namespace turnout;
  const Groups groups{ends, experts, threads};
  if (kind == 0)
    return product<float, float>(rows, weight, groups, inner, columns, transposed, out);
#ifdef __AVX512BF16__
  if (kind == 1)
    return product<Half, float>(rows, weight, groups, inner, columns, transposed, out);
  if (kind == 2)
    return product<Half, Half>(rows, weight, groups, inner, columns, transposed, out);
#endif
}

EXPORTED void turnout_outer(const void* rows, const void* grad, const int32_t* ends, long experts,
                            long height, long columns, int kind, long threads, void* out) {
  using namespace turnout;
  const Groups groups{ends, experts, threads};
  if (kind == 0) return outer<float, float>(rows, grad, groups, height, columns, out);
#ifdef __AVX512BF16__
  if (kind == 1) return outer<Half, float>(rows, grad, groups, height, columns, out);
  if (kind == 2) return outer<Half, Half>(rows, grad, groups, height, columns, out);
#endif
}
