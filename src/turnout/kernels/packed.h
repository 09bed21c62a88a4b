// Products with matrices that were packed into panels for good.

#pragma once

#include "task.h"

namespace turnout {
namespace {

// Weights [E, columns, inner] as panels, for `packed`.
template <class Stored>
void pack(const void* weight, Groups groups, long inner, long columns, void* out) {
  using Right = Packed<Stored>;
  const long words = words_of<typename Right::Entry>(inner), panels = Right::count(columns);
#pragma omp parallel for num_threads(groups.threads)
  for (long i = 0; i < groups.experts * panels; i++) {
    const long column = i % panels * COLUMNS;
    const long line = i / panels * columns + column;
    const Matrix<Stored> matrix{static_cast<const Stored*>(weight) + line * inner, inner, false};
    uint32_t* at = static_cast<uint32_t*>(out) + i * words * COLUMNS;
    turnout::pack<Stored>(matrix, std::min<long>(COLUMNS, columns - column), 0, inner, at);
  }
}

// From rows [N, inner] and the panels of a matrix [inner, columns] an expert.
template <class Rows>
void packed(const void* rows, const void* panels, Groups groups, long inner, long columns,
            void* out) {
  using Right = Packed<Rows>;
  const long words = words_of<typename Right::Entry>(inner), count = Right::count(columns);
  const std::vector<long> experts = groups.with_rows();
  if (experts.empty()) return;
  const long shares = groups.ends[groups.experts - 1] <= FEW ? SHARES : 1;
  const long share = long(experts.size()) * count / (shares * groups.threads);
  const long most = COLUMNS * std::clamp<long>(share, 1, WIDTH / COLUMNS);
  each(experts, groups.threads, columns, most, [=](long expert, long column, long width) {
    const long panel = expert * count + column / COLUMNS, start = groups.start(expert);
    const Right right{static_cast<const float*>(panels) + panel * words * COLUMNS, words};
    const Matrix<Rows> left{static_cast<const Rows*>(rows) + start * inner, inner, false};
    Rows* at = static_cast<Rows*>(out) + start * columns + column;
    return Task<Rows, Right, Rows>{left, right, groups.count(expert), width, inner, at, columns,
                                   false};
  });
}

}  // namespace
}  // namespace turnout
