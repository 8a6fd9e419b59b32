// fathom-sentencepiece MODEL: encodes and decodes for a client on standard input, which is a socket
// (common/data/sentencepiece_frames.h). Not for people.
#include <sentencepiece_processor.h>

#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "common/data/sentencepiece_frames.h"

namespace {

using fathom::data::Frame;
using fathom::data::FrameKind;

constexpr int kSocket = 0;

std::string Bytes(const std::vector<int>& ids) {
  return {reinterpret_cast<const char*>(ids.data()), ids.size() * sizeof(int)};
}

Frame Answer(const sentencepiece::SentencePieceProcessor& processor, const Frame& request) {
  Frame answer;
  sentencepiece::util::Status status;
  if (request.kind == FrameKind::kEncode) {
    std::vector<int> ids;
    status = processor.Encode(request.bytes, &ids);
    answer = {FrameKind::kIds, Bytes(ids)};
  } else if (request.kind == FrameKind::kDecode) {
    std::vector<int> ids(request.bytes.size() / sizeof(int));
    std::memcpy(ids.data(), request.bytes.data(), ids.size() * sizeof(int));
    answer.kind = FrameKind::kText;
    status = processor.Decode(ids, &answer.bytes);
  } else {
    return {FrameKind::kFailed, "no such request"};
  }
  if (!status.ok()) return {FrameKind::kFailed, status.error_message()};
  return answer;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: fathom-sentencepiece MODEL, with a socket as standard input\n");
    return 2;
  }
  sentencepiece::SentencePieceProcessor processor;
  const auto loaded = processor.Load(argv[1]);
  if (!loaded.ok()) {
    fathom::data::WriteFrame(kSocket, {FrameKind::kFailed, loaded.error_message()});
    return 1;
  }
  const int64_t vocab_size = processor.GetPieceSize();
  const int32_t end_of_sentence = processor.eos_id();
  std::string hello(sizeof(vocab_size) + sizeof(end_of_sentence), '\0');
  std::memcpy(hello.data(), &vocab_size, sizeof(vocab_size));
  std::memcpy(hello.data() + sizeof(vocab_size), &end_of_sentence, sizeof(end_of_sentence));
  bool open = fathom::data::WriteFrame(kSocket, {FrameKind::kHello, hello});
  Frame request;
  while (open && fathom::data::ReadFrame(kSocket, request)) {
    open = fathom::data::WriteFrame(kSocket, Answer(processor, request));
  }
  return 0;
}
