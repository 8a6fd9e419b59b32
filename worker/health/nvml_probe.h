// What NVIDIA's management library tells of each GPU: ECC errors, remapped memory rows, PCIe and
// NVLink errors, and whether it still answers. The library is looked for at run time, and no header
// of it is needed; without it there are no signals. Xid codes come from the kernel's log instead
// (kernel_log.h): NVML tells them only to a process that was waiting.
//
// A call may hang with the driver; do it in a process that can be killed.
#ifndef FATHOM_WORKER_HEALTH_NVML_PROBE_H_
#define FATHOM_WORKER_HEALTH_NVML_PROBE_H_

#include <string>
#include <vector>

#include "proto/fathom/v1/cluster.pb.h"

namespace fathom::health {

inline constexpr char kNvmlLibrary[] = "libnvidia-ml.so.1";

// What a GPU or driver doesn't offer is left out.
std::vector<v1::HealthSignal> ProbeNvml(const std::string& library);

}  // namespace fathom::health

#endif  // FATHOM_WORKER_HEALTH_NVML_PROBE_H_
