// fathom-preflight: checks one node, or probes its signals, and prints what it found as JSON.
#include <google/protobuf/util/json_util.h>

#include <csignal>
#include <cstdio>
#include <memory>
#include <string>

#include "common/base/real_clock.h"
#include "kernels/ops.h"
#include "worker/health/preflight.h"
#include "worker/health/preflight_flags.h"
#include "worker/health/signals.h"

namespace fathom::health {
namespace {

int Fail(absl::string_view message, int code) {
  std::fprintf(stderr, "fathom-preflight: %s\n", std::string(message).c_str());
  return code;
}

int Print(const google::protobuf::Message& message, bool passed) {
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = true;
  options.preserve_proto_field_names = true;
  std::string json;
  const auto status = google::protobuf::util::MessageToJsonString(message, &json, options);
  if (!status.ok()) return Fail(std::string(status.message()), 3);
  if (std::fputs(json.c_str(), stdout) < 0 || std::fflush(stdout) != 0) {
    return Fail("cannot write the report to standard output", 3);
  }
  return passed ? 0 : 1;
}

int Main(int argc, const char* const* argv) {
  const auto flags = ParsePreflightFlags(argc, argv);
  if (!flags.ok()) return Fail(flags.status().message(), 2);
  if (!flags->has_value()) return 0;
  if ((*flags)->signals) return Print(ProbeSignals((*flags)->probe), true);
  const RealClock clock;
  const std::unique_ptr<kernels::Ops> ops = kernels::CreateCpuOps();
  const std::unique_ptr<kernels::Ops> reference = kernels::CreateReferenceOps();
  const v1::PreflightReport report =
      RunPreflight((*flags)->preflight, {ops.get(), reference.get()}, &clock);
  return Print(report, report.passed());
}

}  // namespace
}  // namespace fathom::health

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);
  return fathom::health::Main(argc, argv);
}
