#include "worker/agent/log_pages.h"

#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace fathom {
namespace {

HttpReply Refuse(const absl::Status& status) {
  const int code = status.code() == absl::StatusCode::kNotFound          ? 404
                   : status.code() == absl::StatusCode::kInvalidArgument ? 400
                                                                         : 500;
  return HttpReply{.status = code, .body = absl::StrCat(status.message(), "\n")};
}

HttpReply ListEpochs(const RankLogs& logs, const HttpRequest& request) {
  const absl::StatusOr<std::vector<uint64_t>> epochs = logs.Epochs(JobId(request.captures[0]));
  if (!epochs.ok()) return Refuse(epochs.status());
  HttpReply reply;
  for (const uint64_t epoch : *epochs) absl::StrAppend(&reply.body, epoch, "\n");
  return reply;
}

HttpReply ShowLog(const RankLogs& logs, const HttpRequest& request) {
  RankId id{JobId(request.captures[0])};
  int64_t from = 0;
  const auto asked = request.query.find("from");
  if (!absl::SimpleAtoi(request.captures[1], &id.epoch) ||
      !absl::SimpleAtoi(request.captures[2], &id.rank) ||
      (asked != request.query.end() && !absl::SimpleAtoi(asked->second, &from))) {
    return Refuse(absl::InvalidArgumentError("epoch, rank and from are whole numbers"));
  }
  absl::StatusOr<RankLogs::Piece> piece = logs.Read(id, from, kMaxLogPieceBytes);
  if (!piece.ok()) return Refuse(piece.status());
  HttpReply reply{.body = std::move(piece->bytes)};
  reply.headers["X-Log-Size"] = absl::StrCat(piece->log_bytes);
  return reply;
}

HttpReply ShowTimeline(const RankLogs& logs, const HttpRequest& request) {
  RankId id{JobId(request.captures[0])};
  if (!absl::SimpleAtoi(request.captures[1], &id.epoch) ||
      !absl::SimpleAtoi(request.captures[2], &id.rank)) {
    return Refuse(absl::InvalidArgumentError("epoch and rank are whole numbers"));
  }
  absl::StatusOr<std::string> timeline = logs.ReadTimeline(id);
  if (!timeline.ok()) return Refuse(timeline.status());
  return HttpReply{.body = *std::move(timeline)};
}

}  // namespace

void AddLogPages(const RankLogs* logs, MetricsHttp* http) {
  http->Handle("/logs/([^/]+)",
               [logs](const HttpRequest& request) { return ListEpochs(*logs, request); });
  http->Handle("/logs/([^/]+)/([0-9]+)/([0-9]+)",
               [logs](const HttpRequest& request) { return ShowLog(*logs, request); });
  http->Handle("/timelines/([^/]+)/([0-9]+)/([0-9]+)",
               [logs](const HttpRequest& request) { return ShowTimeline(*logs, request); });
}

}  // namespace fathom
