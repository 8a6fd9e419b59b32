#include "cli/log_fetch.h"

#include <httplib.h>

#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/host_port.h"
#include "common/base/limits.h"
#include "common/base/status_util.h"

namespace fathom::cli {

namespace {

struct Answer {
  std::string body;
  std::string log_size;  // header
  std::string url;
};

absl::StatusOr<Answer> Get(const std::string& metrics_address, const std::string& kind,
                           const std::string& job, const std::string& rest) {
  const auto address = ParseHostPort(metrics_address);
  if (!address.ok()) return WithContext(address.status(), "the node's metrics address");
  httplib::Client client(address->host, address->port);
  client.set_connection_timeout(limits::kHttpTimeoutMs / 1000, 0);
  client.set_read_timeout(limits::kHttpTimeoutMs / 1000, 0);
  // A job's id comes from the coordinator and goes into a URL as it is.
  if (job.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789-_.") != std::string::npos) {
    return absl::InternalError(absl::StrCat("the coordinator gave the odd job id '", job, "'"));
  }
  const std::string path = absl::StrCat("/", kind, "/", job, "/", rest);
  const auto result = client.Get(path.c_str());
  Answer answer;
  answer.url = absl::StrCat("http://", metrics_address, path);
  if (!result) {
    return absl::UnavailableError(absl::StrCat("cannot read ", answer.url, ": ",
                                               httplib::to_string(result.error()),
                                               "; is the node's daemon running?"));
  }
  if (result->status == 404) {
    return absl::NotFoundError(absl::StrCat("nothing at ", answer.url));
  }
  if (result->status != 200) {
    return absl::InternalError(absl::StrCat(answer.url, " answered ", result->status));
  }
  answer.body = result->body;
  answer.log_size = result->get_header_value("X-Log-Size");
  return answer;
}

}  // namespace

absl::StatusOr<std::string> FetchFromNode(const std::string& metrics_address,
                                          const std::string& kind, const std::string& job,
                                          const std::string& rest) {
  FATHOM_ASSIGN_OR_RETURN(Answer answer, Get(metrics_address, kind, job, rest));
  return std::move(answer.body);
}

absl::StatusOr<LogPart> FetchLog(const std::string& metrics_address, const std::string& job,
                                 uint64_t epoch, int rank, int64_t from) {
  FATHOM_ASSIGN_OR_RETURN(Answer answer, Get(metrics_address, "logs", job,
                                             absl::StrCat(epoch, "/", rank, "?from=", from)));
  LogPart part;
  part.text = std::move(answer.body);
  if (!absl::SimpleAtoi(answer.log_size, &part.size)) {
    return absl::InternalError(absl::StrCat(answer.url, " did not say how long the log is"));
  }
  return part;
}

}  // namespace fathom::cli
