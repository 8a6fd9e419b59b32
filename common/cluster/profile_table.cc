#include "common/cluster/profile_table.h"

#include <cmath>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "common/base/check.h"

namespace fathom::cluster {
namespace {

v1::MeasuredRate RateOf(const RateRow& row) {
  v1::MeasuredRate rate;
  rate.set_op(row.op);
  rate.set_format(row.format);
  rate.set_groups(row.groups);
  rate.set_m(row.m);
  rate.set_n(row.n);
  rate.set_k(row.k);
  rate.set_rate(row.rate);
  rate.set_source(row.source);
  return rate;
}

// The figure of a device that bounds a rate.
double PeakFor(const RateRow& rate, const ProfileRow& device) {
  const absl::string_view op = rate.op;
  const absl::string_view format = rate.format;
  if (op == "memory") return device.memory_gigabytes_per_second;
  if (op == "dispatch" || op == "combine") {
    return rate.groups <= 1 ? device.scale_up_effective_gigabytes_per_second
                            : device.nic_gigabits_per_second / 8;
  }
  if (format == "e4m3") return device.fp8_tflops;
  return format == "fp32" ? device.fp32_tflops : device.bf16_tflops;
}

// Exchanges within one scale-up domain and over several are two things.
bool HasOwn(const ProfileRow& row, const RateRow& rate) {
  const absl::string_view op = rate.op;
  const bool exchange = op == "dispatch" || op == "combine";
  for (const RateRow& own : row.rates) {
    if (op != own.op) continue;
    if (exchange ? (own.groups <= 1) == (rate.groups <= 1)
                 : absl::string_view(own.format) == rate.format) {
      return true;
    }
  }
  return false;
}

void AddRatesLike(const ProfileRow& like, const ProfileRow& row, v1::DeviceProfile& profile) {
  for (const RateRow& rate : like.rates) {
    const double peak = PeakFor(rate, row);
    if (HasOwn(row, rate) || peak <= 0) continue;
    v1::MeasuredRate scaled = RateOf(rate);
    const double share = rate.rate / PeakFor(rate, like);
    scaled.set_rate(std::round(share * peak * 10) / 10);
    scaled.set_source(absl::StrFormat("assumed: %.1f%% of what bounds it, as on %s; there: %s",
                                      100 * share, like.title, rate.source));
    *profile.add_rates() = scaled;
  }
}

}  // namespace

const ProfileRow* FindRow(absl::string_view kind) {
  for (const absl::Span<const ProfileRow> rows : {NvidiaProfiles(), OtherProfiles()}) {
    for (const ProfileRow& row : rows) {
      if (kind == row.kind) return &row;
    }
  }
  return nullptr;
}

v1::DeviceProfile MakeProfile(const ProfileRow& row) {
  v1::DeviceProfile profile;
  profile.set_kind(row.kind);
  profile.set_title(row.title);
  profile.set_bf16_tflops(row.bf16_tflops);
  profile.set_fp8_tflops(row.fp8_tflops);
  profile.set_fp32_tflops(row.fp32_tflops);
  profile.set_memory_bytes(std::llround(row.memory_gb * 1e9));
  profile.set_memory_gigabytes_per_second(row.memory_gigabytes_per_second);
  profile.set_compute_units(row.compute_units);
  profile.set_communication_units(row.communication_units);
  profile.set_scale_up_devices(row.scale_up_devices);
  profile.set_scale_up_gigabytes_per_second(row.scale_up_gigabytes_per_second);
  profile.set_scale_up_effective_gigabytes_per_second(row.scale_up_effective_gigabytes_per_second);
  profile.set_scale_up_latency_us(row.scale_up_latency_us);
  profile.set_nic_gigabits_per_second(row.nic_gigabits_per_second);
  profile.set_watts(row.watts);
  profile.set_launch_us(row.launch_us);
  profile.set_dollars_per_device_hour(row.dollars_per_device_hour);
  for (const RateRow& rate : row.rates) *profile.add_rates() = RateOf(rate);
  if (row.like != nullptr) {
    const ProfileRow* like = FindRow(row.like);
    FATHOM_CHECK(like != nullptr) << row.like;
    AddRatesLike(*like, row, profile);
  }
  for (const SourceRow& source : row.sources) {
    for (const absl::string_view figure : absl::StrSplit(source.figures, ' ')) {
      v1::Source* one = profile.add_sources();
      one->set_figure(std::string(figure));
      one->set_text(source.text);
    }
  }
  return profile;
}

}  // namespace fathom::cluster
