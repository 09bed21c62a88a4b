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

#include "task.h"

namespace turnout {
namespace {

// From rows [N, inner] and weights [E, inner, columns], or [E, columns, inner] if transposed.
template <class Rows, class Stored>
void product(const void* rows, const void* weight, Groups groups, long inner, long columns,
             bool transposed, void* out) {
  each(groups.with_rows(), groups.threads, columns, WIDTH, [=](long expert, long column, long width) {
    const Stored* matrix = static_cast<const Stored*>(weight) + expert * inner * columns;
    const long start = groups.start(expert);
    const Matrix<Rows> left{static_cast<const Rows*>(rows) + start * inner, inner, false};
    using Right = Loose<Rows, Stored>;
    const Right plain{{matrix + column, columns, true}};
    const Right turned{{matrix + column * inner, inner, false}};
    Rows* at = static_cast<Rows*>(out) + start * columns + column;
    const long count = groups.count(expert);
    return Task<Rows, Right, Rows>{left,  transposed ? turned : plain, count, width, inner, at,
                                   columns, false};
  });
}

// From rows [N, height] and gradients [N, columns].
template <class Rows, class Out>
void outer(const void* rows, const void* grad, Groups groups, long height, long columns,
           void* out) {
  const bool past = columns % 16 == 0 && reinterpret_cast<uintptr_t>(out) % 64 == 0;
  each(groups.all(), groups.threads, columns, WIDTH, [=](long expert, long column, long width) {
    const long start = groups.start(expert), count = groups.count(expert);
    const Matrix<Rows> left{static_cast<const Rows*>(rows) + start * height, height, true};
    const Rows* from = static_cast<const Rows*>(grad) + start * columns + column;
    Out* at = static_cast<Out*>(out) + expert * height * columns + column;
    const Loose<Rows, Rows> right{{from, columns, true}};
    return Task<Rows, Loose<Rows, Rows>, Out>{left, right, height, width, count, at, columns, past};
  });
}

}  // namespace
}  // namespace turnout

#define EXPORTED extern "C" __attribute__((visibility("default")))

// Kinds: 0 all float32; 1 rows bfloat16, weights and their gradient float32; 2 all bfloat16.

EXPORTED void turnout_product(const void* rows, const void* weight, const int32_t* ends,
                              long experts, long inner, long columns, long transposed, long kind,
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
                            long height, long columns, long kind, long threads, void* out) {
  using namespace turnout;
  const Groups groups{ends, experts, threads};
  if (kind == 0) return outer<float, float>(rows, grad, groups, height, columns, out);
#ifdef __AVX512BF16__
  if (kind == 1) return outer<Half, float>(rows, grad, groups, height, columns, out);
  if (kind == 2) return outer<Half, Half>(rows, grad, groups, height, columns, out);
#endif
}
