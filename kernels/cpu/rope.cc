#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/element.h"
#include "kernels/cpu/shape_checks.h"

namespace fathom::kernels {
namespace {

// Tables kept; a model uses one or two.
constexpr size_t kRopeTablesMax = 4;

template <typename T, typename Load, typename Store>
void Rotate(const RopeView& x, bool inverse, const float* cosine, const float* sine, Load load,
            Store store) {
  const int64_t pairs = x.dim / 2;
  const float sign = inverse ? -1.0f : 1.0f;
  for (int64_t t = 0; t < x.tokens; ++t) {
    const float* c = cosine + t % x.sequence_length * pairs;
    const float* s = sine + t % x.sequence_length * pairs;
    for (int64_t h = 0; h < x.heads; ++h) {
      T* row = static_cast<T*>(x.data) + t * x.token_stride + h * x.head_stride;
      for (int64_t i = 0; i < pairs; ++i) {
        const float first = load(row[2 * i]);
        const float second = load(row[2 * i + 1]);
        row[2 * i] = store(first * c[i] - second * (s[i] * sign));
        row[2 * i + 1] = store(first * (s[i] * sign) + second * c[i]);
      }
    }
  }
}

}  // namespace

const CpuOps::RopeTable& CpuOps::RopeTableFor(const RopeView& x) {
  for (const RopeTable& table : rope_tables_) {
    if (table.dim == x.dim && table.positions == x.sequence_length && table.theta == x.theta) {
      return table;
    }
  }
  if (rope_tables_.size() == kRopeTablesMax) {
    rope_tables_.erase(rope_tables_.begin());
  }
  RopeTable& table = rope_tables_.emplace_back();
  table.dim = x.dim;
  table.positions = x.sequence_length;
  table.theta = x.theta;
  for (int64_t position = 0; position < x.sequence_length; ++position) {
    for (int64_t i = 0; i < x.dim / 2; ++i) {
      const double angle = position * std::pow(x.theta, -2.0 * i / x.dim);
      table.cosine.push_back(static_cast<float>(std::cos(angle)));
      table.sine.push_back(static_cast<float>(std::sin(angle)));
    }
  }
  return table;
}

void CpuOps::Rope(const RopeView& x, bool inverse) {
  CheckRope(x);
  if (x.dtype == DType::kF64 || x.tokens == 0) {
    ReferenceOps::Rope(x, inverse);
    return;
  }
  const RopeTable& table = RopeTableFor(x);
  if (x.dtype == DType::kF32) {
    const auto same = [](float value) { return value; };
    Rotate<float>(x, inverse, table.cosine.data(), table.sine.data(), same, same);
  } else {
    Rotate<uint16_t>(x, inverse, table.cosine.data(), table.sine.data(), FloatFromBf16,
                     Bf16FromFloat);
  }
}

}  // namespace fathom::kernels
