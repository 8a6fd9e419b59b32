// NVIDIA's Xid codes, by how much trust they leave: what the kernel log's "NVRM: Xid" lines mean
// for the device they name. Pure.
//
// Sources: NVIDIA, "Xid Errors" (docs.nvidia.com/deploy/xid-errors, the catalog of Ampere and newer
// and its resolution buckets), NVIDIA, "GPU Memory Error Management" (docs.nvidia.com/deploy/
// a100-gpu-mem-error-mgmt) for 63, 64, 92, 94, 95, and NVIDIA's own health checks
// (docs.nvidia.com/health-validation). Where they ask to reset, reboot or replace, a code is fatal;
// where they ask to restart the application, the application may as well be the cause, and it is a
// warning.
#ifndef FATHOM_WORKER_HEALTH_XID_TABLE_H_
#define FATHOM_WORKER_HEALTH_XID_TABLE_H_

#include "absl/strings/string_view.h"
#include "proto/fathom/v1/cluster.pb.h"

namespace fathom::health {

struct XidMeaning {
  v1::Severity severity = v1::SEVERITY_WARNING;
  absl::string_view text;  // what it is, and what to do
};

// Codes that are not in the table are warnings.
XidMeaning MeaningOfXid(int code);

}  // namespace fathom::health

#endif  // FATHOM_WORKER_HEALTH_XID_TABLE_H_
