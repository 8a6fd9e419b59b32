#include "cli/queue_verbs.h"

#include <ostream>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "cli/render.h"
#include "cli/resources.h"
#include "cli/value.h"
#include "common/base/status_util.h"

namespace fathom::cli {
namespace {

void PrintChange(const std::string& job, v1::JobState state, const std::string& note,
                 Session& session) {
  if (session.for_people()) {
    session.out() << "job " << job << " is " << StateText(state) << (note.empty() ? "" : ": ")
                  << note << "\n";
    return;
  }
  Value value = Value::Object();
  value.Set("name", job).Set("state", StateText(state)).Set("note", TextOrNull(note));
  session.out() << RenderOne(job, value, session.format());
}

// What a rank said last may be several lines.
std::string OneLine(const std::string& text) { return absl::StrReplaceAll(text, {{"\n", " | "}}); }

}  // namespace

absl::Status RunSuspend(const QueueOptions& options, Session& session) {
  v1::SuspendJobRequest request;
  request.set_name(options.job);
  request.set_reason(options.reason);
  request.set_actor(session.Actor(options.actor));
  request.set_request_id(session.RequestId());
  FATHOM_ASSIGN_OR_RETURN(OperatorClient* const client, session.Client());
  FATHOM_ASSIGN_OR_RETURN(const v1::SuspendJobResponse response, client->SuspendJob(request));
  PrintChange(options.job, response.state(), response.note(), session);
  return absl::OkStatus();
}

absl::Status RunResume(const QueueOptions& options, Session& session) {
  v1::ResumeJobRequest request;
  request.set_name(options.job);
  request.set_actor(session.Actor(options.actor));
  request.set_request_id(session.RequestId());
  FATHOM_ASSIGN_OR_RETURN(OperatorClient* const client, session.Client());
  FATHOM_ASSIGN_OR_RETURN(const v1::ResumeJobResponse response, client->ResumeJob(request));
  PrintChange(options.job, response.state(), response.note(), session);
  return absl::OkStatus();
}

absl::Status RunExplain(const QueueOptions& options, Session& session) {
  v1::ExplainJobRequest request;
  request.set_name(options.job);
  FATHOM_ASSIGN_OR_RETURN(OperatorClient* const client, session.Client());
  FATHOM_ASSIGN_OR_RETURN(const v1::ExplainJobResponse response, client->ExplainJob(request));
  const std::vector<v1::QueueEntry> queue(response.queue().begin(), response.queue().end());
  const Table table = QueueTable(queue, session.environment().clock->WallMs());
  if (session.for_people()) {
    session.out() << OneLine(response.summary()) << "\n";
    for (const std::string& line : response.lines()) {
      session.out() << "  " << OneLine(line) << "\n";
    }
    if (!queue.empty()) session.out() << "\n" << RenderTable(table, session.format());
    return absl::OkStatus();
  }
  Value lines = Value::List();
  for (const std::string& line : response.lines()) lines.Add(line);
  Value entries = Value::List();
  for (const Row& row : table.rows) entries.Add(row.value);
  Value value = Value::Object();
  value.Set("name", response.name()).Set("id", response.id());
  value.Set("state", StateText(response.state())).Set("summary", response.summary());
  value.Set("lines", std::move(lines)).Set("queue", std::move(entries));
  session.out() << RenderOne(response.name(), value, session.format());
  return absl::OkStatus();
}

}  // namespace fathom::cli
