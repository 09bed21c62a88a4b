// Attention of one query a head, as in a step of generation: bound by reading keys and values.

#pragma once

#include <cmath>
#include <vector>

#include "words.h"

namespace turnout {
namespace {

constexpr int LANES = 16;  // floats of a register
constexpr int ABREAST = 4;  // registers of sums at a time

inline __m512 widened(const float* at, __mmask16 mask) { return _mm512_maskz_loadu_ps(mask, at); }

inline __m512 widened(const Half* at, __mmask16 mask) {
  const __m512i bits = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, at));
  return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
}

inline void narrowed(__m512 sums, __mmask16 mask, float* at) {
  _mm512_mask_storeu_ps(at, mask, sums);
}

// To the nearest bfloat16, ties to even, without the processor's own instruction.
inline void narrowed(__m512 sums, __mmask16 mask, Half* at) {
  const __m512i bits = _mm512_castps_si512(sums);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __m512i kept = _mm512_mask_blend_epi32(_mm512_cmp_ps_mask(sums, sums, _CMP_UNORD_Q), up,
                                               _mm512_set1_epi32(0x7fc00000));
  _mm256_mask_storeu_epi16(at, mask, _mm512_cvtepi32_epi16(_mm512_srli_epi32(kept, 16)));
}

// e^x for x at most 0: 2^n times a polynomial in the rest, |rest| <= log(2) / 2, by Taylor to the
// seventh degree, whose error is below half a unit of the last place.
inline __m512 exponential(__m512 x) {
  x = _mm512_max_ps(_mm512_set1_ps(-104.0f), x);  // in this order, which lets a NaN through
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 0);
  __m512 rest = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
  rest = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), rest);
  __m512 sum = _mm512_set1_ps(1.0f / 5040);
  for (float each : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f})
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(each));
  return _mm512_scalef_ps(sum, n);
}

// A register of each, of which so many entries are left.
inline __m512 added_products(__m512 sum, const float* one, const float* other, long left) {
  return _mm512_fmadd_ps(widened(one, first(left)), widened(other, first(left)), sum);
}

#ifdef __AVX512BF16__
inline __m512 added_products(__m512 sum, const Half* one, const Half* other, long left) {
  using Pairs = Words<Half, Half>;
  return _mm512_dpbf16_ps(sum, (__m512bh)Pairs::along(one, left),
                          (__m512bh)Pairs::along(other, left));
}
#endif

// Entries from row to row of a batch, from head to head, and from key to key; entries of a key lie
// side by side. 0 where all rows or heads share one.
struct Strides {
  long row, head, key;
  long at(long b, long h) const { return b * row + h * head; }
};

template <class T>
struct Attention {
  const T *queries, *keys, *values;
  const float* bias;     // of a key, added to its logit; or null
  const bool* allowed;   // of a key, or null
  Strides query, key, value, added, may;
  long batch, heads, groups, length, width, value_width;
  float scale;
  T* out;  // [batch, heads, value_width]

  void run(long threads) const {
    const long each = heads / groups;
#pragma omp parallel for num_threads(threads)
    for (long i = 0; i < batch * groups; i++)
      for (long j = 0; j < each; j++) run_head(i / groups, i % groups, i % groups * each + j);
  }

 private:
  void run_head(long b, long group, long head) const {
    static thread_local std::vector<float> scores;
    scores.resize((length + LANES - 1) / LANES * LANES);
    const T* asked = queries + query.at(b, head);
    const T* from = keys + key.at(b, group);
    const float* plus = bias ? bias + added.at(b, head) : nullptr;
    const bool* may_read = allowed ? allowed + may.at(b, head) : nullptr;
    float most = -INFINITY;
    for (long k = 0; k < length; k++) {
      float logit = scale * dot(asked, from + k * key.key);
      if (plus) logit += plus[k * added.key];
      if (may_read && !may_read[k * may.key]) logit = -INFINITY;
      scores[k] = logit;
      if (logit > most || logit != logit) most = logit;  // a NaN stays
    }
    const float total = exponentials(scores.data(), most);
    mix(scores.data(), 1 / total, values + value.at(b, group),
        out + (b * heads + head) * value_width);
  }

  float dot(const T* asked, const T* from) const {
    __m512 sum = _mm512_setzero_ps();
    for (long d = 0; d < width; d += 64 / long(sizeof(T)))
      sum = added_products(sum, asked + d, from + d, width - d);
    return _mm512_reduce_add_ps(sum);
  }

  // Of all scores less `most`, in place; their sum. Where nothing may be read all are read alike.
  float exponentials(float* scores, float most) const {
    const __m512 base = _mm512_set1_ps(most == -INFINITY ? 0 : most);
    __m512 total = _mm512_setzero_ps();
    for (long k = 0; k < length; k += LANES) {
      const __mmask16 real = first(length - k);
      __m512 x = _mm512_sub_ps(_mm512_maskz_loadu_ps(real, scores + k), base);
      const __mmask16 none = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-INFINITY), _CMP_EQ_OQ);
      x = _mm512_mask_mov_ps(exponential(x), most == -INFINITY ? 0 : none, _mm512_setzero_ps());
      if (most == -INFINITY) x = _mm512_set1_ps(1);
      total = _mm512_mask_add_ps(total, real, total, x);
      _mm512_mask_storeu_ps(scores + k, real, x);
    }
    return _mm512_reduce_add_ps(total);
  }

  void mix(const float* weights, float factor, const T* from, T* to) const {
    for (long e = 0; e < value_width; e += ABREAST * LANES) {
      __m512 sums[ABREAST];
      __mmask16 masks[ABREAST];
      for (int i = 0; i < ABREAST; i++) {
        sums[i] = _mm512_setzero_ps();
        masks[i] = first(value_width - e - i * LANES);
      }
      for (long k = 0; k < length; k++) {
        const __m512 weight = _mm512_set1_ps(weights[k]);
        for (int i = 0; i < ABREAST; i++)
          sums[i] = _mm512_fmadd_ps(
              weight, widened(from + k * value.key + e + i * LANES, masks[i]), sums[i]);
      }
      for (int i = 0; i < ABREAST; i++)
        narrowed(_mm512_mul_ps(sums[i], _mm512_set1_ps(factor)), masks[i], to + e + i * LANES);
    }
  }
};

}  // namespace
}  // namespace turnout
