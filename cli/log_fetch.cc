#include "cli/log_fetch.h"

#include <httplib.h>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/host_port.h"
#include "common/base/limits.h"
#include "common/base/status_util.h"

namespace fathom::cli {

absl::StatusOr<LogPart> FetchLog(const std::string& metrics_address, const std::string& job,
                                 uint64_t epoch, int rank, int64_t from) {
  const auto address = ParseHostPort(metrics_address);
  if (!address.ok()) return WithContext(address.status(), "the node's metrics address");
  httplib::Client client(address->host, address->port);
  client.set_connection_timeout(limits::kHttpTimeoutMs / 1000, 0);
  client.set_read_timeout(limits::kHttpTimeoutMs / 1000, 0);
  // A job's id comes from the coordinator and goes into a URL as it is.
  if (job.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789-_.") != std::string::npos) {
    return absl::InternalError(absl::StrCat("the coordinator gave the odd job id '", job, "'"));
  }
  const std::string path = absl::StrCat("/logs/", job, "/", epoch, "/", rank, "?from=", from);
  const auto result = client.Get(path);
  const std::string url = absl::StrCat("http://", metrics_address, path);
  if (!result) {
    return absl::UnavailableError(absl::StrCat("cannot read ", url, ": ",
                                               httplib::to_string(result.error()),
                                               "; is the node's daemon running?"));
  }
  if (result->status == 404) {
    return absl::NotFoundError(absl::StrCat("no log at ", url));
  }
  if (result->status != 200) {
    return absl::InternalError(absl::StrCat(url, " answered ", result->status));
  }
  LogPart part;
  part.text = result->body;
  if (!absl::SimpleAtoi(result->get_header_value("X-Log-Size"), &part.size)) {
    return absl::InternalError(absl::StrCat(url, " did not say how long the log is"));
  }
  return part;
}

}  // namespace fathom::cli
