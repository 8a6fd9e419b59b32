#include "cli/profile_verbs.h"

#include <algorithm>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/render.h"
#include "cli/value.h"
#include "common/base/status_util.h"
#include "common/cluster/device_profiles.h"
#include "proto/fathom/v1/hardware.pb.h"

namespace fathom::cli {
namespace {

constexpr char kAssumed[] = "assumed";

std::string Number(double number) { return number == 0 ? "-" : absl::StrFormat("%.6g", number); }

// The best product of a format: "1358 (69%)".
std::string BestProduct(const v1::DeviceProfile& profile, const std::string& format, double peak) {
  double best = 0;
  for (const v1::MeasuredRate& rate : profile.rates()) {
    const bool product = rate.op() == "gemm" || rate.op() == "grouped_gemm";
    if (product && rate.format() == format) best = std::max(best, rate.rate());
  }
  if (best == 0 || peak == 0) return "-";
  return absl::StrFormat("%.4g (%.0f%%)", best, 100 * best / peak);
}

// "12 of 30": figures without a publication or a data sheet behind them.
std::string AssumedText(const v1::DeviceProfile& profile) {
  int assumed = 0;
  for (const v1::Source& source : profile.sources()) {
    assumed += absl::StartsWith(source.text(), kAssumed) ? 1 : 0;
  }
  for (const v1::MeasuredRate& rate : profile.rates()) {
    assumed += absl::StartsWith(rate.source(), kAssumed) ? 1 : 0;
  }
  return absl::StrCat(assumed, " of ", profile.sources_size() + profile.rates_size());
}

Row RowOf(const v1::DeviceProfile& profile) {
  Row row;
  row.name = profile.kind();
  row.cells = {
      profile.kind(),
      Number(profile.bf16_tflops()),
      Number(profile.fp8_tflops()),
      BestProduct(profile, "e4m3", profile.fp8_tflops()),
      Number(static_cast<double>(profile.memory_bytes()) / 1e9),
      Number(profile.memory_gigabytes_per_second()),
      absl::StrCat(profile.scale_up_devices()),
      absl::StrFormat("%g/%g", profile.scale_up_effective_gigabytes_per_second(),
                      profile.scale_up_gigabytes_per_second()),
      Number(profile.nic_gigabits_per_second()),
      Number(profile.watts()),
      Number(profile.dollars_per_device_hour()),
      AssumedText(profile),
      profile.title(),
  };
  row.value = ValueOf(profile);
  return row;
}

}  // namespace

absl::Status RunGetProfiles(const GetOptions& options, Session& session) {
  Table table;
  table.columns = {{"KIND"},
                   {"BF16 TFLOPS", false, true},
                   {"FP8", false, true},
                   {"FP8 REACHED", true, true},
                   {"MEMORY GB", false, true},
                   {"GB/S", false, true},
                   {"SCALE-UP", false, true},
                   {"GB/S REACHED", false, true},
                   {"NIC GBIT/S", false, true},
                   {"WATTS", true, true},
                   {"$/HOUR", true, true},
                   {"ASSUMED", false, true},
                   {"TITLE", true}};
  const std::vector<std::string> kinds =
      options.names.empty() ? cluster::ProfileKinds() : options.names;
  for (const std::string& kind : kinds) {
    FATHOM_ASSIGN_OR_RETURN(const v1::DeviceProfile profile, cluster::FindProfile(kind));
    table.rows.push_back(RowOf(profile));
  }
  session.out() << RenderTable(table, session.format());
  return absl::OkStatus();
}

}  // namespace fathom::cli
