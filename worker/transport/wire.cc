#include "worker/transport/wire.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"

namespace fathom::transport {
namespace {

constexpr char kMagic[] = "FATHOMW\n";  // 8 bytes
constexpr size_t kMagicBytes = 8;

class Writer {
 public:
  explicit Writer(std::byte* out) : out_(out) {}
  template <typename T>
  void Number(T value) {
    for (size_t i = 0; i < sizeof(T); ++i) *out_++ = static_cast<std::byte>(value >> (8 * i));
  }
  void Bytes(const char* data, size_t n) {
    std::memcpy(out_, data, n);
    out_ += n;
  }

 private:
  std::byte* out_;
};

class Reader {
 public:
  explicit Reader(const std::byte* in) : in_(in) {}
  template <typename T>
  T Number() {
    T value = 0;
    for (size_t i = 0; i < sizeof(T); ++i) value |= static_cast<T>(*in_++) << (8 * i);
    return value;
  }
  const char* Bytes(size_t n) {
    const char* at = reinterpret_cast<const char*>(in_);
    in_ += n;
    return at;
  }

 private:
  const std::byte* in_;
};

}  // namespace

absl::StatusOr<std::string> EncodeHello(const Hello& hello) {
  if (hello.job.size() > kJobNameBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat("a job's name has at most ", kJobNameBytesMax,
                                                   " bytes, this one has ", hello.job.size()));
  }
  std::string bytes(kHelloBytes, '\0');
  Writer out(reinterpret_cast<std::byte*>(bytes.data()));
  out.Bytes(kMagic, kMagicBytes);
  out.Number<uint32_t>(hello.version);
  out.Number<uint32_t>(hello.rank);
  out.Number<uint32_t>(hello.to_rank);
  out.Number<uint32_t>(hello.size);
  out.Number<uint64_t>(hello.epoch);
  out.Number<uint64_t>(hello.window_bytes);
  out.Number<uint32_t>(hello.signal_count);
  out.Number<uint32_t>(static_cast<uint32_t>(hello.job.size()));
  out.Bytes(hello.job.data(), hello.job.size());
  return bytes;
}

absl::StatusOr<Hello> DecodeHello(absl::Span<const std::byte> bytes) {
  if (bytes.size() != kHelloBytes || std::memcmp(bytes.data(), kMagic, kMagicBytes) != 0) {
    return absl::InvalidArgumentError("it does not speak the ranks' protocol");
  }
  Reader in(bytes.data() + kMagicBytes);
  Hello hello;
  hello.version = in.Number<uint32_t>();
  hello.rank = in.Number<uint32_t>();
  hello.to_rank = in.Number<uint32_t>();
  hello.size = in.Number<uint32_t>();
  hello.epoch = in.Number<uint64_t>();
  hello.window_bytes = in.Number<uint64_t>();
  hello.signal_count = in.Number<uint32_t>();
  const uint32_t job_bytes = in.Number<uint32_t>();
  if (job_bytes > kJobNameBytesMax) {
    return absl::InvalidArgumentError("it states a job name of impossible length");
  }
  hello.job.assign(in.Bytes(job_bytes), job_bytes);
  return hello;
}

absl::Status CheckHello(const Hello& mine, const Hello& theirs, uint32_t their_rank) {
  const auto differs = [](absl::string_view what, const auto& their, const auto& own) {
    return absl::FailedPreconditionError(
        absl::StrCat("its ", what, " is ", their, ", and ", own, " was expected"));
  };
  if (theirs.version != mine.version) {
    return differs("transport protocol version", theirs.version, mine.version);
  }
  if (theirs.job != mine.job) {
    return differs("job", absl::StrCat("\"", theirs.job, "\""), absl::StrCat("\"", mine.job, "\""));
  }
  if (theirs.epoch != mine.epoch) return differs("epoch", theirs.epoch, mine.epoch);
  if (theirs.size != mine.size) return differs("number of ranks", theirs.size, mine.size);
  if (theirs.rank != their_rank) return differs("rank", theirs.rank, their_rank);
  if (theirs.to_rank != mine.rank) {
    return absl::FailedPreconditionError(
        absl::StrCat("it takes this rank, ", mine.rank, ", for rank ", theirs.to_rank));
  }
  return absl::OkStatus();
}

std::array<std::byte, kFrameBytes> EncodeFrame(const Frame& frame) {
  std::array<std::byte, kFrameBytes> bytes;
  Writer out(bytes.data());
  out.Number<uint32_t>(static_cast<uint32_t>(frame.kind));
  out.Number<uint32_t>(frame.signal);
  out.Number<uint64_t>(frame.offset);
  out.Number<uint64_t>(frame.length);
  return bytes;
}

absl::StatusOr<Frame> DecodeFrame(absl::Span<const std::byte> bytes, uint64_t window_bytes,
                                  uint32_t signal_count) {
  FATHOM_CHECK(bytes.size() == kFrameBytes) << bytes.size();
  Reader in(bytes.data());
  const uint32_t kind = in.Number<uint32_t>();
  Frame frame;
  frame.signal = in.Number<uint32_t>();
  frame.offset = in.Number<uint64_t>();
  frame.length = in.Number<uint64_t>();
  if (kind < 1 || kind > 3) {
    return absl::InvalidArgumentError(absl::StrCat("it sent a frame of unknown kind ", kind));
  }
  frame.kind = static_cast<FrameKind>(kind);
  if (frame.kind == FrameKind::kPut &&
      (frame.offset > window_bytes || frame.length > window_bytes - frame.offset)) {
    return absl::InvalidArgumentError(absl::StrCat("it put ", frame.length, " bytes at ",
                                                   frame.offset, ", outside this window of ",
                                                   window_bytes));
  }
  if (frame.kind == FrameKind::kSignal && frame.signal >= signal_count) {
    return absl::InvalidArgumentError(
        absl::StrCat("it raised signal ", frame.signal, " of ", signal_count));
  }
  return frame;
}

}  // namespace fathom::transport
