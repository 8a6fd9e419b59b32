#include "common/cluster/device_profiles.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>

#include <cmath>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/text.h"
#include "common/cluster/profile_table.h"

namespace fathom::cluster {
namespace {

using google::protobuf::FieldDescriptor;

// Rates beyond a device's peak are typing errors; a hair above is rounding.
constexpr double kPeakSlack = 1.001;

const std::vector<const ProfileRow*>& Rows() {
  static const std::vector<const ProfileRow*>* rows = [] {
    auto* all = new std::vector<const ProfileRow*>;
    for (const ProfileRow& row : NvidiaProfiles()) all->push_back(&row);
    for (const ProfileRow& row : OtherProfiles()) all->push_back(&row);
    return all;
  }();
  return *rows;
}

absl::Status Wrong(const v1::DeviceProfile& profile, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(
      "device profile ", profile.kind().empty() ? "without a kind" : profile.kind(), ": ", what));
}

bool MayBeZero(absl::string_view figure) {
  static const std::set<absl::string_view>* names =
      new std::set<absl::string_view>{"fp8_tflops", "communication_units", "launch_us",
                                      "dollars_per_device_hour", "scale_up_latency_us"};
  return names->contains(figure);
}

bool IsExchange(const v1::MeasuredRate& rate) {
  return rate.op() == "dispatch" || rate.op() == "combine";
}

// What bounds the rate of what is no exchange: of those it is logical, what stays on the node is
// counted and the link carries less.
double PeakOf(const v1::DeviceProfile& profile, const v1::MeasuredRate& rate) {
  if (rate.op() == "memory") return profile.memory_gigabytes_per_second();
  if (rate.format() == "e4m3") return profile.fp8_tflops();
  return rate.format() == "fp32" ? profile.fp32_tflops() : profile.bf16_tflops();
}

absl::Status CheckRate(const v1::DeviceProfile& profile, int index) {
  static const std::set<absl::string_view>* ops = new std::set<absl::string_view>{
      "gemm",     "grouped_gemm", "attention_forward", "attention_backward", "memory",
      "dispatch", "combine"};
  static const std::set<absl::string_view>* formats =
      new std::set<absl::string_view>{"", "e4m3", "bf16", "fp32"};
  const v1::MeasuredRate& rate = profile.rates(index);
  const auto wrong = [&](auto... what) {
    return Wrong(profile, absl::StrCat("rates[", index, "] (", rate.op(), " ", rate.format(),
                                       "): ", what...));
  };
  if (!ops->contains(rate.op())) {
    return wrong("op: \"", rate.op(), "\"; there is ", absl::StrJoin(*ops, ", "));
  }
  if (!formats->contains(rate.format())) {
    return wrong("format: \"", rate.format(), "\"; there is e4m3, bf16 and fp32, or leave it out");
  }
  if (!(rate.rate() > 0) || !std::isfinite(rate.rate())) {
    return wrong("rate: ", rate.rate(), "; give a positive number");
  }
  if (rate.rate() < kFigureMin || rate.rate() > kFigureMax) {
    return wrong("rate: ", rate.rate(), "; give a number from ", kFigureMin, " to ", kFigureMax);
  }
  if (rate.groups() < 0 || rate.m() < 0 || rate.n() < 0 || rate.k() < 0) {
    return wrong("a size below 0");
  }
  const bool product = rate.op() == "gemm" || rate.op() == "grouped_gemm";
  if (product && (rate.m() == 0 || rate.n() == 0 || rate.k() == 0)) {
    return wrong("m, n and k say at which shape it was measured; give all three");
  }
  if (IsExchange(rate)) {
    if (rate.groups() == 0) {
      return wrong("groups: missing; say over how many scale-up domains it was measured");
    }
  } else if (const double peak = PeakOf(profile, rate); peak <= 0) {
    // All other peaks are there: CheckFigures.
    return wrong("format: the device has no fp8_tflops; give that, or another format");
  } else if (rate.rate() > peak * kPeakSlack) {
    return wrong("rate: ", rate.rate(), " is above the device's peak; give at most ", peak);
  }
  if (rate.source().empty()) return wrong("source: missing; say where the figure comes from");
  return absl::OkStatus();
}

// Every number of the profile itself: positive, and from somewhere.
absl::Status CheckFigures(const v1::DeviceProfile& profile) {
  std::set<absl::string_view> sourced;
  for (const v1::Source& source : profile.sources()) {
    if (!source.text().empty()) sourced.insert(source.figure());
  }
  const auto* type = profile.GetDescriptor();
  const auto* reflection = profile.GetReflection();
  for (int i = 0; i < type->field_count(); ++i) {
    const FieldDescriptor* field = type->field(i);
    double value = 0;
    if (field->is_repeated()) continue;
    if (field->cpp_type() == FieldDescriptor::CPPTYPE_DOUBLE) {
      value = reflection->GetDouble(profile, field);
    } else if (field->cpp_type() == FieldDescriptor::CPPTYPE_INT32) {
      value = reflection->GetInt32(profile, field);
    } else if (field->cpp_type() == FieldDescriptor::CPPTYPE_INT64) {
      value = static_cast<double>(reflection->GetInt64(profile, field));
    } else {
      continue;
    }
    if (value == 0 && MayBeZero(field->name())) continue;
    if (!(value > 0) || !std::isfinite(value)) {
      return Wrong(profile, absl::StrCat(field->name(), ": ", value, "; give a positive number"));
    }
    if (field->cpp_type() == FieldDescriptor::CPPTYPE_DOUBLE &&
        (value < kFigureMin || value > kFigureMax)) {
      return Wrong(profile, absl::StrCat(field->name(), ": ", value, "; give a number from ",
                                         kFigureMin, " to ", kFigureMax));
    }
    if (!sourced.contains(field->name())) {
      return Wrong(profile,
                   absl::StrCat(field->name(), ": ", value,
                                " has no source; say under `sources` where it comes from"));
    }
  }
  return absl::OkStatus();
}

// The numbers of `message` itself: of times and factors none is below 0.
absl::Status CheckNumbers(const v1::DeviceProfile& profile, absl::string_view where,
                          const google::protobuf::Message& message) {
  const auto* type = message.GetDescriptor();
  for (int i = 0; i < type->field_count(); ++i) {
    const FieldDescriptor* field = type->field(i);
    if (field->is_repeated() || field->cpp_type() != FieldDescriptor::CPPTYPE_DOUBLE) continue;
    const double value = message.GetReflection()->GetDouble(message, field);
    // Bytes of a call are no rate.
    const double most = field->name() == "bytes" ? 1e18 : kFigureMax;
    if (!(value >= 0 && value <= most)) {
      return Wrong(profile, absl::StrCat(where, ".", field->name(), ": ", value,
                                         "; give a number from 0 to ", most));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckOpTimes(const v1::DeviceProfile& profile) {
  const v1::OpTimes& times = profile.op_times();
  if (absl::Status status = CheckNumbers(profile, "op_times", times); !status.ok()) return status;
  if (times.cores() < 0) {
    return Wrong(profile, absl::StrCat("op_times.cores: ", times.cores(), "; give 0 or more"));
  }
  for (int i = 0; i < times.ops_size(); ++i) {
    const v1::OpTime& op = times.ops(i);
    const std::string where = absl::StrCat("op_times.ops[", i, "] (", op.op(),
                                           op.format().empty() ? "" : " ", op.format(), ")");
    if (absl::Status status = CheckNumbers(profile, where, op); !status.ok()) return status;
    for (int size = 0; size < op.cache_size(); ++size) {
      const v1::CacheFactor& cache = op.cache(size);
      const std::string at = absl::StrCat(where, ".cache[", size, "]");
      if (absl::Status status = CheckNumbers(profile, at, cache); !status.ok()) return status;
      if (size > 0 && cache.bytes() <= op.cache(size - 1).bytes()) {
        return Wrong(profile, absl::StrCat(at, ".bytes: ", cache.bytes(),
                                           "; give sizes in ascending order"));
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace

std::vector<std::string> ProfileKinds() {
  std::vector<std::string> kinds;
  for (const ProfileRow* row : Rows()) kinds.push_back(row->kind);
  return kinds;
}

absl::StatusOr<v1::DeviceProfile> FindProfile(absl::string_view kind) {
  const std::string wanted = absl::AsciiStrToLower(kind);
  const ProfileRow* nearest = nullptr;
  size_t distance = 4;  // farther is no typing error
  for (const ProfileRow* row : Rows()) {
    if (wanted == row->kind) return MakeProfile(*row);
    const size_t to = EditDistance(wanted, row->kind, distance);
    if (to < distance) {
      distance = to;
      nearest = row;
    }
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "no device profile \"", kind, "\"; ",
      nearest == nullptr ? absl::StrCat("there is ", absl::StrJoin(ProfileKinds(), ", "),
                                        ", or describe it under spec.profiles")
                         : absl::StrCat("did you mean ", nearest->kind, "?")));
}

absl::Status CheckProfile(const v1::DeviceProfile& profile) {
  if (profile.kind().empty()) return Wrong(profile, "kind: missing; give it a name");
  if (absl::Status status = CheckFigures(profile); !status.ok()) return status;
  if (profile.scale_up_effective_gigabytes_per_second() > profile.scale_up_gigabytes_per_second()) {
    return Wrong(profile, absl::StrCat("scale_up_effective_gigabytes_per_second: ",
                                       profile.scale_up_effective_gigabytes_per_second(),
                                       " is above the data sheet's; give at most ",
                                       profile.scale_up_gigabytes_per_second()));
  }
  if (profile.communication_units() >= profile.compute_units()) {
    return Wrong(profile, absl::StrCat("communication_units: ", profile.communication_units(),
                                       " leaves none of ", profile.compute_units(),
                                       " for compute; give fewer"));
  }
  for (int i = 0; i < profile.rates_size(); ++i) {
    if (absl::Status status = CheckRate(profile, i); !status.ok()) return status;
  }
  return CheckOpTimes(profile);
}

}  // namespace fathom::cluster
