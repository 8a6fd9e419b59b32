// Checkpoints on the shared file system: what is there is durable and whole.
#ifndef FATHOM_TESTS_SIM_CHECKPOINT_STORE_H_
#define FATHOM_TESTS_SIM_CHECKPOINT_STORE_H_

#include <cstdint>
#include <map>
#include <string>

#include "absl/strings/str_cat.h"

namespace fathom::sim {

struct StoredCheckpoint {
  int64_t step = 0;
  uint64_t state_hash = 0;
};

class CheckpointStore {
 public:
  static std::string ManifestOf(const std::string& directory, int64_t step) {
    return absl::StrCat(directory, "/", step, "/manifest.json");
  }
  std::string Publish(const std::string& directory, int64_t step, uint64_t state_hash) {
    const std::string manifest = ManifestOf(directory, step);
    by_manifest_[manifest] = {step, state_hash};
    int64_t& newest = newest_[directory];
    if (step > newest) newest = step;
    return manifest;
  }
  // Null: no such checkpoint.
  const StoredCheckpoint* Find(const std::string& manifest) const {
    const auto found = by_manifest_.find(manifest);
    return found == by_manifest_.end() ? nullptr : &found->second;
  }
  // Null: none in this directory.
  const StoredCheckpoint* Newest(const std::string& directory) const {
    const auto found = newest_.find(directory);
    return found == newest_.end() ? nullptr : Find(ManifestOf(directory, found->second));
  }

 private:
  std::map<std::string, StoredCheckpoint> by_manifest_;
  std::map<std::string, int64_t> newest_;
};

}  // namespace fathom::sim

#endif  // FATHOM_TESTS_SIM_CHECKPOINT_STORE_H_
