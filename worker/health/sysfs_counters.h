// Counters that Linux keeps in sysfs: of InfiniBand ports, of memory controllers (EDAC) and of PCIe
// devices (advanced error reporting). A file that is not there or says something else is no signal:
// drivers differ in what they offer.
//
//   sys/class/infiniband/<device>/ports/<n>/state              "4: ACTIVE"
//   sys/class/infiniband/<device>/ports/<n>/counters/<name>    "17"
//   sys/devices/system/edac/mc/mc<n>/{ce,ue}_count             "0"
//   sys/bus/pci/devices/<address>/aer_dev_{correctable,nonfatal,fatal}
//                                                "Receiver Error 2\n...\nTOTAL_ERR_COR 2"
//
// Formats: Documentation/ABI of Linux (stable/sysfs-class-infiniband, testing/sysfs-devices-edac,
// testing/sysfs-bus-pci-devices-aer_stats). Reading may hang with the driver behind it; do it in a
// process that can be killed.
#ifndef FATHOM_WORKER_HEALTH_SYSFS_COUNTERS_H_
#define FATHOM_WORKER_HEALTH_SYSFS_COUNTERS_H_

#include <string>
#include <vector>

#include "proto/fathom/v1/cluster.pb.h"

namespace fathom::health {

// Below `root`, which ends in '/'. In order of names.
std::vector<v1::HealthSignal> ReadInfinibandPorts(const std::string& root);
std::vector<v1::HealthSignal> ReadMemoryControllers(const std::string& root);
std::vector<v1::HealthSignal> ReadPcieErrors(const std::string& root);

}  // namespace fathom::health

#endif  // FATHOM_WORKER_HEALTH_SYSFS_COUNTERS_H_
