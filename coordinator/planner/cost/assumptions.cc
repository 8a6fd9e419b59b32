#include "coordinator/planner/cost/assumptions.h"

#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace fathom::planner {
namespace {

AskedAssumption Of(const char* name, std::string value, std::string source,
                   std::optional<Choices> without) {
  AskedAssumption out;
  out.assumption.set_name(name);
  out.assumption.set_value(std::move(value));
  out.assumption.set_source(std::move(source));
  out.without = std::move(without);
  return out;
}

Choices With(ProfileChange change) {
  Choices out;
  out.profile = std::move(change);
  return out;
}

// The data sheet's figure in place of measured ones, of ops whose name holds `part`.
ProfileChange AtPeak(absl::string_view part) {
  return [part = std::string(part)](v1::DeviceProfile& profile) {
    for (v1::MeasuredRate& rate : *profile.mutable_rates()) {
      if (!absl::StrContains(rate.op(), part)) continue;
      if (rate.op() == "memory") {
        rate.set_rate(profile.memory_gigabytes_per_second());
      } else {
        rate.set_rate(rate.format() == "e4m3"   ? profile.fp8_tflops()
                      : rate.format() == "fp32" ? profile.fp32_tflops()
                                                : profile.bf16_tflops());
      }
    }
  };
}

// The rates of attention as if they were of the model's widths.
ProfileChange AsWideAsMeasured(const model::ModelConfig& config) {
  return [keys = config.qk_head_dim(), values = config.v_head_dim](v1::DeviceProfile& profile) {
    for (v1::MeasuredRate& rate : *profile.mutable_rates()) {
      if (!absl::StrContains(rate.op(), "attention")) continue;
      rate.set_n(keys);
      rate.set_k(values);
    }
  };
}

void WithoutExchangeRates(v1::DeviceProfile& profile) {
  google::protobuf::RepeatedPtrField<v1::MeasuredRate> kept;
  for (const v1::MeasuredRate& rate : profile.rates()) {
    if (rate.op() != "dispatch" && rate.op() != "combine") *kept.Add() = rate;
  }
  profile.mutable_rates()->Swap(&kept);
}

}  // namespace

std::vector<AskedAssumption> AssumptionsOf(const CostInput& input) {
  std::vector<AskedAssumption> out;
  const v1::DeviceProfile& profile = input.topology.profile_of(input.placement.places[0].node);
  Choices steady;
  steady.steady = true;
  out.push_back(Of("jitter", absl::StrCat(kJitter * 100, "% of a step"),
                   "Llama 3 (arXiv 2407.21783, section 3.3.4) saw throughput vary by 1-2% with the "
                   "time of day, from clocks that follow temperature; the middle",
                   steady));
  if (input.layout.parallelism.expert() > 1) {
    Choices balanced;
    balanced.balanced = true;
    out.push_back(Of("routing imbalance",
                     absl::StrCat("the busiest expert rank has ", input.layout.imbalance,
                                  " times the mean number of tokens"),
                     input.layout.imbalance == kBalancedImbalance
                         ? "loss-free balancing, MaxVio 0.04 at 1B parameters (arXiv 2408.15664)"
                         : "given with the layout",
                     balanced));
    out.push_back(
        Of("compute units for communication",
           absl::StrCat(profile.communication_units(), " of ", profile.compute_units(), ", always"),
           "arXiv 2412.19437, section 3.2.2, for H800: compute has the other 112 of 132 SMs; the "
           "device profile's",
           With([](v1::DeviceProfile& p) { p.set_communication_units(0); })));
    out.push_back(Of("exchange rates", "as measured on the device",
                     "the device profile's rates of dispatch and combine; without: its links",
                     With(WithoutExchangeRates)));
  }
  out.push_back(Of("product rates", "as measured on the device, interpolated by shape",
                   "the device profile's rates of gemm and grouped_gemm; without: the data sheet",
                   With(AtPeak("gemm"))));
  out.push_back(Of("attention rates", "as measured on the device",
                   "the device profile's rates of attention; without: the data sheet",
                   With(AtPeak("attention"))));
  if (input.config.qk_head_dim() != input.config.v_head_dim) {
    out.push_back(Of("heads of one width",
                     absl::StrCat("values of ", input.config.v_head_dim, " padded to the keys' ",
                                  input.config.qk_head_dim()),
                     "DeepSeek's public modelling code pads them (modeling_deepseek.py); a rate of "
                     "both widths in the device profile takes its place",
                     With(AsWideAsMeasured(input.config))));
  }
  out.push_back(Of("memory rate", "as measured on the device",
                   "the device profile's rate of memory; without: the data sheet",
                   With(AtPeak("memory"))));
  out.push_back(Of("kernel launches", absl::StrCat(profile.launch_us(), " us each, not hidden"),
                   "the device profile's", With([](v1::DeviceProfile& p) { p.set_launch_us(0); })));
  if (input.layout.parallelism.pipeline() > 1) {
    Choices messages;
    messages.free_messages = true;
    out.push_back(Of(
        "messages between stages", "waited for before each instruction, nothing beside them",
        "the public DualPipe code (github.com/deepseek-ai/DualPipe) commits its messages and waits",
        messages));
  }
  Choices reduced;
  reduced.free_reduction = true;
  out.push_back(Of("gradient reduction", "not hidden behind the last weight gradients",
                   "worker/engine reduces after the last instruction", reduced));
  out.push_back(
      Of("fused kernels", "elementwise ops run in the kernel that makes their input",
         "assumed: as op_fusion.h lists; arXiv 2412.19437, section 3.3, names what is kept in FP8",
         std::nullopt));
  return out;
}

}  // namespace fathom::planner
