#include "tests/sim/sim_coordinator.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/planted.h"

namespace fathom::sim {
namespace {

constexpr size_t kBatchMax = 8;

}  // namespace

Moment SimCoordinator::Now() const {
  const int64_t now_us = options_.queue->now_us();
  return {(kWallStartUs + now_us + clock_offset_us_) / kMs, (now_us - steady_origin_us_) / kMs};
}

void SimCoordinator::Boot() {
  if (up()) return;
  ++life_;
  stopped_ = false;
  draining_ = false;
  // Another process: its steady clock starts elsewhere.
  steady_origin_us_ = options_.queue->now_us() - options_.random->Between(1, 1000) * kSecond;
  core_ = std::make_unique<CoordinatorCore>(options_.core);
  options_.trace->Add(20, {static_cast<int64_t>(log_.size())}, [&] {
    return absl::StrCat("coordinator starts with ", log_.size(), " records");
  });
  options_.invariants->OnCoordinatorStarted();
  for (const v1::Record& record : log_) {
    const absl::Status status = core_->Replay(record);
    if (!status.ok()) {
      return options_.invariants->Violate(absl::StrCat("replay: ", status.message()));
    }
  }
  if (!fingerprint_.empty() && core_->state().Fingerprint() != fingerprint_) {
    options_.invariants->Violate("replay does not give back the state that was durable");
  }
  fingerprint_.clear();
  Tick();
}

void SimCoordinator::Crash() {
  if (!up()) return;
  options_.trace->Add(21, {}, [] { return std::string("coordinator crashes"); });
  ++life_;
  core_.reset();
  queue_.clear();
  speakers_.clear();
  stream_of_.clear();
  options_.streams->CoordinatorDown();
}

void SimCoordinator::Tick() {
  const int64_t period_us = std::max<int64_t>(options_.core.lease_ms / 10, 5) * kMs;
  options_.queue->After(period_us, [this, life = life_] {
    if (life != life_) return;
    if (!stopped_) Post([](CoordinatorCore& core, Moment now) { core.Tick(now); }, nullptr);
    Tick();
  });
}

bool SimCoordinator::Post(Decide decide, Done done) {
  if (!up()) return false;
  queue_.push_back({std::move(decide), std::move(done)});
  if (draining_) return true;
  draining_ = true;
  // Whatever else arrives until then is decided and made durable together.
  options_.queue->After(options_.random->Chance(20) ? options_.random->Between(0, 20 * kMs) : 100,
                        [this, life = life_] {
                          if (life == life_) Drain();
                        });
  return true;
}

void SimCoordinator::Drain() {
  if (stopped_) {
    options_.queue->After(50 * kMs, [this, life = life_] {
      if (life == life_) Drain();
    });
    return;
  }
  draining_ = false;
  while (!queue_.empty()) {
    std::deque<Event> batch;
    while (!queue_.empty() && batch.size() < kBatchMax) {
      batch.push_back(std::move(queue_.front()));
      queue_.pop_front();
    }
    if (!HandleBatch(batch)) return;
  }
}

void SimCoordinator::Append() {
  for (const v1::Record& record : core_->records()) {
    log_.push_back(record);
    options_.invariants->OnAppended(record);
  }
}

bool SimCoordinator::HandleBatch(const std::deque<Event>& batch) {
  const Moment now = Now();
  for (const Event& event : batch) {
    if (event.decide) event.decide(*core_, now);
  }
  StoreFault fault = StoreFault::kNone;
  if (!core_->records().empty()) std::swap(fault, fault_);
  if (fault != StoreFault::kNone) {
    options_.trace->Add(22, {static_cast<int64_t>(fault)}, [&] {
      return absl::StrCat("store fault ", static_cast<int>(fault), " at ", core_->records().size(),
                          " records");
    });
  }
  if (FATHOM_PLANT(kAnsweredBeforeDurable)) {
    for (const Event& event : batch) {
      if (event.done) event.done(absl::OkStatus());
    }
  }
  if (fault == StoreFault::kCrashBefore) return Crash(), false;
  if (fault == StoreFault::kRefuse && !FATHOM_PLANT(kSentBeforeDurable)) {
    core_->Rollback();
    for (const Event& event : batch) {
      if (event.done) event.done(absl::UnavailableError("the log refuses"));
    }
    return true;
  }
  if (fault != StoreFault::kRefuse) Append();
  if (fault == StoreFault::kAnswerLost) {
    // The core believes that nothing was written; as it can't know, the process ends itself.
    core_->Rollback();
    return Crash(), false;
  }
  if (fault == StoreFault::kCrashBetween) return Crash(), false;
  core_->Commit();
  for (const Event& event : batch) {
    if (event.done) event.done(absl::OkStatus());
  }
  if (fault == StoreFault::kCrashAfter) {
    fingerprint_ = core_->state().Fingerprint();
    return Crash(), false;
  }
  for (const NodeName& name : core_->TakeChangedNodes()) {
    const auto stream = stream_of_.find(name.value());
    if (stream != stream_of_.end()) SendDesired(stream->second, name.value());
  }
  return true;
}

void SimCoordinator::SendDesired(StreamId stream, const std::string& name) {
  auto desired = std::make_shared<const v1::DesiredState>(core_->DesiredFor(NodeName(name)));
  options_.invariants->OnDesiredSent(options_.places.at(name), *desired);
  options_.streams->SendDesired(stream, {std::move(desired), log_.size()});
}

// --- Streams ---

void SimCoordinator::OnReport(StreamId stream, Place node, const ReportPtr& report) {
  if (repeat_report_) {
    repeat_report_ = false;
    options_.queue->After(options_.random->Between(0, 700) * kMs,
                          [this, stream, node, report] { OnReport(stream, node, report); });
  }
  auto status = std::make_shared<absl::Status>();
  Post([report, status](CoordinatorCore& core, Moment now) { *status = core.Report(*report, now); },
       [this, stream, node, report, status](const absl::Status&) {
         AfterReport(stream, node, report, *status);
       });
}

void SimCoordinator::AfterReport(StreamId stream, Place node, const ReportPtr& report,
                                 const absl::Status& status) {
  options_.invariants->OnReportTaken(node, report->incarnation(), status.ok());
  if (!status.ok()) {
    options_.trace->Add(23, {node}, [&] {
      return absl::StrCat("report of node ", node, " refused: ", std::string(status.message()));
    });
    return options_.streams->CloseByCoordinator(stream, true);
  }
  const std::string& name = report->node().name();
  Speaker& speaker = speakers_[stream];
  const bool is_first = speaker.name.empty();
  speaker = {node, name, report->incarnation()};
  if (!is_first) return;
  StreamId& current = stream_of_[name];
  if (current != 0 && current != stream) options_.streams->CloseByCoordinator(current, false);
  current = stream;
  SendDesired(stream, name);
}

void SimCoordinator::OnStreamClosed(StreamId stream, Place /*node*/) {
  const auto found = speakers_.find(stream);
  if (found == speakers_.end()) return;
  const Speaker speaker = found->second;
  speakers_.erase(found);
  const auto current = stream_of_.find(speaker.name);
  if (current == stream_of_.end() || current->second != stream) return;
  stream_of_.erase(current);
  Post(
      [speaker](CoordinatorCore& core, Moment now) {
        core.StreamClosed(NodeName(speaker.name), speaker.incarnation, now);
      },
      nullptr);
}

}  // namespace fathom::sim
