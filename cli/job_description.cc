#include "cli/job_description.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "cli/render.h"
#include "cli/resources.h"

namespace fathom::cli {
namespace {

constexpr int kShownFrames = 4;

Value StageValue(const v1::Stage& stage) {
  Value value = Value::Object();
  value.Set("stage", stage.index()).Set("first_layer", stage.first_layer());
  value.Set("layers", stage.layer_count());
  value.Set("has_embedding", stage.has_embedding()).Set("has_head", stage.has_head());
  return value;
}

// Seconds, or null for what is not known.
Value SecondsValue(double seconds) { return seconds < 0 ? Value() : Value(seconds); }

// "0.83s", in finer steps than a table's cells.
std::string ShortSeconds(double seconds) {
  return seconds < 9.995 ? absl::StrFormat("%.2fs", seconds) : DurationText(seconds);
}

Value ListOf(const google::protobuf::RepeatedPtrField<std::string>& texts) {
  Value list = Value::List();
  for (const std::string& text : texts) list.Add(text);
  return list;
}

// "detect 0.83s, decide 0.02s", without those that are not known.
std::string PhasesText(const v1::RecoveryRecord& recovery) {
  std::vector<std::string> parts;
  const auto add = [&](const char* name, double seconds) {
    if (seconds >= 0) parts.push_back(absl::StrCat(name, " ", ShortSeconds(seconds)));
  };
  add("detect", recovery.detect());
  add("decide", recovery.decide());
  add("fence", recovery.fence());
  add("rejoin", recovery.rejoin());
  add("load", recovery.load());
  add("first step", recovery.first_step());
  return absl::StrJoin(parts, ", ");
}

// Of a hang: what one rank was at.
Value DiagnosisValue(const v1::RankDiagnosis& diagnosis, int rank) {
  Value frames = Value::List();
  int shown = 0;
  for (absl::string_view frame : absl::StrSplit(diagnosis.stack(), '\n', absl::SkipEmpty())) {
    if (shown++ == kShownFrames) break;
    frames.Add(std::string(frame));
  }
  Value value = Value::Object();
  value.Set("rank", rank).Set("step", diagnosis.step());
  value.Set("instruction", TextOrNull(diagnosis.instruction())).Set("seconds", diagnosis.seconds());
  value.Set("process", TextOrNull(diagnosis.process())).Set("frames", std::move(frames));
  return value;
}

}  // namespace

Value RecoveryValue(const v1::RecoveryRecord& recovery) {
  Value value = Value::Object();
  value.Set("epoch", recovery.epoch()).Set("cause", recovery.cause());
  value.Set("node", TextOrNull(recovery.node())).Set("steps_redone", recovery.steps_redone());
  const bool finished = recovery.finished();
  value.Set("pause_seconds", finished ? SecondsValue(recovery.pause_seconds()) : Value());
  value.Set("detect", SecondsValue(recovery.detect()));
  value.Set("decide", SecondsValue(recovery.decide()));
  value.Set("fence", SecondsValue(recovery.fence()));
  value.Set("load", SecondsValue(recovery.load()));
  value.Set("rejoin", SecondsValue(recovery.rejoin()));
  value.Set("first_step", SecondsValue(recovery.first_step()));
  value.Set("finished", finished).Set("planned", recovery.planned());
  value.Set("resumed_step", recovery.resumed_step());
  value.Set("source", TextOrNull(recovery.source()));
  value.Set("detected", TimeValue(recovery.detected_ms()));
  value.Set("lost_nodes", ListOf(recovery.lost_nodes()));
  value.Set("joined_nodes", ListOf(recovery.joined_nodes()));
  value.Set("replicas", recovery.replicas()).Set("message", TextOrNull(recovery.message()));
  return value;
}

std::string RecoveryStory(const v1::RecoveryRecord& recovery) {
  std::string text = absl::StrCat("epoch ", recovery.epoch(), ": ", recovery.cause());
  if (!recovery.node().empty()) absl::StrAppend(&text, " of ", recovery.node());
  if (recovery.detected_ms() != 0) {
    absl::StrAppend(&text, " at ", TimeText(recovery.detected_ms()));
  }
  if (!recovery.message().empty()) absl::StrAppend(&text, " (", recovery.message(), ")");
  if (recovery.lost_nodes_size() > 0) {
    absl::StrAppend(&text, "; left: ", absl::StrJoin(recovery.lost_nodes(), ", "));
  }
  if (recovery.joined_nodes_size() > 0) {
    absl::StrAppend(&text, "; joined: ", absl::StrJoin(recovery.joined_nodes(), ", "));
  }
  if (!recovery.source().empty()) {
    absl::StrAppend(&text, "; went on from step ", recovery.resumed_step(), " (", recovery.source(),
                    ")");
  }
  if (recovery.finished()) {
    absl::StrAppend(
        &text, "; ",
        recovery.steps_redone() == 0 ? std::string("no") : absl::StrCat(recovery.steps_redone()),
        recovery.steps_redone() == 1 ? " step" : " steps", " redone");
    if (recovery.pause_seconds() >= 0) {
      absl::StrAppend(&text, ", pause ", ShortSeconds(recovery.pause_seconds()));
    }
  } else {
    absl::StrAppend(&text, "; not finished");
  }
  const std::string phases = PhasesText(recovery);
  return phases.empty() ? text : absl::StrCat(text, ": ", phases);
}

Value PlanDescription(const v1::Plan& plan) {
  Value stages = Value::List();
  for (const v1::Stage& stage : plan.stages()) stages.Add(StageValue(stage));
  Value ranks = Value::List();
  for (const v1::RankAssignment& rank : plan.ranks()) {
    Value value = Value::Object();
    value.Set("rank", rank.rank()).Set("node", rank.node()).Set("device", rank.device());
    value.Set("pipeline_rank", rank.pipeline_rank()).Set("expert_rank", rank.expert_rank());
    value.Set("replica", rank.replica());
    ranks.Add(std::move(value));
  }
  Value value = Value::Object();
  value.Set("epoch", plan.epoch()).Set("stages", std::move(stages));
  value.Set("ranks", std::move(ranks));
  if (plan.has_resume()) {
    Value resume = Value::Object();
    resume.Set("step", plan.resume().step()).Set("manifest", plan.resume().manifest());
    value.Set("resume", std::move(resume));
  }
  return value;
}

Value ExpectationValue(bool known, const v1::Prediction& expected, const std::string& note) {
  Value value = Value::Object();
  if (!known) {
    value.Set("note", TextOrNull(note));
    return value;
  }
  value.Set("step_seconds", expected.step().seconds());
  value.Set("breakdown", ValueOf(expected.step().breakdown()));
  Value ranks = Value::List();
  for (const v1::PredictedRank& rank : expected.ranks()) {
    Value one = Value::Object();
    one.Set("pipeline_rank", rank.pipeline_rank()).Set("busy_seconds", rank.busy_s());
    one.Set("wait_seconds", rank.idle_s());
    ranks.Add(std::move(one));
  }
  value.Set("pipeline_ranks", std::move(ranks));
  return value;
}

Value JobDescription(const v1::JobStatus& job, const std::vector<v1::Event>& events) {
  Value value = JobValue(job);
  if (job.has_last_step()) value.Set("last_step", ValueOf(job.last_step()));
  if (job.has_validation()) value.Set("validation", ValueOf(job.validation()));
  if (job.has_checkpoint()) value.Set("last_checkpoint", ValueOf(job.checkpoint()));
  if (job.has_park()) {
    Value park = Value::Object();
    park.Set("then", job.park().suspend() ? "suspended" : "queued");
    park.Set("reason", job.park().reason()).Set("actor", job.park().actor());
    park.Set("since", TimeValue(job.park().since_ms()));
    value.Set("to_be_parked", std::move(park));
  }
  Value story = Value::List();
  Value recoveries = Value::List();
  for (const v1::RecoveryRecord& recovery : job.recoveries()) {
    story.Add(RecoveryStory(recovery));
    recoveries.Add(RecoveryValue(recovery));
  }
  value.Set("story", std::move(story)).Set("recoveries", std::move(recoveries));
  Value diagnoses = Value::List();
  for (int rank = 0; rank < job.diagnoses_size(); ++rank) {
    diagnoses.Add(DiagnosisValue(job.diagnoses(rank), rank));
  }
  value.Set("diagnoses", std::move(diagnoses));
  value.Set("spec", ValueOf(job.job().spec()));
  if (job.has_plan()) value.Set("plan", PlanDescription(job.plan()));
  if (job.has_expected() || !job.expected_note().empty()) {
    value.Set("expected",
              ExpectationValue(job.has_expected(), job.expected(), job.expected_note()));
  }
  if (job.has_next_plan()) value.Set("next_plan", PlanDescription(job.next_plan()));
  if (job.ranks_size() > 0) {
    Value ranks = Value::List();
    for (const v1::RankStatus& rank : job.ranks()) {
      Value status = Value::Object();
      status.Set("rank", rank.rank());
      status.Set("state",
                 std::string(absl::StripPrefix(v1::RankState_Name(rank.state()), "RANK_STATE_")));
      status.Set("pid", rank.pid()).Set("endpoint", TextOrNull(rank.endpoint()));
      status.Set("step", rank.last_step().step()).Set("message", TextOrNull(rank.message()));
      ranks.Add(std::move(status));
    }
    value.Set("rank_states", std::move(ranks));
  }
  Value list = Value::List();
  for (const v1::Event& event : events) list.Add(EventValue(event));
  value.Set("events", std::move(list));
  return value;
}

}  // namespace fathom::cli
