#include "common/checkpoint/weights_hash.h"

#include "absl/strings/str_cat.h"
#include "common/base/hash.h"

namespace fathom::checkpoint {

std::string WeightsSha256(const std::map<std::string, std::string>& tensor_sha256) {
  Sha256 hash;
  for (const auto& [name, sha256] : tensor_sha256) {
    hash.Update(absl::StrCat(name, " ", sha256, "\n"));
  }
  return hash.HexDigest();
}

}  // namespace fathom::checkpoint
