#include "cli/data_prepare.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/errno_status.h"
#include "common/base/status_util.h"
#include "common/data/document_split.h"
#include "common/data/entropy.h"
#include "common/data/tokenizer.h"

namespace fathom::cli {
namespace {

constexpr size_t kReadBytes = 1 << 20;
// Held-out documents wait in memory until the training part is written.
constexpr int64_t kHeldOutBytesMax = int64_t{4} << 30;

class Input {
 public:
  static absl::StatusOr<Input> Open(const std::string& path) {
    Input input;
    input.path_ = path;
    input.descriptor_ = path == "-" ? dup(STDIN_FILENO) : open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (input.descriptor_ < 0) return ErrnoStatus(errno, "open input", path);
    struct stat status = {};
    if (fstat(input.descriptor_, &status) != 0) return ErrnoStatus(errno, "stat input", path);
    if (S_ISDIR(status.st_mode)) {
      return absl::InvalidArgumentError(
          absl::StrCat("input ", path, " is a folder; name the text files in it"));
    }
    if (S_ISREG(status.st_mode)) input.size_ = status.st_size;
    return input;
  }

  Input(Input&& other) noexcept
      : path_(std::move(other.path_)),
        descriptor_(std::exchange(other.descriptor_, -1)),
        size_(other.size_) {}
  Input& operator=(Input&&) = delete;
  ~Input() {
    if (descriptor_ >= 0) close(descriptor_);
  }

  const std::string& path() const { return path_; }
  int64_t size() const { return size_; }  // 0 when it isn't known

  // Appends the next bytes to `text`; false at the end.
  absl::StatusOr<bool> Read(std::string& text) {
    const size_t before = text.size();
    text.resize(before + kReadBytes);
    ssize_t got = 0;
    do {
      got = read(descriptor_, text.data() + before, kReadBytes);
    } while (got < 0 && errno == EINTR);
    text.resize(before + static_cast<size_t>(std::max<ssize_t>(got, 0)));
    if (got < 0) return ErrnoStatus(errno, "read input", path_);
    return got > 0;
  }

 private:
  Input() = default;

  std::string path_;
  int descriptor_ = -1;
  int64_t size_ = 0;
};

class Preparation {
 public:
  Preparation(const PrepareRequest& request, const data::Tokenizer& tokenizer,
              data::TokenFileWriter writer, size_t document_bytes)
      : request_(request),
        tokenizer_(tokenizer),
        writer_(std::move(writer)),
        document_bytes_(document_bytes),
        entropy_(tokenizer.vocab_size()) {}

  absl::Status AddInput(Input& input) {
    std::string text;
    int64_t offset = 0;  // of text's first byte in the input
    bool more = true;
    while (more) {
      const size_t checked = text.size();
      FATHOM_ASSIGN_OR_RETURN(more, input.Read(text));
      FATHOM_RETURN_IF_ERROR(CheckText(input, text, checked, offset));
      size_t at = 0;
      while (at < text.size() &&
             (!more || text.size() - at >= data::DocumentLookahead(document_bytes_))) {
        const absl::string_view rest = absl::string_view(text).substr(at);
        const size_t end = data::DocumentEnd(rest, document_bytes_);
        FATHOM_RETURN_IF_ERROR(AddDocument(rest.substr(0, end)));
        at += end;
      }
      offset += static_cast<int64_t>(at);
      text.erase(0, at);
    }
    return absl::OkStatus();
  }

  absl::StatusOr<data::TokenFileInfo> Finish(const std::string& source) {
    if (documents_ == 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("there is no text in ", absl::StrJoin(request_.inputs, ", ")));
    }
    if (request_.validation_fraction > 0 && held_out_.empty()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "too little text to hold ", request_.validation_fraction,
          " of it out for validation: it makes ", documents_,
          " documents; give more text, a larger --validation-fraction, or 0 for none"));
    }
    for (const std::string& document : held_out_) {
      FATHOM_RETURN_IF_ERROR(tokenizer_.Encode(document, ids_));
      FATHOM_RETURN_IF_ERROR(writer_.AddDocument(data::Split::kValidation, ids_));
    }
    return writer_.Finish(entropy_.Unigram(), entropy_.Bigram(), source);
  }

 private:
  absl::Status CheckText(const Input& input, const std::string& text, size_t from,
                         int64_t offset) const {
    if (request_.allow_binary) return absl::OkStatus();
    const size_t zero = text.find('\0', from);
    if (zero == std::string::npos) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("input ", input.path(), " is not text: a zero byte at offset ",
                     offset + static_cast<int64_t>(zero),
                     "; unpack it first, or pass --allow-binary to take its bytes as they are"));
  }

  absl::Status AddDocument(absl::string_view document) {
    if (data::IsHeldOut(documents_++, request_.validation_fraction)) {
      held_out_bytes_ += static_cast<int64_t>(document.size());
      if (held_out_bytes_ > kHeldOutBytesMax) {
        return absl::InvalidArgumentError(absl::StrCat("the held-out part is larger than ",
                                                       kHeldOutBytesMax,
                                                       " bytes; lower --validation-fraction"));
      }
      held_out_.emplace_back(document);
      return absl::OkStatus();
    }
    FATHOM_RETURN_IF_ERROR(tokenizer_.Encode(document, ids_));
    entropy_.Add(ids_);
    const int32_t separator = tokenizer_.separator();
    entropy_.Add(absl::MakeConstSpan(&separator, 1));
    return writer_.AddDocument(data::Split::kTraining, ids_);
  }

  const PrepareRequest& request_;
  const data::Tokenizer& tokenizer_;
  data::TokenFileWriter writer_;
  const size_t document_bytes_;
  data::EntropyCounter entropy_;  // of the training part
  int64_t documents_ = 0;
  std::vector<std::string> held_out_;
  int64_t held_out_bytes_ = 0;
  std::vector<int32_t> ids_;
};

std::string SourceText(const PrepareRequest& request) {
  if (!request.source.empty()) return request.source;
  std::vector<std::string> names;
  for (const std::string& input : request.inputs) {
    names.push_back(input == "-" ? "standard input" : input.substr(input.rfind('/') + 1));
  }
  return absl::StrJoin(names, ", ");
}

}  // namespace

absl::StatusOr<data::TokenFileInfo> PrepareTokenFile(const PrepareRequest& request) {
  FATHOM_ASSIGN_OR_RETURN(const std::unique_ptr<data::Tokenizer> tokenizer,
                          data::MakeTokenizer(request.tokenizer, request.sentencepiece_program));
  // All inputs are opened first: one that isn't there costs no work.
  std::vector<Input> inputs;
  int64_t total_bytes = 0;
  for (const std::string& path : request.inputs) {
    FATHOM_ASSIGN_OR_RETURN(Input input, Input::Open(path));
    total_bytes += input.size();
    inputs.push_back(std::move(input));
  }
  FATHOM_ASSIGN_OR_RETURN(
      data::TokenFileWriter writer,
      data::TokenFileWriter::Create(request.output, tokenizer->kind(), tokenizer->vocab_size(),
                                    tokenizer->separator()));
  Preparation preparation(request, *tokenizer, std::move(writer),
                          data::DocumentTarget(total_bytes, request.validation_fraction));
  for (Input& input : inputs) FATHOM_RETURN_IF_ERROR(preparation.AddInput(input));
  return preparation.Finish(SourceText(request));
}

}  // namespace fathom::cli
