#include "coordinator/planner/cost/op_rate.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/model/precision_recipe.h"

namespace fathom::planner {
namespace {

constexpr double kTera = 1e12;
constexpr double kGiga = 1e9;
constexpr double kMicro = 1e-6;
constexpr double kAccumulated = 8;  // bytes of an output read and written in FP32
constexpr double kWritten = 2;      // in BF16
constexpr int64_t kTile = 128;      // edge of the tile of output that one compute unit makes

constexpr std::array<const char*, 4> kRateNames = {"gemm", "grouped_gemm", "attention_forward",
                                                   "attention_backward"};

double Log(int64_t size) { return size > 0 ? std::log2(static_cast<double>(size)) : 0; }

// Sizes that the measurement doesn't name are no distance.
double SquaredDistance(const std::array<double, 3>& measured, const std::array<double, 3>& shape) {
  double sum = 0;
  for (size_t i = 0; i < shape.size(); ++i) {
    const double d = measured[i] == 0 ? 0 : measured[i] - shape[i];
    sum += d * d;
  }
  return sum;
}

constexpr std::array<model::Format, 3> kFormats = {model::Format::kE4M3, model::Format::kBf16,
                                                   model::Format::kFp32};
constexpr std::array<const char*, 3> kFormatNames = {"e4m3", "bf16", "fp32"};

size_t IndexOf(model::Format format) {
  if (format == model::Format::kE4M3) return 0;
  return format == model::Format::kBf16 ? 1 : 2;
}

bool IsOf(const v1::MeasuredRate& rate, const HeadWidths& widths) {
  return rate.n() == widths.keys && rate.k() == widths.values;
}

bool HasOf(const v1::DeviceProfile& profile, absl::string_view op, const HeadWidths& widths) {
  for (const v1::MeasuredRate& rate : profile.rates()) {
    if (rate.op() == op && IsOf(rate, widths)) return true;
  }
  return false;
}

// Two products forward, of keys and of values; five backward, three of keys.
double ForwardPadding(const HeadWidths& widths) {
  const auto padded = static_cast<double>(std::max(widths.keys, widths.values));
  return 2 * padded / static_cast<double>(widths.keys + widths.values);
}
double BackwardPadding(const HeadWidths& widths) {
  const auto padded = static_cast<double>(std::max(widths.keys, widths.values));
  return 5 * padded / static_cast<double>(3 * widths.keys + 2 * widths.values);
}

bool IsFormat(const v1::MeasuredRate& rate, absl::string_view format) {
  return rate.format().empty() || rate.format() == format;
}

}  // namespace

const char* ToString(Bound bound) {
  switch (bound) {
    case Bound::kCompute:
      return "compute";
    case Bound::kMemory:
      return "memory";
    case Bound::kNetwork:
      return "network";
    case Bound::kScaleUp:
      return "scale-up";
    case Bound::kLatency:
      return "latency";
  }
  return "";
}

OpClass ClassOf(const model::OpCall& call) {
  const absl::string_view op = call.op;
  if (op == "Gemm" || op == "GemmFp8") {
    return call.grouped ? OpClass::kGroupedProduct : OpClass::kProduct;
  }
  if (op == "AttentionForward") return OpClass::kAttentionForward;
  if (op == "AttentionBackward") return OpClass::kAttentionBackward;
  return OpClass::kMemory;
}

absl::StatusOr<OpRates> OpRates::Make(const v1::DeviceProfile& profile, model::Format products,
                                      HeadWidths widths) {
  OpRates out;
  out.bf16_peak_ = profile.bf16_tflops() * kTera;
  out.fp8_peak_ = profile.fp8_tflops() * kTera;
  out.fp32_peak_ = profile.fp32_tflops() * kTera;
  out.compute_units_ = std::max(1, profile.compute_units());
  out.launch_s_ = profile.launch_us() * kMicro;
  const auto missing = [&](absl::string_view what) {
    return absl::InvalidArgumentError(absl::StrCat(
        "device profile \"", profile.kind(), "\" has no ", what,
        ", without which a step's time can't be predicted; give it under spec.profiles of the "
        "cluster file"));
  };
  if (out.bf16_peak_ <= 0) return missing("bf16_tflops");
  if (products == model::Format::kE4M3 && out.fp8_peak_ <= 0) return missing("fp8_tflops");
  const std::array<bool, 2> exact = {HasOf(profile, kRateNames[2], widths),
                                     HasOf(profile, kRateNames[3], widths)};
  if (!exact[0]) out.attention_padding_[0] = ForwardPadding(widths);
  if (!exact[1]) out.attention_padding_[1] = BackwardPadding(widths);
  for (const v1::MeasuredRate& rate : profile.rates()) {
    if (rate.op() == "memory") {
      out.memory_bytes_per_second_ = std::max(out.memory_bytes_per_second_, rate.rate() * kGiga);
    }
    for (size_t op = 0; op < kRateNames.size(); ++op) {
      if (rate.op() != kRateNames[op]) continue;
      const bool attention = op >= static_cast<size_t>(OpClass::kAttentionForward);
      if (attention && exact[op - 2] != IsOf(rate, widths)) continue;
      const std::array<double, 3> shape = {Log(rate.m()), attention ? 0 : Log(rate.n()),
                                           attention ? 0 : Log(rate.k())};
      for (size_t format = 0; format < kFormats.size(); ++format) {
        const double peak = out.Peak(kFormats[format]);
        if (!IsFormat(rate, kFormatNames[format]) || peak <= 0) continue;
        out.points_[format][op].push_back({shape, rate.rate() * kTera / peak});
        break;  // one without a format counts for the fastest
      }
    }
  }
  if (out.memory_bytes_per_second_ <= 0) return missing("rate of \"memory\"");
  for (OpClass op : {OpClass::kProduct, OpClass::kAttentionForward, OpClass::kAttentionBackward}) {
    if (out.PointsOf(op, model::Format::kBf16).empty()) {
      return missing(absl::StrCat("rate of \"", kRateNames[static_cast<size_t>(op)], "\""));
    }
  }
  return out;
}

const OpRates::Points& OpRates::PointsOf(OpClass op, model::Format format) const {
  const size_t index = static_cast<size_t>(op);
  const size_t plain = static_cast<size_t>(OpClass::kProduct);
  const size_t own = IndexOf(format);
  for (size_t row : {own, size_t{1}, size_t{0}, size_t{2}}) {
    if (!points_[row][index].empty()) return points_[row][index];
    if (op == OpClass::kGroupedProduct && !points_[row][plain].empty()) return points_[row][plain];
  }
  return points_[own][index];
}

double OpRates::Peak(model::Format format) const {
  switch (format) {
    case model::Format::kE4M3:
      return fp8_peak_ > 0 ? fp8_peak_ : bf16_peak_;
    case model::Format::kBf16:
      return bf16_peak_;
    case model::Format::kFp32:
    case model::Format::kFp64:
      return fp32_peak_ > 0 ? fp32_peak_ : bf16_peak_;
  }
  return bf16_peak_;
}

double OpRates::Efficiency(OpClass op, model::Format format, int64_t m, int64_t n,
                           int64_t k) const {
  const std::array<double, 3> shape = {Log(m), Log(n), Log(k)};
  double sum = 0;
  double weights = 0;
  for (const Point& point : PointsOf(op, format)) {
    const double squared = SquaredDistance(point.log_shape, shape);
    if (squared == 0) return point.efficiency;
    sum += point.efficiency / squared;
    weights += 1 / squared;
  }
  return sum / weights;
}

namespace {

// What a product that accumulates reads and writes of its output, beyond the output in BF16 that
// measured ones write.
double AccumulationBytes(const model::OpCall& call) {
  const auto count = static_cast<double>(call.count);
  const auto k = static_cast<double>(call.k);
  const double outputs = static_cast<double>(call.m) * static_cast<double>(call.n) * count;
  const double inputs = static_cast<double>(call.m + call.n) * k * count *
                        static_cast<double>(model::BytesOf(call.format));
  const double per_output = (call.bytes - inputs) / outputs;
  return per_output < kAccumulated ? 0 : (kAccumulated - kWritten) * outputs;
}

}  // namespace

double OpRates::AttentionRate(const model::OpCall& call, OpClass op) const {
  const size_t which = op == OpClass::kAttentionForward ? 0 : 1;
  return Peak(call.format) * Efficiency(op, call.format, call.k, 0, 0) / attention_padding_[which];
}

double OpRates::ProductRate(const model::OpCall& call, OpClass op, double units) const {
  const int64_t tiles = ((call.m + kTile - 1) / kTile) * ((call.n + kTile - 1) / kTile) *
                        (call.grouped ? call.count : 1);
  return Peak(call.format) * Efficiency(op, call.format, call.m, call.n, call.k) *
         std::min(1.0, static_cast<double>(tiles) / units);
}

BoundedTime OpRates::TimeOf(const model::OpCall& call, const DeviceShare& share) const {
  const OpClass op = ClassOf(call);
  const double memory_s = MemorySeconds(call.bytes) / share.memory;
  double compute_s = 0;
  if (op == OpClass::kAttentionForward || op == OpClass::kAttentionBackward) {
    compute_s = call.flops / (AttentionRate(call, op) * share.compute_units);
  } else if (op != OpClass::kMemory) {
    const double units = compute_units_ * share.compute_units;
    compute_s = call.flops / (ProductRate(call, op, units) * share.compute_units) +
                MemorySeconds(AccumulationBytes(call)) / share.memory;
  }
  const double calls = call.grouped ? 1 : static_cast<double>(call.count);
  const double launch_s = calls * launch_s_;
  const double work_s = std::max(compute_s, memory_s);
  const Bound bound = launch_s > work_s      ? Bound::kLatency
                      : compute_s > memory_s ? Bound::kCompute
                                             : Bound::kMemory;
  return {work_s + launch_s, bound};
}

}  // namespace fathom::planner
