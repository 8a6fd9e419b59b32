// What fathom-sentencepiece and its client say to each other over a socket: frames of a kind, a
// length and that many bytes, all little-endian. The program greets (kHello or kFailed); then each
// request is answered before the next.
//
// The library runs in a process of its own because Debian's build of it brings a private protobuf,
// whose symbols would mix with the real one's. A damaged model then can't bring the client down
// either.
#ifndef FATHOM_COMMON_DATA_SENTENCEPIECE_FRAMES_H_
#define FATHOM_COMMON_DATA_SENTENCEPIECE_FRAMES_H_

#include <cstdint>
#include <string>

namespace fathom::data {

enum class FrameKind : uint8_t {
  kHello = 'H',   // int64 vocabulary size, int32 end-of-sentence id (-1: none)
  kEncode = 'E',  // text -> kIds
  kIds = 'I',     // int32 each
  kDecode = 'D',  // ids -> kText
  kText = 'T',
  kFailed = 'X',  // what went wrong
};

struct Frame {
  FrameKind kind = FrameKind::kFailed;
  std::string bytes;
};

inline constexpr uint32_t kFrameBytesMax = uint32_t{1} << 30;

// False when the other side is gone or, reading, sent no sound frame.
bool WriteFrame(int socket, const Frame& frame);
bool ReadFrame(int socket, Frame& frame);

}  // namespace fathom::data

#endif  // FATHOM_COMMON_DATA_SENTENCEPIECE_FRAMES_H_
