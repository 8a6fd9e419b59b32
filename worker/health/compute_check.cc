#include "worker/health/compute_check.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "common/health/preflight_verdict.h"
#include "kernels/tolerances.h"

namespace fathom::health {
namespace {

using kernels::DType;
using kernels::Matrix;
using kernels::Ops;

constexpr int kMinBursts = 3;

absl::string_view NameOf(DType type) { return type == DType::kBF16 ? "BF16" : "FP32"; }

// A dense matrix in an Ops' own memory.
class Buffer {
 public:
  Buffer(Ops* ops, DType type, int64_t rows, int64_t cols)
      : ops_(ops),
        matrix_{.data = ops->Allocate(static_cast<size_t>(rows * cols * SizeOf(type))),
                .dtype = type,
                .rows = rows,
                .cols = cols,
                .stride = cols} {}
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { ops_->Free(matrix_.data); }

  const Matrix& matrix() const { return matrix_; }
  size_t bytes() const {
    return static_cast<size_t>(matrix_.rows * matrix_.cols * SizeOf(matrix_.dtype));
  }

  // Rounds to the matrix's type.
  void Set(const std::vector<float>& values) {
    Buffer floats(ops_, DType::kF32, matrix_.rows, matrix_.cols, values);
    ops_->Copy(floats.matrix(), matrix_);
    ops_->Synchronize();
  }

  std::vector<float> Get() const {
    std::vector<float> values(static_cast<size_t>(matrix_.rows * matrix_.cols));
    ops_->Synchronize();
    ops_->CopyToHost(values.data(), matrix_.data, bytes());
    return values;
  }

 private:
  Buffer(Ops* ops, DType type, int64_t rows, int64_t cols, const std::vector<float>& values)
      : Buffer(ops, type, rows, cols) {
    ops->CopyFromHost(matrix_.data, values.data(), bytes());
  }

  Ops* const ops_;
  const Matrix matrix_;
};

std::vector<float> Normal(int64_t count, uint64_t seed) {
  std::mt19937_64 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(generator);
  return values;
}

// Two square factors of a type and room for their product in FP32.
struct Product {
  Product(Ops* with, DType type, int64_t edge, uint64_t seed)
      : ops(with),
        a(ops, type, edge, edge),
        b(ops, type, edge, edge),
        c(ops, DType::kF32, edge, edge) {
    a.Set(Normal(edge * edge, seed));
    b.Set(Normal(edge * edge, seed + 1));
  }

  void Multiply() {
    ops->Gemm(a.matrix(), false, b.matrix(), true, c.matrix(), false);
    ops->Synchronize();
  }

  Ops* const ops;
  Buffer a, b, c;
};

double MeasureGigaflops(Ops* ops, DType type, const ComputeCheckOptions& options,
                        absl::Duration time, const Clock* clock) {
  Product product(ops, type, options.rate_edge, options.seed);
  product.Multiply();  // oneDNN compiles its kernel now
  const double edge = static_cast<double>(options.rate_edge);
  const absl::Duration end = clock->Steady() + time;
  absl::Duration best = absl::InfiniteDuration();
  for (int burst = 0; burst < kMinBursts || clock->Steady() < end; ++burst) {
    const absl::Duration before = clock->Steady();
    product.Multiply();
    best = std::min(best, clock->Steady() - before);
  }
  return 2 * edge * edge * edge / 1e9 / absl::ToDoubleSeconds(best);
}

// Keeps the thread on one CPU at a time, and puts it back where it was.
class CpuPin {
 public:
  CpuPin() { known_ = ::sched_getaffinity(0, sizeof(before_), &before_) == 0; }
  CpuPin(const CpuPin&) = delete;
  CpuPin& operator=(const CpuPin&) = delete;
  ~CpuPin() {
    if (known_) ::sched_setaffinity(0, sizeof(before_), &before_);
  }

  std::vector<int> cpus() const {
    std::vector<int> cpus;
    for (int cpu = 0; known_ && cpu < CPU_SETSIZE; ++cpu) {
      if (CPU_ISSET(cpu, &before_)) cpus.push_back(cpu);
    }
    return cpus;
  }

  bool MoveTo(int cpu) const {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    return ::sched_setaffinity(0, sizeof(set), &set) == 0;
  }

 private:
  cpu_set_t before_;
  bool known_ = false;
};

v1::PreflightCheck Correctness(bool passed, double cpus, std::string subject, std::string message) {
  v1::PreflightCheck check;
  check.set_name(std::string(kComputeCorrectness));
  check.set_unit("CPUs");
  check.set_passed(passed);
  check.set_value(cpus);
  check.set_subject(std::move(subject));
  check.set_message(std::move(message));
  return check;
}

// One product per type: its factors on the backend, and what the reference says it is.
struct KnownProduct {
  DType type;
  std::unique_ptr<Product> product;
  std::vector<float> want;
};

std::vector<KnownProduct> KnowProducts(const ComputeCheckOptions& options, Ops* ops,
                                       Ops* reference) {
  std::vector<KnownProduct> known;
  for (const DType type : {DType::kF32, DType::kBF16}) {
    Product by_reference(reference, type, options.correctness_edge, options.seed);
    by_reference.Multiply();
    known.push_back({type,
                     std::make_unique<Product>(ops, type, options.correctness_edge, options.seed),
                     by_reference.c.Get()});
  }
  return known;
}

std::optional<std::string> TryProducts(const std::vector<KnownProduct>& known) {
  for (const KnownProduct& k : known) {
    k.product->Multiply();
    if (auto wrong = CompareProducts(k.want, k.product->c.Get(), k.type)) return wrong;
  }
  return std::nullopt;
}

}  // namespace

std::optional<std::string> CompareProducts(absl::Span<const float> want,
                                           absl::Span<const float> got, DType type) {
  // The product is stored in FP32 whatever its factors are.
  const kernels::Tolerance tolerance = ToleranceOf(kernels::OpKind::kGemm, DType::kF32);
  double largest = 0;
  for (const float value : want) largest = std::max(largest, std::fabs(double{value}));
  double worst = 1;  // in units of what is allowed
  std::optional<std::string> wrong;
  for (size_t i = 0; i < want.size(); ++i) {
    const double error = std::fabs(double{want[i]} - double{got[i]});
    const double allowed =
        tolerance.relative * std::fabs(double{want[i]}) + tolerance.of_largest * largest;
    if (error <= worst * allowed) continue;  // not for NaN
    worst = error / allowed;
    wrong = absl::StrFormat("element %d of a %s product is %.9g instead of %.9g", i, NameOf(type),
                            got[i], want[i]);
    if (std::isnan(worst)) break;
  }
  return wrong;
}

std::vector<v1::PreflightCheck> CheckComputeRate(const ComputeCheckOptions& options, Ops* ops,
                                                 const Clock* clock) {
  std::vector<v1::PreflightCheck> checks;
  const absl::Duration time = options.rate_time / (2 * std::max(options.devices, 1));
  for (int device = 0; device < options.devices; ++device) {
    for (const DType type : {DType::kF32, DType::kBF16}) {
      v1::PreflightCheck& check = checks.emplace_back();
      check.set_name(std::string(type == DType::kF32 ? kComputeRateFp32 : kComputeRateBf16));
      check.set_unit("GFLOP/s");
      check.set_subject(absl::StrCat("device ", device));
      check.set_value(MeasureGigaflops(ops, type, options, time, clock));
      check.set_passed(true);
    }
  }
  return checks;
}

std::vector<v1::PreflightCheck> CheckComputeCorrectness(const ComputeCheckOptions& options,
                                                        Ops* ops, Ops* reference,
                                                        const Clock* clock) {
  const std::vector<KnownProduct> known = KnowProducts(options, ops, reference);
  std::vector<v1::PreflightCheck> failed;
  const CpuPin pin;
  const std::vector<int> cpus = pin.cpus();
  const absl::Duration end = clock->Steady() + options.correctness_time;
  int tried = 0;
  for (const int cpu : cpus) {
    if (tried > 0 && clock->Steady() >= end) break;
    if (!pin.MoveTo(cpu)) continue;  // taken away since
    ++tried;
    if (auto wrong = TryProducts(known)) {
      failed.push_back(Correctness(false, 1, absl::StrCat("cpu ", cpu), *std::move(wrong)));
    }
  }
  if (!failed.empty()) return failed;
  if (tried == 0) {  // CPUs can't be chosen here: wherever the thread happens to be
    auto wrong = TryProducts(known);
    return {Correctness(!wrong, 1, "", wrong.value_or(""))};
  }
  std::string note;
  if (tried < cpus.size()) {
    note = absl::StrCat("time was left for ", tried, " of ", cpus.size(), " CPUs");
  }
  return {Correctness(true, tried, "", note)};
}

}  // namespace fathom::health
