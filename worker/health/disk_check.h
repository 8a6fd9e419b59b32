// Whether the disk of the state folder takes data and gives it back: a small file is written,
// synced, dropped from the page cache as far as the kernel obeys, read back and compared. The file
// has no name from its first byte on, so nothing stays behind even if the check is killed.
#ifndef FATHOM_WORKER_HEALTH_DISK_CHECK_H_
#define FATHOM_WORKER_HEALTH_DISK_CHECK_H_

#include <cstdint>
#include <string>
#include <vector>

#include "common/base/clock.h"
#include "proto/fathom/v1/cluster.pb.h"

namespace fathom::health {

// disk_bandwidth (written and synced, MB/s) and disk_free (GB that this user may still write). A
// full disk, a read-only one and altered data fail the first, with what to do.
std::vector<v1::PreflightCheck> CheckDisk(const std::string& folder, int64_t bytes, uint64_t seed,
                                          const Clock* clock);

}  // namespace fathom::health

#endif  // FATHOM_WORKER_HEALTH_DISK_CHECK_H_
