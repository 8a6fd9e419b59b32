// One hash for all weights of a checkpoint, the same for every parallel layout that holds the same
// bits.
#ifndef FATHOM_COMMON_CHECKPOINT_WEIGHTS_HASH_H_
#define FATHOM_COMMON_CHECKPOINT_WEIGHTS_HASH_H_

#include <map>
#include <string>

namespace fathom::checkpoint {

// The weights_sha256 of checkpoint.proto, from each weight tensor's own hash: name -> SHA-256 in
// hex of its bytes in the compute format, little-endian.
std::string WeightsSha256(const std::map<std::string, std::string>& tensor_sha256);

}  // namespace fathom::checkpoint

#endif  // FATHOM_COMMON_CHECKPOINT_WEIGHTS_HASH_H_
