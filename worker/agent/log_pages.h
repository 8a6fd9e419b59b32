// The ranks' logs over HTTP, for `fathomctl logs` and `fathomctl trace`:
//
//   GET /logs/<job>                              the job's epochs on this node, one per line,
//                                                ascending
//   GET /logs/<job>/<epoch>/<rank>?from=BYTES    the log from that byte on, at most
//                                                kMaxLogPieceBytes; the header X-Log-Size says how
//                                                long the whole log is
//   GET /timelines/<job>/<epoch>/<rank>          the newest recorded step, a v1::Timeline
//
// To follow a log, ask again from where the last piece ended. Readable by whoever reaches the
// metrics address.
#ifndef FATHOM_WORKER_AGENT_LOG_PAGES_H_
#define FATHOM_WORKER_AGENT_LOG_PAGES_H_

#include <cstdint>

#include "common/metrics/metrics_http.h"
#include "worker/agent/rank_logs.h"

namespace fathom {

inline constexpr int64_t kMaxLogPieceBytes = 1 << 20;

// Before http->Start. `logs` outlives `http`.
void AddLogPages(const RankLogs* logs, MetricsHttp* http);

}  // namespace fathom

#endif  // FATHOM_WORKER_AGENT_LOG_PAGES_H_
