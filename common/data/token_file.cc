#include "common/data/token_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/errno_status.h"
#include "common/base/status_util.h"

namespace fathom::data {
namespace {

static_assert(std::endian::native == std::endian::little, "token files are little-endian");

constexpr char kMagic[8] = {'F', 'A', 'T', 'H', 'O', 'M', 'T', 'K'};
constexpr uint32_t kVersion = 1;
constexpr uint32_t kByteOrderMark = 0x01020304;
// Multiples of every width of a token.
constexpr int64_t kReadBytes = 1 << 13;
constexpr int64_t kVerifyBytes = 1 << 20;

struct Header {
  char magic[8];
  uint32_t version;
  uint32_t byte_order;
  uint32_t header_bytes;
  uint32_t bytes_per_token;
  uint32_t tokenizer;
  uint32_t separator;
  uint64_t vocab_size;
  uint64_t training_tokens;
  uint64_t validation_tokens;
  uint64_t training_documents;
  uint64_t validation_documents;
  double unigram_entropy;
  double bigram_entropy;
  uint64_t payload_hash;
  uint8_t reserved[152];
  char source[256];
  uint64_t header_hash;  // XXH3 of all bytes before it
};
static_assert(sizeof(Header) == kTokenFileHeaderBytes);
static_assert(offsetof(Header, header_hash) == sizeof(Header) - sizeof(uint64_t));

uint64_t HeaderHash(const Header& header) {
  return XXH3_64bits(&header, offsetof(Header, header_hash));
}

absl::Status Damaged(const std::string& path, const std::string& what) {
  return absl::DataLossError(
      absl::StrCat("token file ", path, ": ", what, "; make it again with fathomctl data prepare"));
}

// Everything that can be said of a header without looking at a token.
absl::Status CheckHeader(const std::string& path, const Header& header, int64_t file_bytes) {
  if (std::memcmp(header.magic, kMagic, sizeof(kMagic)) != 0) {
    return Damaged(path, "not a token file (it doesn't begin with FATHOMTK)");
  }
  if (header.byte_order != kByteOrderMark) {
    return Damaged(path, "written on a machine of the other byte order");
  }
  if (header.version != kVersion) {
    return Damaged(
        path, absl::StrCat("version ", header.version, ", this program reads version ", kVersion));
  }
  if (header.header_hash != HeaderHash(header)) {
    return Damaged(path, "the header's hash doesn't match its contents");
  }
  if (header.header_bytes != kTokenFileHeaderBytes) {
    return Damaged(path, absl::StrCat("a header of ", header.header_bytes, " bytes instead of ",
                                      kTokenFileHeaderBytes));
  }
  if (header.vocab_size < 1 || header.vocab_size > kVocabularyMax) {
    return Damaged(path, absl::StrCat("a vocabulary of ", header.vocab_size, " ids, expected 1 to ",
                                      kVocabularyMax));
  }
  const int32_t width = BytesPerToken(static_cast<int64_t>(header.vocab_size));
  if (header.bytes_per_token != static_cast<uint32_t>(width)) {
    return Damaged(path, absl::StrCat(header.bytes_per_token, " bytes per token, a vocabulary of ",
                                      header.vocab_size, " takes ", width));
  }
  if (header.separator >= header.vocab_size) {
    return Damaged(path, absl::StrCat("the document separator ", header.separator,
                                      " is outside the vocabulary of ", header.vocab_size));
  }
  if (header.tokenizer != static_cast<uint32_t>(TokenizerKind::kBytes) &&
      header.tokenizer != static_cast<uint32_t>(TokenizerKind::kSentencePiece)) {
    return Damaged(path, absl::StrCat("unknown tokenizer kind ", header.tokenizer));
  }
  if (header.training_tokens == 0) return Damaged(path, "it holds no training tokens");
  // Both counts are bounded before they are added, so that no sum can wrap around.
  const uint64_t room = static_cast<uint64_t>(file_bytes - kTokenFileHeaderBytes);
  const uint64_t fitting = room / header.bytes_per_token;
  if (header.training_tokens > fitting || header.validation_tokens > fitting ||
      (header.training_tokens + header.validation_tokens) * header.bytes_per_token != room) {
    return Damaged(path,
                   absl::StrCat("the header counts ", header.training_tokens, " + ",
                                header.validation_tokens, " tokens of ", header.bytes_per_token,
                                " bytes, but ", room, " bytes follow it (cut short or grown)"));
  }
  if (header.training_documents > header.training_tokens ||
      header.validation_documents > header.validation_tokens) {
    return Damaged(path, "more documents than tokens");
  }
  if (!std::isfinite(header.unigram_entropy) || !std::isfinite(header.bigram_entropy)) {
    return Damaged(path, "an entropy that is not a number");
  }
  return absl::OkStatus();
}

TokenFileInfo InfoOf(const Header& header) {
  TokenFileInfo info;
  info.tokenizer = static_cast<TokenizerKind>(header.tokenizer);
  info.vocab_size = static_cast<int64_t>(header.vocab_size);
  info.separator = static_cast<int32_t>(header.separator);
  info.bytes_per_token = static_cast<int32_t>(header.bytes_per_token);
  info.training_tokens = static_cast<int64_t>(header.training_tokens);
  info.validation_tokens = static_cast<int64_t>(header.validation_tokens);
  info.training_documents = static_cast<int64_t>(header.training_documents);
  info.validation_documents = static_cast<int64_t>(header.validation_documents);
  info.unigram_entropy = header.unigram_entropy;
  info.bigram_entropy = header.bigram_entropy;
  info.payload_hash = header.payload_hash;
  info.source.assign(header.source, strnlen(header.source, sizeof(header.source)));
  return info;
}

uint32_t LoadToken(const uint8_t* at, int32_t width) {
  uint32_t value = 0;
  std::memcpy(&value, at, static_cast<size_t>(width));
  return value;
}

}  // namespace

const char* TokenizerKindName(TokenizerKind kind) {
  return kind == TokenizerKind::kBytes ? "bytes" : "sentencepiece";
}

int32_t BytesPerToken(int64_t vocab_size) {
  if (vocab_size <= 1 << 8) return 1;
  return vocab_size <= 1 << 16 ? 2 : 4;
}

absl::StatusOr<TokenFile> TokenFile::Open(const std::string& path) {
  const int descriptor =
      open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);  // a pipe must not hang
  if (descriptor < 0) return ErrnoStatus(errno, "open token file", path);
  TokenFile file;
  file.path_ = path;
  file.descriptor_ = descriptor;
  struct stat status = {};
  if (fstat(descriptor, &status) != 0) return ErrnoStatus(errno, "stat token file", path);
  if (!S_ISREG(status.st_mode)) return Damaged(path, "not a regular file");
  if (status.st_size < kTokenFileHeaderBytes) {
    return Damaged(path, absl::StrCat(status.st_size, " bytes, shorter than its header of ",
                                      kTokenFileHeaderBytes));
  }
  Header header;
  const ssize_t got = pread(descriptor, &header, sizeof(header), 0);
  if (got < 0) return ErrnoStatus(errno, "read token file", path);
  if (got != sizeof(header)) return Damaged(path, "shorter than its header");
  FATHOM_RETURN_IF_ERROR(CheckHeader(path, header, status.st_size));

  file.info_ = InfoOf(header);
  return file;
}

TokenFile::TokenFile(TokenFile&& other) noexcept { *this = std::move(other); }

TokenFile& TokenFile::operator=(TokenFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(info_, other.info_);
  std::swap(descriptor_, other.descriptor_);
  return *this;
}

TokenFile::~TokenFile() {
  if (descriptor_ >= 0) close(descriptor_);
}

absl::Status TokenFile::ReadPayload(int64_t offset, absl::Span<uint8_t> out) const {
  while (!out.empty()) {
    const ssize_t got = pread(descriptor_, out.data(), out.size(), kTokenFileHeaderBytes + offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoStatus(errno, "read token file", path_);
    if (got == 0) {
      return Damaged(path_, absl::StrCat("it ends ", offset, " bytes after its header: cut short ",
                                         "since it was opened"));
    }
    offset += got;
    out.remove_prefix(static_cast<size_t>(got));
  }
  return absl::OkStatus();
}

absl::Status TokenFile::CopyTokens(Split split, int64_t begin, absl::Span<int32_t> out) const {
  const int64_t count = static_cast<int64_t>(out.size());
  if (begin < 0 || begin > tokens(split) || count > tokens(split) - begin) {
    return absl::OutOfRangeError(absl::StrCat("token file ", path_, ": ", count, " tokens from ",
                                              begin, " wanted, the part holds ", tokens(split)));
  }
  const int64_t first = begin + (split == Split::kValidation ? info_.training_tokens : 0);
  const int32_t width = info_.bytes_per_token;
  uint8_t bytes[kReadBytes];
  for (int64_t done = 0; done < count;) {
    const int64_t portion = std::min<int64_t>(count - done, kReadBytes / width);
    FATHOM_RETURN_IF_ERROR(ReadPayload(
        (first + done) * width, absl::MakeSpan(bytes, static_cast<size_t>(portion * width))));
    for (int64_t i = 0; i < portion; ++i, ++done) {
      const uint32_t id = LoadToken(bytes + i * width, width);
      if (id >= info_.vocab_size) {
        return Damaged(path_, absl::StrCat("id ", id, " at token ", first + done,
                                           " is outside the vocabulary of ", info_.vocab_size));
      }
      out[static_cast<size_t>(done)] = static_cast<int32_t>(id);
    }
  }
  return absl::OkStatus();
}

absl::Status TokenFile::Verify() const {
  std::vector<uint8_t> bytes(kVerifyBytes);
  const std::unique_ptr<XXH3_state_t, XXH_errorcode (*)(XXH3_state_t*)> hash_state(
      XXH3_createState(), XXH3_freeState);
  FATHOM_CHECK(hash_state != nullptr) << "no memory";
  XXH3_64bits_reset(hash_state.get());
  const int32_t width = info_.bytes_per_token;
  const int64_t total = (info_.training_tokens + info_.validation_tokens) * width;
  for (int64_t offset = 0; offset < total; offset += kVerifyBytes) {
    const auto portion =
        absl::MakeSpan(bytes).first(static_cast<size_t>(std::min(kVerifyBytes, total - offset)));
    FATHOM_RETURN_IF_ERROR(ReadPayload(offset, portion));
    XXH3_64bits_update(hash_state.get(), portion.data(), portion.size());
    for (size_t at = 0; at < portion.size(); at += static_cast<size_t>(width)) {
      const uint32_t id = LoadToken(portion.data() + at, width);
      if (id < info_.vocab_size) continue;
      return Damaged(
          path_, absl::StrCat("id ", id, " at token ", (offset + static_cast<int64_t>(at)) / width,
                              " is outside the vocabulary of ", info_.vocab_size));
    }
  }
  const uint64_t hash = XXH3_64bits_digest(hash_state.get());
  if (hash == info_.payload_hash) return absl::OkStatus();
  return Damaged(
      path_, absl::StrCat("the tokens' hash is ", absl::Hex(hash, absl::kZeroPad16),
                          ", the header says ", absl::Hex(info_.payload_hash, absl::kZeroPad16)));
}

absl::StatusOr<TokenFileWriter> TokenFileWriter::Create(const std::string& path,
                                                        TokenizerKind tokenizer, int64_t vocab_size,
                                                        int32_t separator) {
  FATHOM_CHECK(vocab_size >= 1 && vocab_size <= kVocabularyMax) << vocab_size;
  FATHOM_CHECK(separator >= 0 && separator < vocab_size) << separator;
  TokenFileWriter writer;
  FATHOM_ASSIGN_OR_RETURN(writer.file_, OutputFile::Create(path));
  writer.info_.tokenizer = tokenizer;
  writer.info_.vocab_size = vocab_size;
  writer.info_.separator = separator;
  writer.info_.bytes_per_token = BytesPerToken(vocab_size);
  writer.hash_state_ = XXH3_createState();
  FATHOM_CHECK(writer.hash_state_ != nullptr) << "no memory";
  XXH3_64bits_reset(static_cast<XXH3_state_t*>(writer.hash_state_));
  const Header zero = {};
  FATHOM_RETURN_IF_ERROR(writer.file_.Append(&zero, sizeof(zero)));
  return writer;
}

TokenFileWriter::TokenFileWriter(TokenFileWriter&& other) noexcept { *this = std::move(other); }

TokenFileWriter& TokenFileWriter::operator=(TokenFileWriter&& other) noexcept {
  if (this == &other) return *this;
  file_ = std::move(other.file_);
  info_ = std::move(other.info_);
  scratch_ = std::move(other.scratch_);
  std::swap(hash_state_, other.hash_state_);
  return *this;
}

TokenFileWriter::~TokenFileWriter() {
  if (hash_state_ != nullptr) XXH3_freeState(static_cast<XXH3_state_t*>(hash_state_));
}

absl::Status TokenFileWriter::AddDocument(Split split, absl::Span<const int32_t> tokens) {
  FATHOM_CHECK(split == Split::kValidation || info_.validation_tokens == 0)
      << "a training document after a validation one";
  const size_t width = static_cast<size_t>(info_.bytes_per_token);
  scratch_.clear();
  scratch_.reserve((tokens.size() + 1) * width);
  for (const int32_t id : tokens) {
    if (id < 0 || id >= info_.vocab_size) {
      return absl::InvalidArgumentError(
          absl::StrCat("id ", id, " is outside the vocabulary of ", info_.vocab_size));
    }
    scratch_.append(reinterpret_cast<const char*>(&id), width);
  }
  scratch_.append(reinterpret_cast<const char*>(&info_.separator), width);
  XXH3_64bits_update(static_cast<XXH3_state_t*>(hash_state_), scratch_.data(), scratch_.size());
  FATHOM_RETURN_IF_ERROR(file_.Append(scratch_.data(), scratch_.size()));
  const int64_t count = static_cast<int64_t>(tokens.size()) + 1;
  const bool training = split == Split::kTraining;
  (training ? info_.training_tokens : info_.validation_tokens) += count;
  (training ? info_.training_documents : info_.validation_documents) += 1;
  return absl::OkStatus();
}

absl::StatusOr<TokenFileInfo> TokenFileWriter::Finish(double unigram_entropy, double bigram_entropy,
                                                      const std::string& source) {
  if (info_.training_tokens == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("can't write ", file_.path(), ": there are no training tokens"));
  }
  Header header = {};
  std::memcpy(header.magic, kMagic, sizeof(kMagic));
  header.version = kVersion;
  header.byte_order = kByteOrderMark;
  header.header_bytes = kTokenFileHeaderBytes;
  header.bytes_per_token = static_cast<uint32_t>(info_.bytes_per_token);
  header.tokenizer = static_cast<uint32_t>(info_.tokenizer);
  header.separator = static_cast<uint32_t>(info_.separator);
  header.vocab_size = static_cast<uint64_t>(info_.vocab_size);
  header.training_tokens = static_cast<uint64_t>(info_.training_tokens);
  header.validation_tokens = static_cast<uint64_t>(info_.validation_tokens);
  header.training_documents = static_cast<uint64_t>(info_.training_documents);
  header.validation_documents = static_cast<uint64_t>(info_.validation_documents);
  header.unigram_entropy = unigram_entropy;
  header.bigram_entropy = bigram_entropy;
  header.payload_hash = XXH3_64bits_digest(static_cast<XXH3_state_t*>(hash_state_));
  std::memcpy(header.source, source.data(), std::min(source.size(), sizeof(header.source) - 1));
  header.header_hash = HeaderHash(header);
  FATHOM_RETURN_IF_ERROR(file_.WriteAt(0, &header, sizeof(header)));
  FATHOM_RETURN_IF_ERROR(file_.Commit());
  return InfoOf(header);
}

}  // namespace fathom::data
