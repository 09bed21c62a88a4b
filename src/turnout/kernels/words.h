// Words of 32 bits, of which both factors consist once they are packed: one float, or two
// neighbours of the inner dimension in bfloat16, which the processor multiplies and adds to a float
// in one go.

#pragma once

#include <immintrin.h>

#include <cstdint>

namespace turnout {

struct Half {  // bfloat16
  uint16_t bits;
};

inline __mmask16 first(long count) {
  return count >= 16 ? 0xffff : count <= 0 ? 0 : (1u << count) - 1;
}

// How entries of type Stored become words. `along`: of one line, neighbours of the inner dimension;
// `across`: of as many lines as a word has entries, each with its own place of the outer dimension.
template <class Rows, class Stored>
struct Words;

template <>
struct Words<float, float> {
  static constexpr int DEPTH = 1;  // entries of the inner dimension in a word
  static __m512i along(const float* at, long left) {
    return _mm512_maskz_loadu_epi32(first(left), at);
  }
  static __m512i across(const float* at, long, long, __mmask16 columns) {
    return _mm512_maskz_loadu_epi32(columns, at);
  }
};

#ifdef __AVX512BF16__
inline __m512i paired(__m512i low, __m512i high) {
  return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}

template <>
struct Words<Half, Half> {
  static constexpr int DEPTH = 2;
  static __m512i along(const Half* at, long left) {
    __mmask32 mask = left >= 32 ? 0xffffffffu : (1u << left) - 1;
    return _mm512_maskz_loadu_epi16(mask, at);
  }
  static __m512i across(const Half* at, long line, long left, __mmask16 columns) {
    __m512i low = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(columns, at));
    if (left < 2) return low;
    return paired(low, _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(columns, at + line)));
  }
};

template <>
struct Words<Half, float> {
  static constexpr int DEPTH = 2;
  static __m512i along(const float* at, long left) {
    __m512 low = _mm512_maskz_loadu_ps(first(left), at);
    __m512 high = _mm512_maskz_loadu_ps(first(left - 16), at + 16);
    return (__m512i)_mm512_cvtne2ps_pbh(high, low);
  }
  static __m512i across(const float* at, long line, long left, __mmask16 columns) {
    __m512i low = narrow(at, columns);
    return left < 2 ? low : paired(low, narrow(at + line, columns));
  }
  static __m512i narrow(const float* at, __mmask16 columns) {
    return _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(columns, at)));
  }
};
#endif

inline void transpose(__m512i r[16]) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; i++) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
  }
  for (int i = 0; i < 8; i++) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
  }
}

}  // namespace turnout
