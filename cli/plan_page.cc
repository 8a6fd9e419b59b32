#include "cli/plan_page.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "cli/page.h"
#include "common/base/text.h"

namespace fathom::cli {
namespace {

constexpr size_t kBarColumns = 40;
constexpr double kHour = 3600;
constexpr size_t kFatalPairsNamed = 3;
constexpr size_t kHoldsBytesMax = 100;

// "2,048 × NVIDIA H800 SXM on 256 nodes"
std::string DevicesText(const v1::Prediction& prediction) {
  std::vector<std::string> titles;
  for (const v1::DeviceProfile& profile : prediction.profiles()) {
    titles.push_back(CleanText(profile.title().empty() ? profile.kind() : profile.title()));
  }
  std::string text = WholeText(prediction.devices());
  absl::StrAppend(&text, " \u00d7 ", titles.empty() ? "device" : absl::StrJoin(titles, " / "));
  if (prediction.layout().nodes() > 0) {
    absl::StrAppend(&text, " on ", CountOf(prediction.layout().nodes(), "node"));
  }
  return text;
}

std::string CostText(double gpu_hours, double dollars) {
  std::string text = AmountText(gpu_hours) + " GPU-hours";
  if (dollars > 0) absl::StrAppend(&text, ", ", DollarsText(dollars));
  return text;
}

std::string FlopsText(double tflops) {
  if (tflops < 1) return absl::StrFormat("%.3g GFLOPS", tflops * 1e3);
  return absl::StrFormat("%.*f TFLOPS", tflops < 10 ? 1 : 0, tflops);
}

std::string SummaryText(const v1::Prediction& prediction) {
  const v1::PredictedParameters& parameters = prediction.parameters();
  std::string parameters_text =
      absl::StrCat(AmountText(static_cast<double>(parameters.total())), ", ",
                   AmountText(static_cast<double>(parameters.active())), " active for a token");
  if (parameters.mtp() > 0) {
    absl::StrAppend(&parameters_text, "; MTP modules add ",
                    AmountText(static_cast<double>(parameters.mtp())));
  }
  std::vector<std::vector<std::string>> rows = {
      {"parameters", parameters_text},
      {"step", absl::StrCat(SecondsText(prediction.step().seconds()), " for ",
                            AmountText(prediction.tokens_per_step()),
                            " tokens: ", AmountText(prediction.tokens_per_day()), " tokens a day")},
      {"MFU", absl::StrCat(PercentText(prediction.mfu_causal()), " causal, ",
                           FlopsText(prediction.tflops_causal()), " a device; ",
                           PercentText(prediction.mfu_noncausal()), " non-causal, ",
                           FlopsText(prediction.tflops_noncausal()))},
      {"per T tokens", CostText(prediction.gpu_hours_per_trillion_tokens(),
                                prediction.dollars_per_trillion_tokens())}};
  if (prediction.total_hours() > 0) {
    rows.push_back({"whole job", absl::StrCat(SecondsText(prediction.total_hours() * kHour), ", ",
                                              CostText(prediction.total_gpu_hours(),
                                                       prediction.total_dollars()))});
  }
  return PageTable({{}, {}}, rows);
}

// What a stage has beside layers.
std::string Extras(const v1::PredictedStage& stage) {
  std::string text;
  if (stage.has_embedding()) text += " + embedding";
  if (stage.has_head()) text += " + head";
  return text;
}

std::string RangeText(int64_t first, int64_t last) {
  return first == last ? absl::StrCat(first) : absl::StrCat(first, "-", last);
}

// "stage 0: 3 layers + embedding; stages 1-14: 4 each; stage 15: 2 + head"
std::string StagesText(const v1::Prediction& prediction) {
  std::vector<std::string> texts;
  const auto& stages = prediction.stages();
  for (int first = 0; first < stages.size();) {
    int last = first;
    while (last + 1 < stages.size() &&
           stages[last + 1].layer_count() == stages[first].layer_count() &&
           Extras(stages[last + 1]) == Extras(stages[first])) {
      ++last;
    }
    const std::string layers = CountOf(stages[first].layer_count(), "layer");
    texts.push_back(absl::StrCat(first == last ? "stage " : "stages ", RangeText(first, last), ": ",
                                 layers, first == last ? "" : " each", Extras(stages[first])));
    first = last + 1;
  }
  return absl::StrJoin(texts, "; ");
}

std::string LayoutSection(const v1::Prediction& prediction) {
  const v1::PredictedLayout& layout = prediction.layout();
  std::string out = Heading("Layout");
  absl::StrAppend(
      &out, Paragraph("  ", absl::StrCat(LayoutText(layout), layout.from_job()
                                                                 ? " (as the job names it)"
                                                                 : " (found by the search)")));
  if (layout.leaves_per_expert_group() > 0) {
    absl::StrAppend(
        &out,
        Paragraph("  ", absl::StrCat("an expert group spans ",
                                     layout.leaves_per_expert_group() == 1
                                         ? "one leaf"
                                         : absl::StrCat("up to ", layout.leaves_per_expert_group(),
                                                        " leaves"))));
  }
  if (prediction.stages_size() > 0) absl::StrAppend(&out, Paragraph("  ", StagesText(prediction)));
  return out;
}

// Times of one micro-batch, from the fastest stage's to the slowest's.
std::string SpanText(const v1::Prediction& prediction, double (v1::PredictedStage::*time)() const) {
  double least = INFINITY;
  double most = 0;
  for (const v1::PredictedStage& stage : prediction.stages()) {
    least = std::min(least, (stage.*time)());
    most = std::max(most, (stage.*time)());
  }
  return SecondsText(least) == SecondsText(most)
             ? SecondsText(most)
             : absl::StrCat(SecondsText(least), " to ", SecondsText(most));
}

std::string MemorySection(const v1::Prediction& prediction) {
  const v1::PredictedMemory& memory = prediction.memory();
  const auto capacity = static_cast<double>(std::max<int64_t>(1, memory.capacity_bytes()));
  std::string title = absl::StrCat("Memory: ", GigabytesText(memory.peak_bytes()));
  if (memory.capacity_bytes() > 0) {
    absl::StrAppend(&title, " of ", GigabytesText(memory.capacity_bytes()));
  }
  absl::StrAppend(&title, " at the peak of pipeline rank ", memory.pipeline_rank());
  if (!memory.at().empty()) absl::StrAppend(&title, ", in ", CleanText(memory.at()));
  std::vector<std::vector<std::string>> rows;
  const auto add = [&](const std::string& name, int64_t bytes, bool bar) {
    const double part = static_cast<double>(bytes) / capacity;
    rows.push_back({name, GigabytesText(bytes), PercentText(part),
                    bar ? Bar(part, kBarColumns) : std::string()});
  };
  std::vector<const v1::MemoryPart*> parts;
  for (const v1::MemoryPart& part : memory.parts()) parts.push_back(&part);
  std::stable_sort(parts.begin(), parts.end(),
                   [](const auto* a, const auto* b) { return a->bytes() > b->bytes(); });
  for (const v1::MemoryPart* part : parts) {
    if (part->bytes() > 0) add(CleanText(part->name()), part->bytes(), true);
  }
  const int64_t left = memory.capacity_bytes() - memory.peak_bytes();
  if (memory.capacity_bytes() > 0) add(left < 0 ? "too much" : "free", std::abs(left), false);
  return Heading(title) + PageTable({{}, {true}, {true}, {}}, rows);
}

std::string StepSection(const v1::Prediction& prediction) {
  const v1::StepBreakdown& breakdown = prediction.step().breakdown();
  const double whole = prediction.step().seconds();
  // All in the step's unit, so that the numbers can be added.
  const bool seconds = whole >= 1;
  const int decimals = whole >= 100 ? 1 : whole >= 1 ? 3 : whole >= 0.1 ? 1 : 3;
  std::vector<std::vector<std::string>> rows;
  const auto add = [&](const char* name, double part) {
    if (part == 0) return;
    const double share = whole > 0 ? part / whole : 0;
    rows.push_back(
        {name,
         absl::StrFormat("%.*f %s", decimals, part * (seconds ? 1 : 1e3), seconds ? "s" : "ms"),
         PercentText(share), Bar(share, kBarColumns)});
  };
  add("overlapped pairs", breakdown.overlapped_s());
  add("forwards alone", breakdown.forward_s());
  add("backwards alone", breakdown.backward_s());
  add("weight gradients", breakdown.weight_s());
  add("pipeline idle", breakdown.bubble_s());
  add("gradient reduction", breakdown.reduce_s());
  add("optimizer", breakdown.optimizer_s());
  add("other", breakdown.other_s());
  std::string out = Heading(
      absl::StrCat("Step: ", SecondsText(whole), " of the pipeline rank that is busy longest"));
  absl::StrAppend(&out, PageTable({{}, {true}, {true}, {}}, rows));
  if (prediction.stages_size() == 0) return out;
  std::string times =
      absl::StrCat("a micro-batch through a stage: forward ",
                   SpanText(prediction, &v1::PredictedStage::forward_s), ", backward ",
                   SpanText(prediction, &v1::PredictedStage::backward_s));
  if (breakdown.overlapped_s() > 0) {
    absl::StrAppend(&times, ", pair ", SpanText(prediction, &v1::PredictedStage::overlapped_s));
  }
  return out + Paragraph("  ", times);
}

std::string StageTable(const v1::Prediction& prediction) {
  const auto time = [](double seconds) {
    return seconds > 0 ? SecondsText(seconds) : std::string("-");
  };
  std::vector<std::vector<std::string>> rows = {
      {"STAGE", "LAYERS", "PARAMETERS", "F", "B", "Bi", "W", "F|B", "COMPUTE", "NETWORK", ""}};
  for (const v1::PredictedStage& stage : prediction.stages()) {
    rows.push_back(
        {absl::StrCat(stage.index()),
         stage.layer_count() == 0
             ? "-"
             : RangeText(stage.first_layer(), stage.first_layer() + stage.layer_count() - 1),
         stage.parameters() > 0 ? AmountText(static_cast<double>(stage.parameters())) : "-",
         time(stage.forward_s()), time(stage.backward_s()), time(stage.backward_input_s()),
         time(stage.weight_s()), time(stage.overlapped_s()), time(stage.compute_s()),
         time(stage.communication_s()), std::string(absl::StripPrefix(Extras(stage), " + "))});
  }
  const PageColumn number = {true};
  return Heading("Stages: a micro-batch's times, and busy times inside a pair") +
         PageTable(
             {number, number, number, number, number, number, number, number, number, number, {}},
             rows);
}

std::string LimitsSection(const v1::Prediction& prediction) {
  if (prediction.limits().empty()) return "";
  std::string out = Heading("What limits it");
  for (int i = 0; i < prediction.limits_size(); ++i) {
    absl::StrAppend(&out,
                    Paragraph(absl::StrFormat("  %d. ", i + 1), CleanText(prediction.limits(i))));
  }
  return out;
}

// The columns of a candidate; `recomputation`: of most of them, which isn't told again.
std::vector<std::string> CandidateRow(const v1::Candidate& candidate,
                                      const std::string& recomputation, bool taken) {
  const v1::PredictedLayout& layout = candidate.layout();
  const v1::Parallelism& shape = layout.parallelism();
  std::string short_layout =
      absl::StrFormat("PP%d EP%d DP%d %s M%d", shape.pipeline(), shape.expert(), shape.replicas(),
                      CleanText(layout.schedule()), layout.micro_batches());
  if (layout.micro_batch_sequences() > 1) {
    absl::StrAppend(&short_layout, " of ", layout.micro_batch_sequences());
  }
  if (layout.recomputation() != recomputation) {
    absl::StrAppend(&short_layout, ", recomputation ", CleanText(layout.recomputation()));
  }
  const bool timed = candidate.step_seconds() > 0;
  return {taken ? "\u25b6" : "", short_layout, timed ? SecondsText(candidate.step_seconds()) : "-",
          timed ? AmountText(candidate.gpu_hours_per_trillion_tokens()) : "-",
          candidate.peak_bytes() > 0 ? GigabytesText(candidate.peak_bytes()) : "-"};
}

bool SameLayout(const v1::PredictedLayout& a, const v1::PredictedLayout& b) {
  return LayoutText(a) == LayoutText(b) &&
         std::equal(a.stage_layers().begin(), a.stage_layers().end(), b.stage_layers().begin(),
                    b.stage_layers().end());
}

std::string SearchSection(const v1::Prediction& prediction) {
  const v1::SearchSummary& search = prediction.search();
  if (search.considered() == 0 && search.candidates().empty()) return "";
  std::string title = absl::StrCat("Search: ", CountOf(search.considered(), "layout"));
  absl::StrAppend(&title, ", ", WholeText(search.infeasible()), " of them not feasible");
  if (search.seconds() > 0) absl::StrAppend(&title, ", in ", SecondsText(search.seconds()));
  std::string out = Heading(title);
  if (search.candidates().empty()) return out;
  std::vector<std::vector<std::string>> rows = {
      {"", "LAYOUT", "STEP", "GPU-HOURS/T TOKENS", "MEMORY"}};
  for (const v1::Candidate& candidate : search.candidates()) {
    rows.push_back(CandidateRow(candidate, prediction.layout().recomputation(),
                                SameLayout(candidate.layout(), prediction.layout())));
  }
  const std::string table = PageTable({{}, {}, {true}, {true}, {true}}, rows);
  const std::vector<std::string> lines = absl::StrSplit(table, '\n', absl::SkipEmpty());
  if (lines.size() != rows.size()) return out + table;  // broken: reasons would have no place
  absl::StrAppend(&out, lines.front(), "\n");
  for (int i = 0; i < search.candidates_size(); ++i) {
    absl::StrAppend(&out, lines[static_cast<size_t>(i) + 1], "\n");
    const std::string why = CleanText(search.candidates(i).why());
    if (!why.empty()) absl::StrAppend(&out, Paragraph("       ", why));
  }
  return out;
}

}  // namespace

std::string LayoutText(const v1::PredictedLayout& layout) {
  const v1::Parallelism& shape = layout.parallelism();
  std::string text = absl::StrFormat(
      "pipeline %d \u00d7 experts over %d \u00d7 %s, %s, %s of %s", shape.pipeline(),
      shape.expert(), CountOf(shape.replicas(), "replica"), CleanText(layout.schedule()),
      layout.micro_batches() == 1
          ? "1 micro-batch"
          : absl::StrCat(WholeText(layout.micro_batches()), " micro-batches"),
      CountOf(layout.micro_batch_sequences(), "sequence"));
  if (layout.recomputation().empty() || layout.recomputation() == "none") {
    return text + ", no recomputation";
  }
  return absl::StrCat(text, ", ", CleanText(layout.recomputation()), " recomputation");
}

std::string SurvivabilityText(const v1::Survivability& survivability) {
  const auto row = [](const char* what, bool survives) {
    return std::vector<std::string>{what, survives ? "a whole copy of all state is left in memory"
                                                   : "NO: state is lost with it"};
  };
  std::string out =
      PageTable({{}, {}}, {row("any node", survivability.any_node()),
                           row("any leaf", survivability.any_leaf()),
                           row("any failure domain", survivability.any_failure_domain())});
  if (!survivability.what().empty()) {
    absl::StrAppend(&out, Paragraph("  ", CleanText(survivability.what())));
  }
  if (survivability.fatal_pair_count() == 0) return out + "  no pair of nodes is fatal\n";
  std::vector<std::string> pairs;
  for (const v1::NodePair& pair : survivability.fatal_pairs()) {
    if (pairs.size() == kFatalPairsNamed) break;
    // What the first one holds stands for what the others do.
    const std::string holds = pairs.empty() ? CutText(pair.holds(), kHoldsBytesMax) : "";
    pairs.push_back(CleanText(absl::StrCat(pair.first(), " + ", pair.second(),
                                           holds.empty() ? "" : absl::StrCat(" (", holds, ")"))));
  }
  const int64_t unnamed = survivability.fatal_pair_count() - static_cast<int64_t>(pairs.size());
  if (unnamed > 0 && !pairs.empty()) pairs.push_back(absl::StrCat(WholeText(unnamed), " more"));
  return out +
         Paragraph("  ", absl::StrCat(
                             "fatal together: ", CountOf(survivability.fatal_pair_count(), "pair"),
                             " of nodes", pairs.empty() ? "" : ": ", absl::StrJoin(pairs, ", ")));
}

std::string AssumptionsText(const google::protobuf::RepeatedPtrField<v1::Assumption>& assumptions) {
  std::vector<const v1::Assumption*> sorted;
  size_t width = 0;
  for (const v1::Assumption& assumption : assumptions) {
    sorted.push_back(&assumption);
    if (assumption.adds_s() != 0) {
      width = std::max(width, TextColumns(SecondsText(assumption.adds_s())) + 1);
    }
  }
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const auto* a, const auto* b) { return a->adds_s() > b->adds_s(); });
  std::string out;
  for (const v1::Assumption* assumption : sorted) {
    std::string adds;
    if (assumption->adds_s() != 0) {
      adds = absl::StrCat(assumption->adds_s() > 0 ? "+" : "", SecondsText(assumption->adds_s()));
    }
    adds.insert(0, width - std::min(width, TextColumns(adds)), ' ');
    absl::StrAppend(&out, Paragraph(absl::StrCat("  ", adds, width > 0 ? "  " : ""),
                                    absl::StrCat(CleanText(assumption->name()), ": ",
                                                 CleanText(assumption->value()), " [",
                                                 CleanText(assumption->source()), "]")));
  }
  return out;
}

std::string PlanPage(const v1::Prediction& prediction, bool wide) {
  std::string out =
      Paragraph("", absl::StrCat(CleanText(prediction.job()), " on ",
                                 CleanText(prediction.cluster()), ": ", DevicesText(prediction)));
  absl::StrAppend(&out, "\n", SummaryText(prediction), LayoutSection(prediction),
                  MemorySection(prediction), StepSection(prediction));
  if (wide && prediction.stages_size() > 0) out += StageTable(prediction);
  out += LimitsSection(prediction);
  if (prediction.has_survivability()) {
    absl::StrAppend(&out, Heading("What it survives"),
                    SurvivabilityText(prediction.survivability()));
  }
  out += SearchSection(prediction);
  if (prediction.assumptions_size() > 0) {
    absl::StrAppend(&out, Heading("What is taken for granted, and what it adds to a step"),
                    AssumptionsText(prediction.assumptions()));
  }
  return out;
}

}  // namespace fathom::cli
