// Both factors as they are multiplied: packed into a thread's own memory.

#pragma once

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "words.h"

namespace turnout {

constexpr int COLUMNS = 32;         // of a panel: two registers
constexpr int ROWS = 14;            // of a tile: 28 sums, which leave registers for both factors
constexpr int WORDS = 512;          // of the inner dimension at a time
constexpr int HEIGHT = 16 * ROWS;   // rows of the left factor at a time
constexpr int WIDTH = 256;          // columns of the right factor at a time
constexpr int FEW = 64;             // rows, which cost little to fetch again for other columns
constexpr int SHARES = 4;           // tasks that a thread is to have of a packed factor, if few
constexpr int AHEAD = 4;            // lines that are fetched before they are packed
constexpr int BY_ROW = WORDS + 16;  // from row to row, so that rows do not share a set of a cache
constexpr int BY_WORD = HEIGHT + 16;  // from word to word of an upright left factor

template <class Entry>
long words_of(long depth) {
  return (depth + Entry::DEPTH - 1) / Entry::DEPTH;
}

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};

template <class T>
using Room = std::unique_ptr<T[], Free>;

template <class T>
Room<T> room(size_t count) {
  return Room<T>(static_cast<T*>(std::aligned_alloc(64, count * sizeof(T))));
}

// Of one thread: both factors, and sums that are not done or not rounded yet.
struct Scratch {
  Room<uint32_t> right = room<uint32_t>(WORDS * WIDTH);
  Room<uint32_t> left = room<uint32_t>(std::max(HEIGHT * BY_ROW, WORDS * BY_WORD));
  Room<float> sums = room<float>(4 * HEIGHT * WIDTH);
};

// A matrix in memory: `line` entries from one of its lines to the next. Upright, a line runs along
// the outer dimension (columns of the right factor, rows of the left one); else along the inner.
template <class Stored>
struct Matrix {
  const Stored* data;
  long line;
  bool upright;
  const Stored* at(long outer, long inner) const {
    return upright ? data + inner * line + outer : data + outer * line + inner;
  }
};

// Cache lines of a block that will be packed next, fetched one by one while another is multiplied.
struct Ahead {
  const char* at = nullptr;
  long lines = 0, in_line = 0, each = 0, skip = 0;
  template <class Stored>
  static Ahead of(const Matrix<Stored>& right, long columns, long inner, long depth) {
    const long entries = right.upright ? columns : depth, lines = right.upright ? depth : columns;
    const long each = (entries * long(sizeof(Stored)) + 63) / 64;
    const char* at = reinterpret_cast<const char*>(right.at(0, inner));
    return {at, lines, each, each, right.line * long(sizeof(Stored)) - each * 64};
  }
  void step() {
    if (lines == 0) return;
    _mm_prefetch(at, _MM_HINT_T1);
    at += 64;
    if (--in_line > 0) return;
    at += skip;
    in_line = each;
    lines--;
  }
};

// Panels of the right factor's first `columns`: `depth` of the inner dimension, from `inner` on.
template <class Rows, class Stored>
void pack(const Matrix<Stored>& right, long columns, long inner, long depth, uint32_t* out) {
  using Entry = Words<Rows, Stored>;
  const long words = words_of<Entry>(depth);
  const auto place = [=](long column, long word) {
    return out + (column / COLUMNS * words + word) * COLUMNS + column % COLUMNS;
  };
  if (right.upright) {  // line by line, as memory is read fastest
    for (long word = 0; word < words; word++) {
      const long k = word * Entry::DEPTH;
      for (long column = 0; column < columns; column += 16) {
        const Stored* at = right.at(column, inner + k);
        for (long ahead = 0; ahead < Entry::DEPTH; ahead++)
          _mm_prefetch(at + (AHEAD * Entry::DEPTH + ahead) * right.line, _MM_HINT_T0);
        const __mmask16 mask = first(columns - column);
        _mm512_store_si512(place(column, word), Entry::across(at, right.line, depth - k, mask));
      }
    }
    return;
  }
  for (long column = 0; column < columns; column += 16) {
    const long last = std::min(15L, columns - column - 1);
    for (long word = 0; word < words; word += 16) {
      __m512i r[16];
      const long k = word * Entry::DEPTH;
      for (long i = 0; i < 16; i++) {
        const Stored* at = right.at(column + std::min(i, last), inner + k);
        _mm_prefetch(at + 64, _MM_HINT_T0);
        r[i] = Entry::along(at, depth - k);
      }
      transpose(r);
      for (long i = 0; i < std::min(16L, words - word); i++)
        _mm512_store_si512(place(column, word + i), r[i]);
    }
  }
}

// Rows of the left factor, BY_ROW words apart; of an upright one its lines, BY_WORD words apart.
template <class Rows>
void fetch(const Matrix<Rows>& left, long row, long rows, long inner, long depth, uint32_t* out) {
  using Entry = Words<Rows, Rows>;
  const long words = words_of<Entry>(depth);
  for (long i = 0; !left.upright && i < rows; i++) {
    out[i * BY_ROW + words - 1] = 0;  // the last word may lack an entry
    std::memcpy(out + i * BY_ROW, left.at(row + i, inner), depth * sizeof(Rows));
  }
  for (long word = 0; left.upright && word < words; word++) {
    const long k = word * Entry::DEPTH;
    for (long i = 0; i < rows; i += 16)
      _mm512_store_si512(
          out + word * BY_WORD + i,
          Entry::across(left.at(row + i, inner + k), left.line, depth - k, first(rows - i)));
  }
}

// Panels as tiles read them, `stride` words from one to the next.
struct Panels {
  const float* at;
  long stride;
};

// A right factor as it lies in memory: a block is packed when it is multiplied.
template <class Rows, class Stored>
struct Loose {
  using Entry = Words<Rows, Stored>;
  static constexpr long TALLEST = 4 * HEIGHT;  // rows that a block is multiplied by once packed
  Matrix<Stored> matrix;
  Ahead ahead(long columns, long inner, long depth) const {
    return Ahead::of(matrix, columns, inner, depth);
  }
  Panels panels(Scratch& scratch, long columns, long inner, long depth) const {
    pack<Rows>(matrix, columns, inner, depth, scratch.right.get());
    const float* at = reinterpret_cast<const float*>(scratch.right.get());
    return {at, words_of<Entry>(depth) * COLUMNS};
  }
};

// A right factor that was packed for good: a panel has all `words` of the inner dimension.
template <class Stored>
struct Packed {
  using Entry = Words<Stored, Stored>;
  static constexpr long TALLEST = HEIGHT;  // so that their sums stay in the caches
  const float* at;
  long words;
  static long count(long columns) { return (columns + COLUMNS - 1) / COLUMNS; }
  Ahead ahead(long columns, long inner, long depth) const {
    const long each = words_of<Entry>(depth) * COLUMNS * long(sizeof(float)) / 64;
    const float* from = at + inner / Entry::DEPTH * COLUMNS;
    const long line = words * COLUMNS * long(sizeof(float));
    return {reinterpret_cast<const char*>(from), count(columns), each, each, line - each * 64};
  }
  Panels panels(Scratch&, long, long inner, long) const {
    return {at + inner / Entry::DEPTH * COLUMNS, words * COLUMNS};
  }
};

}  // namespace turnout
