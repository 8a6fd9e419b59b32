#include "worker/agent/scripted_rank.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "proto/fathom/v1/worker.pb.h"
#include "worker/agent/rank_channel.h"

extern char** environ;

namespace fathom {
namespace {

void Print(const std::string& line) {
  const std::string text = line + "\n";
  if (::write(STDOUT_FILENO, text.data(), text.size()) < 0) std::exit(90);
}

// What the process got from its parent.
void PrintSurroundings() {
  for (char** entry = environ; *entry != nullptr; ++entry) Print(absl::StrCat("env ", *entry));
  DIR* listing = ::opendir("/proc/self/fd");
  std::vector<int> fds;
  while (const dirent* entry = ::readdir(listing)) {
    const int fd = std::atoi(entry->d_name);
    if (entry->d_name[0] != '.' && fd != ::dirfd(listing)) fds.push_back(fd);
  }
  ::closedir(listing);
  std::sort(fds.begin(), fds.end());
  for (const int fd : fds) Print(absl::StrCat("fd ", fd));
  sigset_t blocked;
  ::sigprocmask(SIG_SETMASK, nullptr, &blocked);
  struct sigaction on_pipe;
  ::sigaction(SIGPIPE, nullptr, &on_pipe);
  Print(absl::StrCat("own group ", ::getpgid(0) == ::getpid()));
  Print(absl::StrCat("SIGTERM blocked ", ::sigismember(&blocked, SIGTERM)));
  Print(absl::StrCat("SIGPIPE default ", on_pipe.sa_handler == SIG_DFL));
}

class ScriptedRank {
 public:
  int Run(std::string script) {
    if (script.empty()) {
      v1::RankCommand command;
      if (!Receive(&command) || !command.has_start()) return 91;
      TakeStart(command.start());
      script = command.start().checkpoint_directory();
    }
    for (const std::string& word : std::vector<std::string>(absl::StrSplit(script, ';'))) {
      const std::vector<std::string> parts = absl::StrSplit(word, absl::MaxSplits(':', 1));
      if (!Do(parts[0], parts.size() > 1 ? parts[1] : "")) return 92;
    }
    return 0;
  }

 private:
  bool Receive(v1::RankCommand* command) {
    const absl::StatusOr<bool> got = channel_.Receive(command);
    return got.ok() && *got;
  }

  bool Send(const v1::RankEvent& event) { return channel_.Send(event).ok(); }

  void TakeStart(const v1::RankStart& start) {
    epoch_ = start.plan().epoch();
    if (start.log_file().empty()) return;
    const int fd = ::open(start.log_file().c_str(), O_WRONLY | O_APPEND);
    if (fd < 0 || ::dup2(fd, STDOUT_FILENO) < 0 || ::close(fd) != 0) std::exit(93);
  }

  bool AwaitCommand(v1::RankCommand::CommandCase which) {
    v1::RankCommand command;
    while (Receive(&command)) {
      if (command.has_start()) TakeStart(command.start());
      if (command.has_diagnose()) token_ = command.diagnose().token();
      if (command.command_case() == which) return true;
    }
    return which == v1::RankCommand::COMMAND_NOT_SET;
  }

  bool Do(const std::string& word, const std::string& value) {
    if (SendWord(word, value)) return true;
    if (word == "peers") return AwaitCommand(v1::RankCommand::kPeers);
    if (word == "stop") return AwaitCommand(v1::RankCommand::kStop);
    if (word == "start") return AwaitCommand(v1::RankCommand::kStart);
    if (word == "hold") return AwaitCommand(v1::RankCommand::kHold);
    if (word == "park") return AwaitCommand(v1::RankCommand::kPark);
    if (word == "diagnose") return AwaitCommand(v1::RankCommand::kDiagnose);
    if (word == "epoch") return epoch_ = std::strtoull(value.c_str(), nullptr, 10), true;
    if (word == "eof") return AwaitCommand(v1::RankCommand::COMMAND_NOT_SET);
    if (word == "exit") std::_Exit(std::atoi(value.c_str()));
    if (word == "signal") return ::raise(std::atoi(value.c_str())) == 0;
    if (word == "hang") {
      for (;;) ::pause();
    }
    if (word == "print") return Print(value), true;
    if (word == "surroundings") return PrintSurroundings(), true;
    if (word == "close") return ::close(::dup2(::open("/dev/null", O_RDWR), kRankChannelFd)) == 0;
    if (word == "garbage") return ::write(kRankChannelFd, "\xff\xff\xff\xff", 4) == 4;
    if (word == "orphan") return LeaveAChild(), true;
    return false;
  }

  bool SendWord(const std::string& word, const std::string& value) {
    v1::RankEvent event;
    if (word == "listen") {
      event.set_listening(absl::StrCat("127.0.0.1:", ::getpid()));
    } else if (word == "train") {
      event.mutable_training();
    } else if (word == "finish") {
      event.mutable_finished()->set_weights_sha256("f00d");
    } else if (word == "step") {
      event.mutable_step()->set_step(std::atoi(value.c_str()));
      event.mutable_step()->set_forward_seconds(0.25);
    } else if (word == "checkpoint") {
      event.mutable_checkpoint()->set_step(std::atoi(value.c_str()));
    } else if (word == "fail") {
      event.set_failed(value);
    } else if (word == "load") {
      event.mutable_loading();
    } else if (word == "held") {
      event.mutable_held()->set_message(value);
    } else if (word == "parked") {
      event.mutable_parked()->set_step(std::atoi(value.c_str()));
    } else if (word == "answer") {
      event.mutable_diagnosis()->set_token(token_);
      event.mutable_diagnosis()->set_instruction(value);
    } else {
      return false;
    }
    event.set_epoch(epoch_);
    return Send(event);
  }

  // It holds the inherited output open for as long as it lives.
  void LeaveAChild() {
    if (::fork() == 0) {
      for (;;) ::pause();
    }
  }

  uint64_t epoch_ = 0;
  uint64_t token_ = 0;
  RankChannel channel_ = RankChannel::FromFd(kRankChannelFd);
};

}  // namespace

int RunScriptedRank(const std::string& script) { return ScriptedRank().Run(script); }

}  // namespace fathom
