// Reads over HTTP from a node's daemon: a rank's log.
#ifndef FATHOM_CLI_LOG_FETCH_H_
#define FATHOM_CLI_LOG_FETCH_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace fathom::cli {

// The body at http://<metrics_address>/<kind>/<job>/<rest>. Codes as FetchLog's.
absl::StatusOr<std::string> FetchFromNode(const std::string& metrics_address,
                                          const std::string& kind, const std::string& job,
                                          const std::string& rest);

struct LogPart {
  std::string text;
  int64_t size = 0;  // of the whole log now
};

// GET http://<metrics_address>/logs/<job>/<epoch>/<rank>?from=<from>. NOT_FOUND: the node has no
// such log. UNAVAILABLE: the node's daemon can't be reached. INTERNAL: it answered otherwise.
absl::StatusOr<LogPart> FetchLog(const std::string& metrics_address, const std::string& job,
                                 uint64_t epoch, int rank, int64_t from);

}  // namespace fathom::cli

#endif  // FATHOM_CLI_LOG_FETCH_H_
