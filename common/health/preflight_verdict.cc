#include "common/health/preflight_verdict.h"

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace fathom::health {
namespace {

constexpr size_t kFailuresNamed = 3;

void Hold(const v1::PreflightThreshold& threshold, v1::PreflightCheck* check) {
  check->set_threshold(threshold.value());
  check->set_at_most(threshold.at_most());
  check->set_calibrated(true);
  if (!check->passed()) return;
  const bool good = threshold.at_most() ? check->value() <= threshold.value()
                                        : check->value() >= threshold.value();
  if (good) return;  // not for NaN
  check->set_passed(false);
  check->set_message(absl::StrFormat(
      "%.4g %s, and the fleet's threshold is %s %.4g", check->value(), check->unit(),
      threshold.at_most() ? "at most" : "at least", threshold.value()));
}

std::string Describe(const v1::PreflightCheck& check) {
  std::string text = check.name();
  if (!check.subject().empty()) absl::StrAppend(&text, " of ", check.subject());
  if (!check.message().empty()) absl::StrAppend(&text, ": ", check.message());
  return text;
}

struct LinkCount {
  int tried = 0;
  int failed = 0;
};

}  // namespace

bool IsLinkCheck(absl::string_view check) {
  return check == kLinkLatency || check == kLinkBandwidth;
}

void ApplyThresholds(absl::Span<const v1::PreflightThreshold> thresholds,
                     v1::PreflightReport* report) {
  for (const v1::PreflightThreshold& threshold : thresholds) {
    if (!std::isfinite(threshold.value())) continue;
    for (v1::PreflightCheck& check : *report->mutable_checks()) {
      if (check.name() == threshold.check()) Hold(threshold, &check);
    }
  }
}

void Judge(v1::PreflightReport* report) {
  std::vector<std::string> fatal;    // each fails the node
  std::vector<std::string> excused;  // of links
  std::map<std::string, LinkCount> links;
  for (const v1::PreflightCheck& check : report->checks()) {
    const bool link = IsLinkCheck(check.name());
    if (link) ++links[check.name()].tried;
    if (check.passed()) continue;
    if (link) ++links[check.name()].failed;
    (link ? excused : fatal).push_back(Describe(check));
  }
  bool most_links_failed = false;
  for (const auto& [name, count] : links) most_links_failed |= 2 * count.failed > count.tried;
  if (most_links_failed) {
    fatal.insert(fatal.end(), excused.begin(), excused.end());
    excused.clear();
  }
  report->set_passed(fatal.empty() && report->checks_size() > 0);
  std::vector<std::string>& named = fatal.empty() ? excused : fatal;
  const size_t total = named.size();
  if (named.size() > kFailuresNamed) named.resize(kFailuresNamed);
  std::string verdict;
  if (report->checks_size() == 0) {
    verdict = "nothing was checked";
  } else if (total == 0) {
    verdict = absl::StrCat("passed all ", report->checks_size(), " checks");
  } else {
    verdict =
        absl::StrCat(report->passed() ? "passed, though a few links did not (" : "failed ", total,
                     " of ", report->checks_size(),
                     report->passed() ? " checks): " : " checks: ", absl::StrJoin(named, "; "),
                     total > named.size() ? "; ..." : "");
  }
  report->set_verdict(verdict);
}

}  // namespace fathom::health
