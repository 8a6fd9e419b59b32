// AMD's and Huawei's devices, and a core of an ordinary computer.
#include "common/cluster/profile_table.h"

namespace fathom::cluster {
namespace {

constexpr char kMi300xCompute[] =
    "aiweekly.co on a peer-reviewed study: about 45% of peak in FP8 and BF16; shape assumed";

constexpr RateRow kMi300xRates[] = {
    {"gemm", "e4m3", 0, 4096, 4096, 7168, 1177, kMi300xCompute},
    {"gemm", "bf16", 0, 4096, 4096, 7168, 588, kMi300xCompute},
    {"grouped_gemm", "e4m3", 8, 4096, 4096, 7168, 1177, kMi300xCompute},
    {"grouped_gemm", "bf16", 8, 4096, 4096, 7168, 588, kMi300xCompute},
    {"memory", "", 0, 0, 0, 0, 4293, "aiweekly.co on a peer-reviewed study: about 81% of 5.3 TB/s"},
};

constexpr SourceRow kMi300xSources[] = {
    {"bf16_tflops fp8_tflops fp32_tflops memory_bytes memory_gigabytes_per_second compute_units "
     "scale_up_devices scale_up_gigabytes_per_second watts",
     "AMD Instinct MI300X data sheet, dense; 7 Infinity Fabric links of 64 GB/s one way"},
    {"scale_up_effective_gigabytes_per_second",
     "assumed: 80% of the data sheet's, as H800's NVLink reaches"},
    {"scale_up_latency_us", "assumed: as NVLink in arXiv 2505.09343, 3.33 us"},
    {"nic_gigabits_per_second", "assumed: one 400 Gb/s NIC per device"},
    {"communication_units", "assumed: H800's share of its units, 20 of 132"},
    {"launch_us", "assumed: 2 us, as for NVIDIA's"},
};

constexpr char kCannMla[] =
    "assumed: 60% of peak forward and 50% backward, for lack of a figure for training";
constexpr char kAscendProduct[] = "assumed: 65% of peak, for lack of a figure in BF16";
constexpr char kDeepEpAscend[] =
    "README of a fork of sgl-kernel-npu (BourneSun0527): 8 ranks on a node, 102 GB/s dispatch, 152 "
    "combine";
constexpr RateRow kAscendRates[] = {
    {"gemm", "bf16", 0, 4096, 4096, 7168, 489, kAscendProduct},
    {"grouped_gemm", "bf16", 8, 4096, 4096, 7168, 489, kAscendProduct},
    {"gemm", "fp32", 0, 4096, 4096, 7168, 60, kAscendProduct},
    {"attention_forward", "bf16", 0, 4096, 128, 128, 451, kCannMla},
    {"attention_backward", "bf16", 0, 4096, 128, 128, 376, kCannMla},
    {"memory", "", 0, 0, 0, 0, 2560, "assumed: 80% of the data sheet's"},
    {"dispatch", "", 1, 4096, 7168, 0, 102, kDeepEpAscend},
    {"dispatch", "", 2, 4096, 7168, 0, 45,
     "assumed: 90% of the NIC's 50 GB/s; the published figure is of nodes within one supernode"},
    {"combine", "", 1, 4096, 7168, 0, 152, kDeepEpAscend},
    {"combine", "", 2, 4096, 7168, 0, 45,
     "assumed: 90% of the NIC's 50 GB/s; the published figure is of nodes within one supernode"},
};

constexpr char kDeepEpAscend16[] =
    "README of a fork of sgl-kernel-npu (BourneSun0527): 16 ranks on two nodes, 87 GB/s dispatch, "
    "121 combine; more nodes of a supernode assumed to do as well";

constexpr RateRow kCloudMatrixRates[] = {
    {"dispatch", "", 1, 4096, 7168, 0, 87, kDeepEpAscend16},
    {"combine", "", 1, 4096, 7168, 0, 121, kDeepEpAscend16},
};

constexpr char kCloudMatrixPaper[] =
    "arXiv 2506.12708 as emergentmind.com and besthub.dev sum it up: two dies, 752 TFLOPS in BF16, "
    "128 GB at 3.2 TB/s; 392 GB/s one way on the UB plane, 400 Gb/s on the RDMA plane";

constexpr char kAscendUnits[] = "assumed: 24 cube cores on each of two dies, as an Ascend 910B";
constexpr char kAscendFp32[] = "assumed: an eighth of BF16, for lack of a data sheet";
constexpr char kUbShare[] = "assumed: 85% of the UB plane's line rate";
constexpr char kUbLatency[] = "assumed: 2 us for a small message over the UB plane";
constexpr char kAscendLaunch[] = "assumed: 5 us, for lack of a figure";
constexpr char kAscendWatts[] = "assumed: two Ascend 910B of 310 W";

constexpr SourceRow kAscendSources[] = {
    {"bf16_tflops memory_bytes memory_gigabytes_per_second scale_up_gigabytes_per_second "
     "nic_gigabits_per_second",
     kCloudMatrixPaper},
    {"scale_up_devices", "assumed: the 8 of a node alone, without a supernode's switches"},
    {"scale_up_effective_gigabytes_per_second", kUbShare},
    {"scale_up_latency_us", kUbLatency},
    {"compute_units", kAscendUnits},
    {"fp32_tflops", kAscendFp32},
    {"watts", kAscendWatts},
    {"launch_us", kAscendLaunch},
};

constexpr SourceRow kCloudMatrixSources[] = {
    {"bf16_tflops memory_bytes memory_gigabytes_per_second scale_up_gigabytes_per_second "
     "nic_gigabits_per_second scale_up_devices",
     kCloudMatrixPaper},
    {"scale_up_effective_gigabytes_per_second", kUbShare},
    {"scale_up_latency_us", kUbLatency},
    {"compute_units", kAscendUnits},
    {"fp32_tflops", kAscendFp32},
    {"watts", kAscendWatts},
    {"launch_us", kAscendLaunch},
};

constexpr char kCore[] =
    "assumed: one core of a present computer; measure it and give op_times for "
    "better ones";

constexpr RateRow kCpuRates[] = {
    {"gemm", "fp32", 0, 256, 256, 256, 0.03, kCore},
    {"gemm", "bf16", 0, 256, 256, 256, 0.03, kCore},
    {"grouped_gemm", "fp32", 4, 256, 256, 256, 0.03, kCore},
    {"grouped_gemm", "bf16", 4, 256, 256, 256, 0.03, kCore},
    {"attention_forward", "", 0, 256, 64, 64, 0.02, kCore},
    {"attention_backward", "", 0, 256, 64, 64, 0.02, kCore},
    {"memory", "", 0, 0, 0, 0, 5, kCore},
    {"dispatch", "", 1, 256, 256, 0, 2, kCore},
    {"dispatch", "", 2, 256, 256, 0, 0.8, kCore},
    {"combine", "", 1, 256, 256, 0, 2, kCore},
    {"combine", "", 2, 256, 256, 0, 0.8, kCore},
};

constexpr SourceRow kCpuSources[] = {
    {"bf16_tflops fp32_tflops memory_bytes memory_gigabytes_per_second compute_units "
     "scale_up_devices scale_up_gigabytes_per_second scale_up_effective_gigabytes_per_second "
     "scale_up_latency_us nic_gigabits_per_second watts launch_us",
     kCore},
};

constexpr ProfileRow kAscend = {
    .kind = "ascend-910c",
    .title = "Huawei Ascend 910C",
    .bf16_tflops = 752,
    .fp8_tflops = 0,
    .fp32_tflops = 94,
    .memory_gb = 128,
    .memory_gigabytes_per_second = 3200,
    .compute_units = 48,
    .communication_units = 0,  // exchanges run on the vector cores
    .scale_up_devices = 8,
    .scale_up_gigabytes_per_second = 392,
    .scale_up_effective_gigabytes_per_second = 333,
    .scale_up_latency_us = 2,
    .nic_gigabits_per_second = 400,
    .watts = 620,
    .launch_us = 5,
    .dollars_per_device_hour = 0,
    .rates = kAscendRates,
    .sources = kAscendSources,
    .like = nullptr,
};

constexpr ProfileRow kOthers[] = {
    {.kind = "mi300x",
     .title = "AMD Instinct MI300X",
     .bf16_tflops = 1307.4,
     .fp8_tflops = 2614.9,
     .fp32_tflops = 163.4,
     .memory_gb = 192,
     .memory_gigabytes_per_second = 5300,
     .compute_units = 304,
     .communication_units = 46,
     .scale_up_devices = 8,
     .scale_up_gigabytes_per_second = 448,
     .scale_up_effective_gigabytes_per_second = 358,
     .scale_up_latency_us = 3.33,
     .nic_gigabits_per_second = 400,
     .watts = 750,
     .launch_us = 2,
     .dollars_per_device_hour = 0,
     .rates = kMi300xRates,
     .sources = kMi300xSources,
     .like = "h800"},
    kAscend,
    {.kind = "cloudmatrix-384",
     .title = "Huawei CloudMatrix 384",
     .bf16_tflops = 752,
     .fp8_tflops = 0,
     .fp32_tflops = 94,
     .memory_gb = 128,
     .memory_gigabytes_per_second = 3200,
     .compute_units = 48,
     .communication_units = 0,
     .scale_up_devices = 384,
     .scale_up_gigabytes_per_second = 392,
     .scale_up_effective_gigabytes_per_second = 333,
     .scale_up_latency_us = 2,
     .nic_gigabits_per_second = 400,
     .watts = 620,
     .launch_us = 5,
     .dollars_per_device_hour = 0,
     .rates = kCloudMatrixRates,
     .sources = kCloudMatrixSources,
     .like = "ascend-910c"},
    {.kind = "cpu",
     .title = "CPU core",
     .bf16_tflops = 0.05,
     .fp8_tflops = 0,
     .fp32_tflops = 0.05,
     .memory_gb = 4,
     .memory_gigabytes_per_second = 10,
     .compute_units = 1,
     .communication_units = 0,
     .scale_up_devices = 1,
     .scale_up_gigabytes_per_second = 5,
     .scale_up_effective_gigabytes_per_second = 2,
     .scale_up_latency_us = 10,
     .nic_gigabits_per_second = 10,
     .watts = 10,
     .launch_us = 0.5,
     .dollars_per_device_hour = 0,
     .rates = kCpuRates,
     .sources = kCpuSources,
     .like = nullptr},
};

}  // namespace

absl::Span<const ProfileRow> OtherProfiles() { return kOthers; }

}  // namespace fathom::cluster
