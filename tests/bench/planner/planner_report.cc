#include "tests/bench/planner/planner_report.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "common/base/config_loader.h"
#include "common/schedule/compiled_schedule.h"
#include "common/schedule/named_schedules.h"
#include "coordinator/planner/search/predict.h"

namespace fathom {
namespace {

constexpr int kRepeats = 9;
constexpr int kSearchRepeats = 3;

double MedianSeconds(const Clock& clock, int repeats, const std::function<void()>& run) {
  std::vector<double> times;
  for (int i = 0; i < repeats; ++i) {
    const absl::Duration begin = clock.Steady();
    run();
    times.push_back(absl::ToDoubleSeconds(clock.Steady() - begin));
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

template <typename Message>
Message Load(const std::string& path) {
  Message message;
  const absl::Status status = LoadYamlFile(path, &message);
  if (!status.ok()) {
    std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
    std::exit(1);
  }
  return message;
}

void Row(const std::vector<std::string>& cells) {
  std::string row = "|";
  for (const std::string& cell : cells) absl::StrAppend(&row, " ", cell, " |");
  std::printf("%s\n", row.c_str());
}

void PrintTimes(const Clock& clock, const v1::Job& job, const v1::ClusterDescription& cluster) {
  std::printf("## What planning takes\n\n");
  Row({"what", "median", "aim"});
  Row({"---", "---:", "---:"});
  for (const std::string& kind : schedule::ScheduleKinds()) {
    bool made = false;
    const double seconds =
        MedianSeconds(clock, kRepeats, [&] { made = schedule::MakeSchedule(kind, 16, 128).ok(); });
    if (made) {
      Row({absl::StrCat("schedule ", kind, ", P=16, M=128"),
           absl::StrFormat("%.2f ms", seconds * 1e3), "50 ms"});
    }
  }
  const auto dualpipe = schedule::MakeSchedule("dualpipe", 16, 128);
  const double simulate = MedianSeconds(clock, kRepeats, [&] {
    const auto compiled = schedule::CompiledSchedule::Make(*dualpipe);
    (void)compiled->Makespan({{schedule::StageCosts()}, 0, {}});
  });
  Row({"simulate it", absl::StrFormat("%.2f ms", simulate * 1e3), "100 ms"});
  planner::PredictOptions options;
  options.search = false;
  const double step =
      MedianSeconds(clock, kRepeats, [&] { (void)planner::Predict(job, cluster, options); });
  Row({"whole prediction of the job on 2,048 devices, without search",
       absl::StrFormat("%.1f ms", step * 1e3), ""});
  options.search = true;
  options.take_best = true;
  const double search =
      MedianSeconds(clock, kSearchRepeats, [&] { (void)planner::Predict(job, cluster, options); });
  Row({"the same with full search", absl::StrFormat("%.2f s", search), "10 s"});
}

void Compare(const char* what, double predicted, double published, const char* format) {
  const std::string difference =
      published == 0 ? "" : absl::StrFormat("%+.1f%%", (predicted / published - 1) * 100);
  auto text = [&](double value) {
    char buffer[64];
    std::snprintf(buffer, sizeof(buffer), format, value);
    return std::string(buffer);
  };
  Row({what, text(predicted), text(published), difference});
}

void PrintPublished(const v1::Prediction& p) {
  const v1::StepBreakdown& b = p.step().breakdown();
  std::printf("\n## The published run\n\n");
  Row({"figure", "predicted", "published", "difference"});
  Row({"---", "---:", "---:", "---:"});
  Compare("GPU-hours per trillion tokens, thousands", p.gpu_hours_per_trillion_tokens() / 1e3, 180,
          "%.1f");
  Compare("step, s", p.step().seconds(), 19.926, "%.3f");
  Compare("tokens a day, billions", p.tokens_per_day() / 1e9, 272.8, "%.1f");
  Compare("MFU non-causal, %", p.mfu_noncausal() * 100, 43.73, "%.2f");
  Compare("MFU causal, %", p.mfu_causal() * 100, 38.94, "%.2f");
  Compare("forwards alone, s", b.forward_s(), 1.13, "%.2f");
  Compare("bubble, s", b.bubble_s(), 2.06, "%.2f");
  Compare("backwards alone, s", b.backward_s(), 1.99, "%.2f");
  Compare("weight gradients alone, s", b.weight_s(), 0.48, "%.2f");
  Compare("overlapped pairs, s", b.overlapped_s(), 13.95, "%.2f");
  Compare("reduction, update and the rest, s", b.reduce_s() + b.optimizer_s() + b.other_s(), 0.29,
          "%.2f");
  std::printf("\nParameters %lld; peak memory %.1f GB at %s of pipeline rank %d.\n\n",
              static_cast<long long>(p.parameters().total()),
              static_cast<double>(p.memory().peak_bytes()) / 1e9, p.memory().at().c_str(),
              p.memory().pipeline_rank());
  Row({"assumption", "value", "source", "adds, s"});
  Row({"---", "---", "---", "---:"});
  for (const v1::Assumption& assumption : p.assumptions()) {
    Row({assumption.name(), assumption.value(), assumption.source(),
         absl::StrFormat("%.3f", assumption.adds_s())});
  }
}

std::string LayoutText(const v1::PredictedLayout& layout) {
  const v1::Parallelism& grid = layout.parallelism();
  return absl::StrCat("PP", grid.pipeline(), " EP", grid.expert(), " DP", grid.replicas(), ", ",
                      layout.micro_batches(), " x ", layout.micro_batch_sequences(), ", ",
                      layout.schedule(), ", ", layout.recomputation());
}

void PrintCandidates(const v1::Prediction& p) {
  std::printf("\n## Layouts of the published job\n\n%lld considered, %lld too large.\n\n",
              static_cast<long long>(p.search().considered()),
              static_cast<long long>(p.search().infeasible()));
  Row({"layout", "step, s", "memory, GB", "why"});
  Row({"---", "---:", "---:", "---"});
  for (const v1::Candidate& candidate : p.search().candidates()) {
    Row({LayoutText(candidate.layout()),
         candidate.feasible() ? absl::StrFormat("%.2f", candidate.step_seconds()) : "-",
         absl::StrFormat("%.1f", static_cast<double>(candidate.peak_bytes()) / 1e9),
         candidate.why()});
  }
}

void PrintClusters(v1::Job job, const std::string& folder) {
  std::printf("\n## The same model on every example cluster, layout searched\n\n");
  Row({"cluster", "devices", "layout", "step, s", "MFU causal, %", "tokens a day, billions",
       "GPU-hours per trillion tokens, thousands", "dollars per trillion tokens"});
  Row({"---", "---:", "---", "---:", "---:", "---:", "---:", "---:"});
  job.mutable_spec()->mutable_training()->set_micro_batches(15360);
  job.mutable_spec()->clear_parallelism();
  for (const char* name : {"h800-256", "h100-128", "gb200-nvl72", "cloudmatrix-384", "mixed"}) {
    const auto cluster = Load<v1::ClusterDescription>(absl::StrCat(folder, "/", name, ".yaml"));
    const auto predicted = planner::Predict(job, cluster, planner::PredictOptions());
    if (!predicted.ok()) {
      Row({name, "", std::string(predicted.status().message()), "", "", "", "", ""});
      continue;
    }
    const v1::Prediction& p = predicted->prediction;
    Row({name, absl::StrCat(p.devices()), LayoutText(p.layout()),
         absl::StrFormat("%.2f", p.step().seconds()), absl::StrFormat("%.1f", p.mfu_causal() * 100),
         absl::StrFormat("%.1f", p.tokens_per_day() / 1e9),
         absl::StrFormat("%.1f", p.gpu_hours_per_trillion_tokens() / 1e3),
         absl::StrFormat("%.0f", p.dollars_per_trillion_tokens())});
  }
}

}  // namespace

int PrintPlannerReport(const std::string& folder, const Clock& clock) {
  const auto job = Load<v1::Job>(absl::StrCat(folder, "/deepseek-v3.yaml"));
  const auto cluster = Load<v1::ClusterDescription>(absl::StrCat(folder, "/h800-256.yaml"));
  PrintTimes(clock, job, cluster);
  const auto predicted = planner::Predict(job, cluster, planner::PredictOptions());
  if (predicted.ok()) {
    PrintPublished(predicted->prediction);
    PrintCandidates(predicted->prediction);
  } else {
    std::printf("\n## The published run\n\n%s\n",
                std::string(predicted.status().message()).c_str());
  }
  PrintClusters(job, folder);
  return predicted.ok() ? 0 : 1;
}

}  // namespace fathom
