#include "cli/node_description.h"

#include <string>
#include <utility>

#include "absl/strings/str_format.h"
#include "cli/resources.h"

namespace fathom::cli {
namespace {

Value CheckValue(const v1::PreflightCheck& check) {
  Value value = Value::Object();
  value.Set("check", check.name()).Set("subject", TextOrNull(check.subject()));
  value.Set("passed", check.passed()).Set("value", check.value());
  value.Set("threshold", check.threshold() != 0 ? Value(check.threshold()) : Value());
  value.Set("bound", check.threshold() == 0 ? Value() : check.at_most() ? "at most" : "at least");
  value.Set("unit", TextOrNull(check.unit())).Set("calibrated", check.calibrated());
  value.Set("message", TextOrNull(check.message()));
  return value;
}

std::string BoundText(const v1::PreflightCheck& check) {
  if (check.threshold() == 0) return "";
  return absl::StrFormat("%s %.6g%s", check.at_most() ? "<=" : ">=", check.threshold(),
                         check.calibrated() ? " (fleet)" : "");
}

Value AdminValue(const v1::NodeAdmin& admin) {
  Value value = Value::Object();
  value.Set("decision", admin.draining() ? "draining" : "cordoned").Set("reason", admin.reason());
  value.Set("actor", admin.actor()).Set("since", TimeValue(admin.since_ms()));
  value.Set("deadline", TimeValue(admin.deadline_ms()));
  value.Set("replacement", TextOrNull(admin.replacement()));
  return value;
}

Value HealthValue(const v1::NodeHealth& health) {
  Value signals = Value::List();
  for (const v1::HealthSignal& signal : health.signals()) {
    Value value = Value::Object();
    value.Set("source", signal.source()).Set("subject", TextOrNull(signal.subject()));
    value.Set("name", signal.name()).Set("value", signal.value());
    value.Set("severity", SeverityText(signal.severity()));
    value.Set("changed", TimeValue(signal.time_ms())).Set("message", TextOrNull(signal.message()));
    signals.Add(std::move(value));
  }
  Value value = Value::Object();
  value.Set("probed", TimeValue(health.probed_ms()));
  value.Set("probe_error", TextOrNull(health.probe_error())).Set("signals", std::move(signals));
  return value;
}

}  // namespace

Table PreflightTable(const v1::PreflightReport& report) {
  Table table;
  table.columns = {{"CHECK"}, {"SUBJECT"}, {"RESULT"}, {"VALUE", false, true},
                   {"UNIT"},  {"BOUND"},   {"MESSAGE"}};
  table.none = "no checks";
  for (const v1::PreflightCheck& check : report.checks()) {
    Row row;
    row.name = check.name();
    row.cells = {check.name(),
                 check.subject(),
                 check.passed() ? "passed" : "FAILED",
                 absl::StrFormat("%.6g", check.value()),
                 check.unit(),
                 BoundText(check),
                 check.message()};
    row.value = CheckValue(check);
    table.rows.push_back(std::move(row));
  }
  return table;
}

Value PreflightValue(const v1::PreflightReport& report) {
  Value checks = Value::List();
  for (const v1::PreflightCheck& check : report.checks()) checks.Add(CheckValue(check));
  Value value = Value::Object();
  value.Set("id", report.id()).Set("passed", report.passed());
  value.Set("verdict", TextOrNull(report.verdict()));
  value.Set("started", TimeValue(report.started_ms()));
  value.Set("finished", TimeValue(report.finished_ms())).Set("checks", std::move(checks));
  return value;
}

Value NodeDescription(const v1::NodeStatus& node, const std::vector<v1::Event>& events) {
  Value value = NodeValue(node);
  value.Set("failure_domain", TextOrNull(node.node().failure_domain()));
  value.Set("leaf", TextOrNull(node.node().leaf()));
  value.Set("admin", node.has_admin() ? AdminValue(node.admin()) : Value());
  value.Set("preflight_report", node.has_preflight() ? PreflightValue(node.preflight()) : Value());
  value.Set("health", node.has_health() ? HealthValue(node.health()) : Value());
  Value devices = Value::List();
  for (const v1::Device& device : node.node().devices()) devices.Add(ValueOf(device));
  value.Set("device_list", std::move(devices));
  Value list = Value::List();
  for (const v1::Event& event : events) list.Add(EventValue(event));
  value.Set("events", std::move(list));
  return value;
}

}  // namespace fathom::cli
