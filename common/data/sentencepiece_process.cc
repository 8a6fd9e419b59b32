#include "common/data/sentencepiece_process.h"

#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/base/errno_status.h"
#include "common/base/status_util.h"

namespace fathom::data {

absl::StatusOr<std::unique_ptr<SentencePieceProcess>> SentencePieceProcess::Start(
    const std::string& program, const std::string& model) {
  if (access(model.c_str(), R_OK) != 0) return ErrnoStatus(errno, "read the model", model);
  if (access(program.c_str(), X_OK) != 0) return ErrnoStatus(errno, "run", program);
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
    return ErrnoStatus(errno, "make a socket for", program);
  }
  std::unique_ptr<SentencePieceProcess> process(new SentencePieceProcess());
  process->model_ = model;
  process->socket_ = ends[0];
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDIN_FILENO);
  char* arguments[] = {const_cast<char*>(program.c_str()), const_cast<char*>(model.c_str()),
                       nullptr};
  const int error =
      posix_spawn(&process->pid_, program.c_str(), &actions, nullptr, arguments, environ);
  posix_spawn_file_actions_destroy(&actions);
  close(ends[1]);
  if (error != 0) {
    process->pid_ = 0;
    return ErrnoStatus(error, "run", program);
  }
  Frame hello;
  if (!ReadFrame(process->socket_, hello)) {
    return absl::InvalidArgumentError(
        absl::StrCat(model, " is not a SentencePiece model: the library ended over it"));
  }
  if (hello.kind != FrameKind::kHello || hello.bytes.size() != sizeof(int64_t) + sizeof(int32_t)) {
    return absl::InvalidArgumentError(
        absl::StrCat(model, " is not a SentencePiece model; give one, or \"bytes\" (",
                     hello.kind == FrameKind::kFailed ? hello.bytes : "no greeting", ")"));
  }
  std::memcpy(&process->vocab_size_, hello.bytes.data(), sizeof(int64_t));
  std::memcpy(&process->end_of_sentence_, hello.bytes.data() + sizeof(int64_t), sizeof(int32_t));
  return process;
}

SentencePieceProcess::~SentencePieceProcess() {
  // Without its client it ends by itself.
  if (socket_ >= 0) close(socket_);
  if (pid_ > 0) waitpid(pid_, nullptr, 0);
}

absl::StatusOr<Frame> SentencePieceProcess::Ask(const Frame& request, FrameKind wanted) const {
  if (request.bytes.size() > kFrameBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("a document of ", request.bytes.size(), " bytes is too long"));
  }
  Frame answer;
  if (!WriteFrame(socket_, request) || !ReadFrame(socket_, answer)) {
    return absl::UnavailableError(absl::StrCat("fathom-sentencepiece died over ", model_));
  }
  if (answer.kind == wanted) return answer;
  return absl::InvalidArgumentError(
      absl::StrCat("SentencePiece model ", model_, ": ",
                   answer.kind == FrameKind::kFailed ? answer.bytes : "an odd answer"));
}

absl::Status SentencePieceProcess::Encode(absl::string_view text, std::vector<int32_t>& ids) const {
  FATHOM_ASSIGN_OR_RETURN(const Frame answer,
                          Ask({FrameKind::kEncode, std::string(text)}, FrameKind::kIds));
  ids.resize(answer.bytes.size() / sizeof(int32_t));
  std::memcpy(ids.data(), answer.bytes.data(), ids.size() * sizeof(int32_t));
  return absl::OkStatus();
}

absl::StatusOr<std::string> SentencePieceProcess::Decode(absl::Span<const int32_t> ids) const {
  std::string bytes(reinterpret_cast<const char*>(ids.data()), ids.size() * sizeof(int32_t));
  FATHOM_ASSIGN_OR_RETURN(Frame answer,
                          Ask({FrameKind::kDecode, std::move(bytes)}, FrameKind::kText));
  return std::move(answer.bytes);
}

}  // namespace fathom::data
