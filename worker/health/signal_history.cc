#include "worker/health/signal_history.h"

#include <algorithm>
#include <set>
#include <vector>

#include "absl/strings/str_cat.h"
#include "worker/health/signal_rules.h"

namespace fathom::health {
namespace {

void Fault(v1::Severity severity, absl::string_view meaning, const std::string& what,
           int64_t now_ms, v1::HealthSignal* signal) {
  // A worse fault that has not been forgiven is not hidden by a lesser one.
  if (severity < signal->severity()) return;
  signal->set_severity(severity);
  signal->set_time_ms(now_ms);
  signal->set_message(meaning.empty() ? what : absl::StrCat(what, ": ", meaning));
}

void Clear(v1::HealthSignal* signal) {
  signal->set_severity(v1::SEVERITY_OK);
  signal->clear_message();
}

bool PassesByItself(SignalKind kind) {
  return kind == SignalKind::kCounter || kind == SignalKind::kEvents;
}

}  // namespace

void SignalHistory::Judge(const v1::HealthSignal& probed, bool first_probe, int64_t now_ms) {
  const Key key(probed.source(), probed.subject(), probed.name());
  if (memory_.size() >= kMaxSignals && !memory_.contains(key)) return;
  const auto [entry, is_new] = memory_.try_emplace(key);
  Memory& memory = entry->second;
  v1::HealthSignal& signal = memory.signal;
  if (is_new) {
    signal.set_source(probed.source());
    signal.set_subject(probed.subject());
    signal.set_name(probed.name());
    signal.set_severity(v1::SEVERITY_OK);
    memory.last_value = probed.value();
  }
  const SignalRule rule = RuleOf(probed.source(), probed.name());
  const double rise = probed.value() - memory.last_value;
  memory.last_value = probed.value();
  // Of an event's own line, or of what could not be read.
  const std::string detail =
      probed.message().empty() ? "" : absl::StrCat(" (", probed.message(), ")");
  switch (rule.kind) {
    case SignalKind::kCounter:
      signal.set_value(probed.value());
      if (rise >= rule.least_rise && !is_new) {
        Fault(rule.severity, rule.meaning, absl::StrCat("rose by ", rise, " to ", probed.value()),
              now_ms, &signal);
      }
      return;
    case SignalKind::kEvents: {
      signal.set_value(signal.value() + probed.value());
      if (probed.value() <= 0) return;
      const auto severity =
          first_probe ? std::min(rule.severity, v1::SEVERITY_WARNING) : rule.severity;
      Fault(
          severity, rule.meaning,
          absl::StrCat(probed.value(), first_probe ? " before the daemon's start" : " new", detail),
          now_ms, &signal);
      return;
    }
    case SignalKind::kLevel: {
      signal.set_value(probed.value());
      const bool is_on = probed.value() > 0;
      if (is_on == !signal.message().empty()) return;
      Clear(&signal);
      if (is_on) {
        Fault(rule.severity, rule.meaning, absl::StrCat("is ", probed.value(), detail), now_ms,
              &signal);
      }
      return;
    }
    case SignalKind::kPort:
      signal.set_value(probed.value());
      if (probed.value() > 0) {
        // Back again, which is a flap and passes like one.
        if (signal.severity() == v1::SEVERITY_FATAL) {
          Clear(&signal);
          Fault(v1::SEVERITY_WARNING, "", "was down, and is up again", now_ms, &signal);
        }
        memory.was_up = true;
      } else if (memory.was_up && signal.severity() != rule.severity) {
        Fault(rule.severity, rule.meaning, absl::StrCat("went down", detail), now_ms, &signal);
      }
      return;
  }
}

v1::NodeHealth SignalHistory::Update(const v1::NodeHealth& probe, int64_t now_ms) {
  const bool first_probe = !probed_;
  std::set<Key> seen;
  for (const v1::HealthSignal& signal : probe.signals()) {
    if (signal.source() == "kernel" && signal.name() == "log_sequence") {
      log_sequence_ = static_cast<int64_t>(signal.value());
      continue;
    }
    seen.emplace(signal.source(), signal.subject(), signal.name());
    Judge(signal, first_probe, now_ms);
  }
  std::vector<v1::HealthSignal> vanished;
  for (auto& [key, memory] : memory_) {
    v1::HealthSignal& signal = memory.signal;
    const SignalKind kind = RuleOf(signal.source(), signal.name()).kind;
    const bool is_level = kind == SignalKind::kLevel || kind == SignalKind::kPort;
    if (is_level && !seen.contains(key)) {
      v1::HealthSignal& gone = vanished.emplace_back(signal);
      gone.set_value(0);
      gone.set_message("it is not there any more");
    }
    const bool over = PassesByItself(kind) || signal.value() > 0;
    if (signal.severity() == v1::SEVERITY_WARNING && over && kind != SignalKind::kLevel &&
        now_ms - signal.time_ms() > warning_ms_) {
      Clear(&signal);
    }
  }
  for (const v1::HealthSignal& signal : vanished) Judge(signal, first_probe, now_ms);
  probed_ = true;
  return Report(now_ms);
}

v1::NodeHealth SignalHistory::Failed(const std::string& probe_error, int64_t now_ms) const {
  v1::NodeHealth health = Report(now_ms);
  health.set_probe_error(probe_error);
  return health;
}

void SignalHistory::Forgive() {
  for (auto& [key, memory] : memory_) {
    if (memory.signal.severity() == v1::SEVERITY_FATAL) Clear(&memory.signal);
  }
}

v1::NodeHealth SignalHistory::Report(int64_t now_ms) const {
  std::vector<const v1::HealthSignal*> told;
  for (const auto& [key, memory] : memory_) {
    const v1::HealthSignal& signal = memory.signal;
    const bool is_fault = signal.severity() >= v1::SEVERITY_WARNING;
    const bool is_up = RuleOf(signal.source(), signal.name()).kind == SignalKind::kPort;
    if (is_fault || (signal.value() > 0 && !is_up)) told.push_back(&signal);
  }
  std::stable_sort(told.begin(), told.end(),
                   [](const v1::HealthSignal* a, const v1::HealthSignal* b) {
                     return a->severity() > b->severity();
                   });
  if (told.size() > kMaxReported) told.resize(kMaxReported);
  v1::NodeHealth health;
  health.set_probed_ms(now_ms);
  for (const v1::HealthSignal* signal : told) *health.add_signals() = *signal;
  return health;
}

}  // namespace fathom::health
