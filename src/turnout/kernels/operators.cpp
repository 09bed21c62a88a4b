// Operators of PyTorch's for passes over few tokens, by its stable interface: called from Python, a
// kernel would cost more for the call than a small product takes.

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>

#include "attention.h"
#include "packed.h"

namespace turnout {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Calls `make` with an entry of the tensor's dtype.
template <class Make>
void typed(const Tensor& like, const Make& make) {
  if (like.scalar_type() == ScalarType::Float) return make(float());
#ifdef __AVX512BF16__
  if (like.scalar_type() == ScalarType::BFloat16) return make(Half());
#endif
  STD_TORCH_CHECK(false, "of this dtype there is no kernel here");
}

long entries(const Tensor& like) { return like.scalar_type() == ScalarType::Float ? 1 : 2; }

long filled(long size, long unit) { return (size + unit - 1) / unit * unit; }

long threads() { return torch::stable::get_num_threads(); }

// [E, F, D] as panels: F is filled up to whole ones behind what the shape says, D to whole words.
Tensor pack_panels(const Tensor& given) {
  const Tensor weight = torch::stable::contiguous(given);
  const long experts = weight.size(0), columns = weight.size(1), inner = weight.size(2);
  const Tensor room = torch::stable::new_empty(
      weight, {experts, filled(columns, COLUMNS), filled(inner, entries(weight))});
  typed(weight, [&](auto entry) {
    using T = decltype(entry);
    const Groups groups{nullptr, experts, threads()};
    pack<T>(weight.const_data_ptr(), groups, inner, columns, room.mutable_data_ptr());
  });
  return torch::stable::narrow(const_cast<Tensor&>(room), 1, 0, columns);
}

// Rows [N, D] with the panels of [E, F, D], into [N, F]; F is `columns`.
void multiply(const Tensor& rows, const Tensor& panels, const int32_t* ends, long experts,
              long columns, Tensor& out) {
  const long count = columns ? out.numel() / columns : 0, inner = rows.size(-1);
  const long room = experts * filled(columns, COLUMNS) * filled(inner, entries(rows));
  int64_t stored = 0;
  aoti_torch_get_storage_size(panels.get(), &stored);
  STD_TORCH_CHECK(rows.scalar_type() == panels.scalar_type(), "rows of another dtype");
  STD_TORCH_CHECK(panels.size(-1) == filled(inner, entries(rows)), "rows of another width");
  STD_TORCH_CHECK(stored >= long(room * rows.element_size()), "a copy of packed weights");
  typed(rows, [&](auto entry) {
    using T = decltype(entry);
    T* to = static_cast<T*>(out.mutable_data_ptr());
    const long end = experts ? ends[experts - 1] : 0;
    std::memset(to + end * columns, 0, (count - end) * columns * sizeof(T));
    const Groups groups{ends, experts, threads()};
    packed<T>(rows.const_data_ptr(), panels.const_data_ptr(), groups, inner, columns, to);
  });
}

Tensor packed_linear(const Tensor& given, const Tensor& panels) {
  const Tensor rows = torch::stable::contiguous(given);
  const long columns = panels.size(0);
  std::vector<int64_t> shape(rows.sizes().begin(), rows.sizes().end());
  shape.back() = columns;
  Tensor out = torch::stable::new_empty(rows, shape);
  const int32_t end = columns ? out.numel() / columns : 0;
  multiply(rows, panels, &end, 1, columns, out);
  return out;
}

Tensor panel_product(const Tensor& given, const Tensor& offsets, const Tensor& panels) {
  const Tensor rows = torch::stable::contiguous(given), ends = torch::stable::contiguous(offsets);
  STD_TORCH_CHECK(ends.scalar_type() == ScalarType::Int, "offsets are not int32");
  STD_TORCH_CHECK(ends.size(0) == panels.size(0), "offsets of other experts");
  const long columns = panels.size(1);
  Tensor out = torch::stable::new_empty(rows, {rows.size(0), columns});
  multiply(rows, panels, ends.const_data_ptr<int32_t>(), panels.size(0), columns, out);
  return out;
}

Strides strides(const Tensor& of, int key) {
  const auto along = [&](int d) { return of.size(d) == 1 ? 0 : of.stride(d); };
  return {along(0), along(1), along(key)};
}

// Queries [B, H, 1, d], keys [B, G, K, d], values [B, G, K, e]; a float32 bias and what is allowed,
// each with a size of 1 where rows or heads share it, [., ., 1, K].
Tensor one_query(const Tensor& queries, const Tensor& keys, const Tensor& values,
                 std::optional<Tensor> bias, std::optional<Tensor> allowed, double scale) {
  const long batch = queries.size(0), heads = queries.size(1), width = values.size(3);
  Tensor out = torch::stable::new_empty(queries, {batch, heads, 1, width});
  STD_TORCH_CHECK(queries.size(3) <= 1 || queries.stride(3) == 1, "queries of strides");
  STD_TORCH_CHECK(keys.stride(3) == 1 && values.stride(3) == 1, "keys or values of strides");
  STD_TORCH_CHECK(keys.scalar_type() == queries.scalar_type() &&
                      values.scalar_type() == queries.scalar_type(),
                  "keys or values of another dtype");
  STD_TORCH_CHECK(keys.size(0) == batch && values.size(0) == batch &&
                      keys.size(1) == values.size(1) && heads % keys.size(1) == 0 &&
                      keys.size(2) == values.size(2) && keys.size(3) == queries.size(3),
                  "queries, keys and values that do not fit");
  for (const std::optional<Tensor>& each : {bias, allowed})
    STD_TORCH_CHECK(!each || each->size(3) == keys.size(2), "a mask of other keys");
  typed(queries, [&](auto entry) {
    using T = decltype(entry);
    Attention<T> attention{static_cast<const T*>(queries.const_data_ptr()),
                           static_cast<const T*>(keys.const_data_ptr()),
                           static_cast<const T*>(values.const_data_ptr())};
    attention.query = strides(queries, 2);
    attention.key = strides(keys, 2);
    attention.value = strides(values, 2);
    if (bias) {
      attention.bias = bias->const_data_ptr<float>();
      attention.added = strides(*bias, 3);
    }
    if (allowed) {
      attention.allowed = allowed->const_data_ptr<bool>();
      attention.may = strides(*allowed, 3);
    }
    attention.batch = batch, attention.heads = heads, attention.groups = keys.size(1);
    attention.length = keys.size(2), attention.width = queries.size(3);
    attention.value_width = width, attention.scale = scale;
    attention.out = static_cast<T*>(out.mutable_data_ptr());
    attention.run(threads());
  });
  return out;
}

}  // namespace
}  // namespace turnout

STABLE_TORCH_LIBRARY_IMPL(turnout, CPU, library) {
  library.impl("pack_panels", TORCH_BOX(&turnout::pack_panels));
  library.impl("packed_linear", TORCH_BOX(&turnout::packed_linear));
  library.impl("panel_product", TORCH_BOX(&turnout::panel_product));
  library.impl("one_query", TORCH_BOX(&turnout::one_query));
}
