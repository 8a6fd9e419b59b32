#include "cli/prediction_report.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "cli/page.h"

namespace fathom::cli {
namespace {

// A difference below this part of the step changes nothing, whatever its ratio.
constexpr double kStepPartMin = 0.01;
constexpr size_t kFindingsMax = 20;

double BusySeconds(const v1::StepReport& report) {
  return report.forward_seconds() + report.backward_seconds() + report.weight_seconds() +
         report.overlapped_seconds();
}

// Of an even number the lower one: of two ranks, the faster is the measure for the slower.
template <typename Of>
double Median(const std::vector<const MeasuredRank*>& ranks, Of of) {
  if (ranks.empty()) return 0;
  std::vector<double> values;
  for (const MeasuredRank* rank : ranks) values.push_back(of(rank->report));
  const auto middle = values.begin() + static_cast<int64_t>((values.size() - 1) / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// Where a rank's stages lie: from both ends where micro-batches come from both or turn round, else
// one behind the other.
std::vector<int> StagesOf(const v1::Prediction& prediction, int rank) {
  const int ranks = std::max(1, prediction.ranks_size());
  const int stages = prediction.stages_size();
  const std::string kind = absl::AsciiStrToLower(prediction.layout().schedule());
  if (kind == "dualpipe" && stages == ranks && ranks > 1) return {rank, stages - 1 - rank};
  if ((kind == "zbv" || kind == "dualpipev") && stages == 2 * ranks) {
    return {rank, stages - 1 - rank};
  }
  std::vector<int> held;
  for (int stage = rank; stage < stages; stage += ranks) held.push_back(stage);
  return held;
}

class Comparison {
 public:
  Comparison(const v1::Prediction& prediction, const std::vector<MeasuredRank>& measured,
             double step_seconds, double tolerance)
      : prediction_(prediction) {
    report_.tolerance = tolerance;
    double longest = 0;
    for (const MeasuredRank& rank : measured) {
      by_pipeline_rank_[rank.pipeline_rank].push_back(&rank);
      longest = std::max(longest, rank.report.seconds());
    }
    step_s_ = step_seconds > 0 ? step_seconds : longest;
  }

  PredictionReport Report() {
    if (by_pipeline_rank_.empty() && step_s_ <= 0) {
      report_.step = {"step", prediction_.step().seconds(), 0, false};
      report_.findings.push_back("nothing was measured yet");
      return std::move(report_);
    }
    report_.step = Compare("step", prediction_.step().seconds(), step_s_);
    if (report_.step.off) Find("the step", report_.step);
    ComparePipelineRanks();
    CompareParts();
    FindSlowRanks();
    if (report_.findings.size() > kFindingsMax) {
      const size_t more = report_.findings.size() - kFindingsMax;
      report_.findings.resize(kFindingsMax);
      report_.findings.push_back(absl::StrCat("and ", more, " more"));
    }
    return std::move(report_);
  }

 private:
  ComparedTime Compare(std::string what, double predicted, double measured) const {
    const double difference = std::abs(measured - predicted);
    const bool off = difference > report_.tolerance * predicted &&
                     difference > kStepPartMin * std::max(step_s_, prediction_.step().seconds());
    return {std::move(what), predicted, measured, off};
  }

  void Find(const std::string& subject, const ComparedTime& time) {
    const double difference = time.measured_s - time.predicted_s;
    std::string text =
        absl::StrCat(subject, " took ", SecondsText(time.measured_s), ", ",
                     SecondsText(std::abs(difference)), difference > 0 ? " more" : " less",
                     " than the ", SecondsText(time.predicted_s), " predicted");
    if (time.predicted_s > 0) {
      absl::StrAppendFormat(&text, " (%+.0f%%)", 100 * difference / time.predicted_s);
    }
    report_.findings.push_back(std::move(text));
  }

  void ComparePipelineRanks() {
    for (const v1::PredictedRank& predicted : prediction_.ranks()) {
      ComparedRank rank;
      rank.pipeline_rank = predicted.pipeline_rank();
      rank.stages = StagesOf(prediction_, rank.pipeline_rank);
      const auto found = by_pipeline_rank_.find(rank.pipeline_rank);
      if (found == by_pipeline_rank_.end()) {
        rank.busy = {"busy", predicted.busy_s(), 0, false};
        rank.waiting = {"waiting", predicted.idle_s(), 0, false};
        report_.findings.push_back(
            absl::StrCat("nothing was measured of pipeline rank ", rank.pipeline_rank));
      } else {
        rank.ranks = static_cast<int>(found->second.size());
        rank.busy = Compare("busy", predicted.busy_s(), Median(found->second, BusySeconds));
        rank.waiting = Compare("waiting", predicted.idle_s(),
                               Median(found->second, [](const v1::StepReport& report) {
                                 return report.wait_seconds();
                               }));
        if (rank.busy.off) {
          Find(absl::StrCat("pipeline rank ", rank.pipeline_rank, " (stages ",
                            absl::StrJoin(rank.stages, ", "), ")"),
               rank.busy);
        }
      }
      report_.ranks.push_back(std::move(rank));
    }
  }

  void CompareParts() {
    const auto& ranks = prediction_.ranks();
    const auto busiest =
        std::max_element(ranks.begin(), ranks.end(),
                         [](const auto& a, const auto& b) { return a.busy_s() < b.busy_s(); });
    if (busiest != ranks.end()) report_.busiest_rank = busiest->pipeline_rank();
    const auto found = by_pipeline_rank_.find(report_.busiest_rank);
    if (found == by_pipeline_rank_.end()) return;
    const v1::StepBreakdown& breakdown = prediction_.step().breakdown();
    double told = 0;
    const auto add = [&](const char* what, double predicted,
                         double (v1::StepReport::*field)() const) {
      const double measured =
          Median(found->second, [&](const v1::StepReport& report) { return (report.*field)(); });
      told += measured;
      report_.parts.push_back(Compare(what, predicted, measured));
    };
    add("overlapped pairs", breakdown.overlapped_s(), &v1::StepReport::overlapped_seconds);
    add("forwards alone", breakdown.forward_s(), &v1::StepReport::forward_seconds);
    add("backwards alone", breakdown.backward_s(), &v1::StepReport::backward_seconds);
    add("weight gradients", breakdown.weight_s(), &v1::StepReport::weight_seconds);
    add("waiting", breakdown.bubble_s(), &v1::StepReport::wait_seconds);
    add("gradient reduction", breakdown.reduce_s(), &v1::StepReport::reduce_seconds);
    add("optimizer", breakdown.optimizer_s(), &v1::StepReport::optimizer_seconds);
    const double whole =
        Median(found->second, [](const v1::StepReport& report) { return report.seconds(); });
    report_.parts.push_back(Compare("other", breakdown.other_s(), std::max(0.0, whole - told)));
    for (const ComparedTime& part : report_.parts) {
      if (part.off) Find(absl::StrCat(part.what, " of pipeline rank ", report_.busiest_rank), part);
    }
  }

  void FindSlowRanks() {
    for (const auto& [pipeline_rank, ranks] : by_pipeline_rank_) {
      const double median = Median(ranks, BusySeconds);
      for (const MeasuredRank* rank : ranks) {
        const double busy = BusySeconds(rank->report);
        if (busy <= median * (1 + report_.tolerance) || busy - median < kStepPartMin * step_s_) {
          continue;
        }
        report_.findings.push_back(
            absl::StrCat("rank ", rank->rank, rank->node.empty() ? "" : " on ",
                         CleanText(rank->node), " is slow: busy ", SecondsText(busy),
                         ", where ranks of its stages are busy ", SecondsText(median)));
      }
    }
  }

  const v1::Prediction& prediction_;
  std::map<int, std::vector<const MeasuredRank*>> by_pipeline_rank_;
  double step_s_ = 0;  // measured
  PredictionReport report_;
};

std::string RatioText(const ComparedTime& time) {
  if (time.predicted_s <= 0 || time.measured_s <= 0) return "-";
  return absl::StrFormat("%.3f%s", time.ratio(), time.off ? " !" : "  ");
}

Value TimeOf(const ComparedTime& time) {
  Value value = Value::Object();
  value.Set("predicted_s", time.predicted_s).Set("measured_s", time.measured_s);
  value.Set("ratio", time.ratio()).Set("off", time.off);
  return value;
}

}  // namespace

PredictionReport ComparePrediction(const v1::Prediction& prediction,
                                   const std::vector<MeasuredRank>& measured, double step_seconds,
                                   double tolerance) {
  return Comparison(prediction, measured, step_seconds, tolerance).Report();
}

std::string PredictionReportText(const PredictionReport& report) {
  std::string out = absl::StrFormat(
      "Step: predicted %s, measured %s, ratio %s\n", SecondsText(report.step.predicted_s),
      SecondsText(report.step.measured_s), absl::StripAsciiWhitespace(RatioText(report.step)));
  const PageColumn number = {true};
  if (!report.parts.empty()) {
    out += Heading(absl::StrCat("Parts of the step, pipeline rank ", report.busiest_rank));
    std::vector<std::vector<std::string>> rows = {{"PART", "PREDICTED", "MEASURED", "RATIO  "}};
    for (const ComparedTime& part : report.parts) {
      if (part.predicted_s == 0 && part.measured_s == 0) continue;
      rows.push_back({part.what, SecondsText(part.predicted_s), SecondsText(part.measured_s),
                      RatioText(part)});
    }
    out += PageTable({{}, number, number, number}, rows);
  }
  out += Heading("Stages, by pipeline rank");
  std::vector<std::vector<std::string>> rows = {{"RANK", "STAGES", "MEASURED RANKS",
                                                 "BUSY PREDICTED", "MEASURED", "RATIO  ",
                                                 "WAITING PREDICTED", "MEASURED"}};
  for (const ComparedRank& rank : report.ranks) {
    rows.push_back({absl::StrCat(rank.pipeline_rank), absl::StrJoin(rank.stages, ","),
                    absl::StrCat(rank.ranks), SecondsText(rank.busy.predicted_s),
                    rank.ranks > 0 ? SecondsText(rank.busy.measured_s) : "-", RatioText(rank.busy),
                    SecondsText(rank.waiting.predicted_s),
                    rank.ranks > 0 ? SecondsText(rank.waiting.measured_s) : "-"});
  }
  out += PageTable({number, {}, number, number, number, number, number, number}, rows);
  out += Heading(absl::StrFormat("What is off by more than %.0f%%", 100 * report.tolerance));
  if (report.findings.empty()) return out + "  nothing\n";
  for (const std::string& finding : report.findings) out += Paragraph("  - ", finding);
  return out;
}

Value PredictionReportValue(const PredictionReport& report) {
  Value parts = Value::List();
  for (const ComparedTime& part : report.parts) {
    Value one = Value::Object();
    one.Set("part", part.what).Set("time", TimeOf(part));
    parts.Add(std::move(one));
  }
  Value ranks = Value::List();
  for (const ComparedRank& rank : report.ranks) {
    Value stages = Value::List();
    for (const int stage : rank.stages) stages.Add(stage);
    Value one = Value::Object();
    one.Set("pipeline_rank", rank.pipeline_rank).Set("stages", std::move(stages));
    one.Set("measured_ranks", rank.ranks).Set("busy", TimeOf(rank.busy));
    one.Set("waiting", TimeOf(rank.waiting));
    ranks.Add(std::move(one));
  }
  Value findings = Value::List();
  for (const std::string& finding : report.findings) findings.Add(finding);
  Value value = Value::Object();
  value.Set("tolerance", report.tolerance).Set("step", TimeOf(report.step));
  value.Set("parts_of_pipeline_rank", report.busiest_rank).Set("parts", std::move(parts));
  value.Set("ranks", std::move(ranks)).Set("findings", std::move(findings));
  return value;
}

}  // namespace fathom::cli
