#include "coordinator/service/event_loop.h"

#include <algorithm>
#include <future>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/limits.h"
#include "common/base/metric_catalog.h"
#include "common/base/status_util.h"

namespace fathom {
namespace {

// Often enough that a lease runs out close to its end.
absl::Duration TickOf(int32_t lease_ms) {
  return absl::Milliseconds(std::clamp(lease_ms / 10, 5, 500));
}

absl::Duration PatienceOf(int32_t heartbeat_ms) {
  return absl::Milliseconds(std::clamp(heartbeat_ms / 10, 1, 100));
}

}  // namespace

EventLoop::EventLoop(Options options)
    : options_(std::move(options)),
      tick_(TickOf(options_.core.lease_ms)),
      patience_(std::min(tick_, PatienceOf(options_.core.heartbeat_ms))),
      core_(options_.core) {}

EventLoop::~EventLoop() { Stop(); }

absl::StatusOr<std::unique_ptr<EventLoop>> EventLoop::Create(Options options) {
  std::unique_ptr<EventLoop> loop(new EventLoop(std::move(options)));
  CoordinatorCore& core = loop->core_;
  FATHOM_RETURN_IF_ERROR(loop->options_.log->Replay(
      [&core](const v1::Record& record) { return core.Replay(record); }));
  loop->options_.metrics->Add(metrics::kLogFailures, 0);
  loop->options_.metrics->Add(metrics::kLogRecords, 0);
  return loop;
}

void EventLoop::AddHook(Hook hook) {
  FATHOM_CHECK(!thread_.joinable()) << "hook after Start";
  hooks_.push_back(std::move(hook));
}

void EventLoop::Start() {
  FATHOM_CHECK(!thread_.joinable()) << "started twice";
  thread_ = std::thread([this] { Run(); });
}

void EventLoop::Stop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  work_.notify_one();
  if (thread_.joinable()) thread_.join();
}

bool EventLoop::Post(const std::string& kind, Decide decide, Done done) {
  return Enqueue(kind, std::move(decide), std::move(done), true);
}

bool EventLoop::PostUnhurried(const std::string& kind, Decide decide, Done done) {
  return Enqueue(kind, std::move(decide), std::move(done), false);
}

bool EventLoop::Enqueue(const std::string& kind, Decide decide, Done done, bool hurried) {
  {
    std::lock_guard lock(mutex_);
    if (stopping_ || queue_.size() >= limits::kMaxPendingEvents) return false;
    queue_.push_back({kind, std::move(decide), std::move(done)});
    // Enough to fill a batch is enough company.
    if (queue_.size() < limits::kMaxCommitBatch && !hurried) return true;
    hurried_ = true;
  }
  work_.notify_one();
  return true;
}

absl::Status EventLoop::Ask(const std::function<void(const CoordinatorCore&, Moment)>& ask) {
  // Shared, as the loop may still be within set_value when the waiting ends.
  auto answered = std::make_shared<std::promise<void>>();
  const bool posted = Post(
      "query", nullptr, [&ask, answered, this](const absl::Status&, const CoordinatorCore& core) {
        ask(core, Now());
        answered->set_value();
      });
  if (!posted) return absl::UnavailableError("the coordinator is stopping or overloaded");
  answered->get_future().wait();
  return absl::OkStatus();
}

int EventLoop::pending() const {
  std::lock_guard lock(mutex_);
  return static_cast<int>(queue_.size());
}

Moment EventLoop::Now() const { return {options_.clock->WallMs(), options_.clock->SteadyMs()}; }

void EventLoop::Run() {
  while (true) {
    std::deque<Event> batch;
    {
      std::unique_lock lock(mutex_);
      work_.wait_for(lock, absl::ToChronoNanoseconds(patience_),
                     [this] { return stopping_ || hurried_; });
      if (stopping_ && queue_.empty()) return;
      while (!queue_.empty() && batch.size() < limits::kMaxCommitBatch) {
        batch.push_back(std::move(queue_.front()));
        queue_.pop_front();
      }
      hurried_ = !queue_.empty();
    }
    HandleBatch(batch);
  }
}

void EventLoop::HandleBatch(const std::deque<Event>& batch) {
  const Moment now = Now();
  if (batch.empty()) idle_ += patience_;
  const bool tick_due =
      idle_ >= tick_ || now.steady_ms - last_tick_ms_ >= absl::ToInt64Milliseconds(tick_);
  if (batch.empty() && !tick_due) return;
  core_.BeginBatch();
  for (const Event& event : batch) {
    options_.metrics->Add(metrics::kCoreEvents, {event.kind});
    if (event.decide) event.decide(core_, now);
  }
  if (tick_due) {
    last_tick_ms_ = now.steady_ms;
    idle_ = absl::ZeroDuration();
    core_.Tick(now);
  }
  core_.EndBatch(now);
  const absl::Status durable = Append();
  std::vector<NodeName> changed;
  if (durable.ok()) {
    core_.Commit();
    changed = core_.TakeChangedNodes();
  } else {
    core_.Rollback();
  }
  for (const Event& event : batch) {
    if (event.done) event.done(durable, core_);
  }
  if (!durable.ok()) return;
  for (const Hook& hook : hooks_) hook(core_, changed);
}

absl::Status EventLoop::Append() {
  if (core_.records().empty()) return absl::OkStatus();
  const absl::Duration begin = options_.clock->Steady();
  absl::Status status = options_.log->Append(core_.records());
  const absl::Duration took = options_.clock->Steady() - begin;
  options_.metrics->Observe(metrics::kLogAppendSeconds, absl::ToDoubleSeconds(took));
  if (status.ok()) {
    options_.metrics->Add(metrics::kLogRecords, static_cast<double>(core_.records().size()));
    if (log_failed_) options_.say("the state log takes records again");
  } else {
    options_.metrics->Add(metrics::kLogFailures);
    if (!log_failed_) {
      options_.say(absl::StrCat("commands are refused until this is mended: ", status.message()));
    }
  }
  log_failed_ = !status.ok();
  if (status.ok()) return status;
  return absl::UnavailableError(absl::StrCat("not done, nothing has changed: ", status.message()));
}

}  // namespace fathom
