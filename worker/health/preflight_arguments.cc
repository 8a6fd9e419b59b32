#include "worker/health/preflight_arguments.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/host_port.h"
#include "common/base/status_util.h"
#include "common/base/text.h"

namespace fathom::health {
namespace {

constexpr size_t kQuotedBytes = 64;  // of what is refused

}  // namespace

std::vector<std::string> ArgumentsOf(const v1::PreflightRequest& request) {
  std::vector<std::string> arguments = {absl::StrCat("--id=", request.id())};
  for (int i = 0; i < std::min(request.peers_size(), kMaxPreflightPeers); ++i) {
    const v1::PreflightPeer& peer = request.peers(i);
    arguments.push_back(absl::StrCat("--peer=", peer.node(), "=", peer.endpoint()));
  }
  for (int i = 0; i < std::min(request.thresholds_size(), kMaxPreflightThresholds); ++i) {
    const v1::PreflightThreshold& threshold = request.thresholds(i);
    // 17 digits give the same double back.
    arguments.push_back(absl::StrFormat("--threshold=%s%s%.17g", threshold.check(),
                                        threshold.at_most() ? "<=" : ">=", threshold.value()));
  }
  return arguments;
}

absl::StatusOr<v1::PreflightPeer> ParsePeer(absl::string_view text) {
  const size_t equals = text.find('=');
  if (equals == absl::string_view::npos || equals == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("peer '", CutText(text, kQuotedBytes), "' is not NODE=HOST:PORT"));
  }
  v1::PreflightPeer peer;
  peer.set_node(std::string(text.substr(0, equals)));
  peer.set_endpoint(std::string(text.substr(equals + 1)));
  FATHOM_RETURN_IF_ERROR(WithContext(ParseHostPort(peer.endpoint()).status(),
                                     absl::StrCat("peer ", CutText(peer.node(), kQuotedBytes))));
  return peer;
}

absl::StatusOr<v1::PreflightThreshold> ParseThreshold(absl::string_view text) {
  const size_t at = text.find('=');
  v1::PreflightThreshold threshold;
  double value;
  if (at == absl::string_view::npos || at < 2 || (text[at - 1] != '<' && text[at - 1] != '>') ||
      !absl::SimpleAtod(text.substr(at + 1), &value) || !std::isfinite(value)) {
    return absl::InvalidArgumentError(absl::StrCat("threshold '", CutText(text, kQuotedBytes),
                                                   "' is not CHECK<=NUMBER or CHECK>=NUMBER"));
  }
  threshold.set_check(std::string(text.substr(0, at - 1)));
  threshold.set_at_most(text[at - 1] == '<');
  threshold.set_value(value);
  return threshold;
}

}  // namespace fathom::health
