// Tiles of sums, in registers, and how they are written.

#pragma once

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
void tiles(const Scratch& scratch, Panels right, long rows, long columns, long words, Target to,
           Ahead ahead) {
  const float* left = reinterpret_cast<const float*>(scratch.left.get());
  long parts = (rows + ROWS - 1) / ROWS;
  const long steps = parts * ((columns + COLUMNS - 1) / COLUMNS) * words;
  Meanwhile meanwhile{ahead, (ahead.lines * ahead.each + steps - 1) / steps};
  for (long row = 0; parts > 0; parts--) {
    const long count = (rows - row + parts - 1) / parts;
    for (long column = 0; column < columns; column += COLUMNS) {
      const bool past = to.past && columns - column >= COLUMNS;
      const Target part{to.at + row * to.line + column, to.line, to.add, past};
      const Factors of{left + row * ROW, right.at + column / COLUMNS * right.stride, words};
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

}  // namespace
}  // namespace turnout
