#include "cli/job_progress.h"

#include <ostream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cli/exit_code.h"
#include "cli/render.h"
#include "cli/resources.h"
#include "common/base/status_util.h"
#include "common/base/text.h"

namespace fathom::cli {
namespace {

// Between plain lines; changes of state are printed at once.
constexpr absl::Duration kPlainLineEvery = absl::Seconds(2);
// How long a coordinator that was there before may stay away.
constexpr absl::Duration kPatience = absl::Seconds(60);
constexpr absl::Duration kRetryEvery = absl::Milliseconds(250);

class ProgressPrinter {
 public:
  // `columns`: of the terminal; 0 where there is none.
  ProgressPrinter(std::ostream& out, int columns, const Clock& clock)
      : out_(out), columns_(columns), clock_(clock) {}
  ~ProgressPrinter() { EndLine(); }

  void Show(const v1::JobStatus& job) {
    const std::string line = ProgressLine(job);
    if (line == shown_) return;
    if (columns_ > 0) {
      // Carriage return, a line that doesn't wrap, "erase to the end of the line".
      out_ << '\r' << CutText(line, static_cast<size_t>(columns_ - 1)) << "\x1b[K" << std::flush;
      line_open_ = true;
    } else {
      const absl::Duration now = clock_.Steady();
      if (job.state() == state_ && now - shown_at_ < kPlainLineEvery) return;
      shown_at_ = now;
      out_ << line << std::endl;
    }
    state_ = job.state();
    shown_ = line;
  }

  void Note(const std::string& text) {
    EndLine();
    out_ << text << std::endl;
    shown_.clear();
  }

  void EndLine() {
    if (line_open_) out_ << std::endl;
    line_open_ = false;
  }

 private:
  std::ostream& out_;
  const int columns_;
  const Clock& clock_;
  v1::JobState state_ = v1::JOB_STATE_UNSPECIFIED;
  std::string shown_;
  absl::Duration shown_at_ = -absl::InfiniteDuration();
  bool line_open_ = false;
};

// Which of two watches of a job ended it.
struct WatchResult {
  absl::Status status;
  v1::JobStatus last;
  bool ended = false;
};

}  // namespace

std::string ProgressLine(const v1::JobStatus& job) {
  std::string line = absl::StrCat(job.name(), " ", StateText(job.state()));
  if (job.has_last_step()) {
    absl::StrAppend(&line, "  step ", job.last_step().step(), "/",
                    job.job().spec().training().steps(), "  loss ",
                    LossText(job.last_step().loss()));
    if (job.tokens_per_second() > 0) {
      absl::StrAppend(&line, "  ", CountText(job.tokens_per_second()), " tokens/s");
    }
    if (!HasEnded(job.state()) && job.eta_s() >= 0) {
      absl::StrAppend(&line, "  ETA ", DurationText(job.eta_s()));
    }
  }
  if (job.has_validation() && HasEnded(job.state())) {
    absl::StrAppend(&line, "  validation ", LossText(job.validation().loss()));
  }
  if (job.state() != v1::JOB_STATE_RUNNING && job.state() != v1::JOB_STATE_COMPLETED &&
      !job.reason().empty()) {
    absl::StrAppend(&line, "  (", job.reason(), ")");
  }
  return line;
}

absl::StatusOr<v1::JobStatus> FollowJob(Session& session, const std::string& name,
                                        absl::Duration timeout) {
  const Environment& environment = session.environment();
  const Clock& clock = *environment.clock;
  const absl::Duration start = clock.Steady();
  const int columns = session.notes_on_terminal() ? environment.terminal_columns : 0;
  ProgressPrinter printer(session.notes(), columns, clock);
  WatchResult watch;
  absl::Duration lost_at = absl::InfiniteDuration();
  v1::GetJobRequest request;
  request.set_name(name);
  while (true) {
    const absl::Duration left = timeout - (clock.Steady() - start);
    if (left <= absl::ZeroDuration()) {
      watch.status = absl::DeadlineExceededError("");
    } else {
      FATHOM_ASSIGN_OR_RETURN(OperatorClient* const client, session.Client());
      watch.status = client->WatchJob(request, left, [&](const v1::JobStatus& job) {
        if (lost_at != absl::InfiniteDuration()) printer.Note("the coordinator is back");
        lost_at = absl::InfiniteDuration();
        // One job for the whole time, also when a newer one takes its name.
        request.set_name(job.id().empty() ? job.name() : job.id());
        watch.last = job;
        watch.ended = HasEnded(job.state());
        printer.Show(job);
        return !watch.ended;
      });
    }
    if (watch.ended) return watch.last;
    const absl::Duration now = clock.Steady();
    if (absl::IsDeadlineExceeded(watch.status) && !IsFromCoordinator(watch.status)) {
      return absl::DeadlineExceededError(absl::StrCat("job ", name, " did not end within ",
                                                      DurationText(absl::ToDoubleSeconds(timeout)),
                                                      "; it goes on: fathomctl wait ", name));
    }
    const bool away = ExitCodeOf(watch.status) == kExitUnreachable;
    if (!watch.status.ok() && !(away && !watch.last.name().empty())) return watch.status;
    if (away) {
      if (lost_at == absl::InfiniteDuration()) {
        lost_at = now;
        printer.Note("the coordinator is away; waiting for it to come back");
      }
      if (now - lost_at > kPatience) return watch.status;
      session.Reconnect();
    }
    if (!environment.pause->For(kRetryEvery)) {
      return absl::CancelledError(
          absl::StrCat("stopped waiting; job ", name, " goes on: fathomctl wait ", name));
    }
  }
}

absl::Status JobOutcome(const v1::JobStatus& job) {
  if (job.state() == v1::JOB_STATE_COMPLETED) return absl::OkStatus();
  return absl::AbortedError(absl::StrCat("job ", job.name(), " is ", StateText(job.state()),
                                         job.reason().empty() ? "" : ": ", job.reason()));
}

}  // namespace fathom::cli
