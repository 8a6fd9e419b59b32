// NVIDIA's devices. H800 carries what is published of training DeepSeek-V3 on it; the others take
// its shares of their own peaks where nothing of theirs is published.
#include "common/cluster/profile_table.h"

namespace fathom::cluster {
namespace {

constexpr char kDeepGemm[] =
    "DeepGEMM repository, first release, H800: FP8 with 1x128 and 128x128 scales";
constexpr char kDeepGemmGrouped[] =
    "DeepGEMM repository, first release, H800: grouped, contiguous layout, rows per group";
constexpr char kDeepEpNvlink[] =
    "DeepEP repository, V1: H800, 4096 tokens, hidden 7168, top 8; logical GB/s over NVLink";
constexpr char kDeepEpRdma[] =
    "DeepEP repository, V1: H800 with 400 Gb/s NICs, 4096 tokens, hidden 7168, top 8 in 4 groups; "
    "logical GB/s over the NIC, own node's share counted";
constexpr char kFlashForward[] =
    "FlashAttention-3 paper (arXiv 2407.08608), chart of the forward at head dim 128 on H100 SXM5 "
    "as "
    "transcribed on subtext.edge.nugit.net; of its two the slower one taken for the causal one; "
    "MLA's 192 wide keys assumed to do as well";
constexpr char kFlashBackward[] =
    "assumed: FlashAttention-3 paper's backward without a mask at head dim 128 on H100 SXM5 (chart "
    "as transcribed on subtext.edge.nugit.net), times its causal forward over the other one";
constexpr char kFlashMla[] =
    "FlashMLA repository: 3000 GB/s in its memory-bound configuration, H800 SXM5";
constexpr char kBf16Product[] =
    "assumed: the share of peak that DeepGEMM's best first-release product reaches, 1358 of 1979";
constexpr char kFp32Product[] = "assumed: 80% of peak, for lack of a figure";

constexpr RateRow kH800Rates[] = {
    {"gemm", "e4m3", 0, 4096, 2112, 7168, 1058, kDeepGemm},
    {"gemm", "e4m3", 0, 4096, 24576, 1536, 990, kDeepGemm},
    {"gemm", "e4m3", 0, 4096, 32768, 512, 590, kDeepGemm},
    {"gemm", "e4m3", 0, 4096, 7168, 16384, 1358, kDeepGemm},
    {"gemm", "e4m3", 0, 4096, 4096, 7168, 1304, kDeepGemm},
    {"gemm", "e4m3", 0, 4096, 7168, 2048, 1025, kDeepGemm},
    {"grouped_gemm", "e4m3", 4, 8192, 4096, 7168, 1297, kDeepGemmGrouped},
    {"grouped_gemm", "e4m3", 4, 8192, 7168, 2048, 1099, kDeepGemmGrouped},
    {"grouped_gemm", "e4m3", 8, 4096, 4096, 7168, 1288, kDeepGemmGrouped},
    {"grouped_gemm", "e4m3", 8, 4096, 7168, 2048, 1093, kDeepGemmGrouped},
    {"gemm", "bf16", 0, 4096, 4096, 7168, 679, kBf16Product},
    {"grouped_gemm", "bf16", 8, 4096, 4096, 7168, 679, kBf16Product},
    {"gemm", "fp32", 0, 4096, 4096, 7168, 53.5, kFp32Product},
    {"attention_forward", "bf16", 0, 2048, 128, 128, 521, kFlashForward},
    {"attention_forward", "bf16", 0, 4096, 128, 128, 579, kFlashForward},
    {"attention_forward", "bf16", 0, 8192, 128, 128, 602, kFlashForward},
    {"attention_forward", "bf16", 0, 16384, 128, 128, 616, kFlashForward},
    {"attention_backward", "bf16", 0, 2048, 128, 128, 418, kFlashBackward},   // 501 * 521 / 625
    {"attention_backward", "bf16", 0, 4096, 128, 128, 492, kFlashBackward},   // 542 * 579 / 638
    {"attention_backward", "bf16", 0, 8192, 128, 128, 521, kFlashBackward},   // 559 * 602 / 646
    {"attention_backward", "bf16", 0, 16384, 128, 128, 533, kFlashBackward},  // 561 * 616 / 648
    {"memory", "", 0, 0, 0, 0, 3000, kFlashMla},
    {"dispatch", "e4m3", 1, 4096, 7168, 0, 153, kDeepEpNvlink},
    {"dispatch", "e4m3", 2, 4096, 7168, 0, 43, kDeepEpRdma},
    {"dispatch", "e4m3", 4, 4096, 7168, 0, 58, kDeepEpRdma},
    {"dispatch", "e4m3", 8, 4096, 7168, 0, 51, kDeepEpRdma},
    {"combine", "bf16", 1, 4096, 7168, 0, 158, kDeepEpNvlink},
    {"combine", "bf16", 2, 4096, 7168, 0, 43, kDeepEpRdma},
    {"combine", "bf16", 4, 4096, 7168, 0, 57, kDeepEpRdma},
    {"combine", "bf16", 8, 4096, 7168, 0, 50, kDeepEpRdma},
};

constexpr char kNvlinkLatency[] =
    "arXiv 2505.09343: 3.33 us for 64 bytes between two GPUs over NVLink";
constexpr char kNvlinkLatencyAssumed[] = "assumed: as NVLink in arXiv 2505.09343, 3.33 us";
constexpr char kLaunch[] =
    "assumed: 2 us between two kernels queued on a stream, none of it hidden";
constexpr char kUnits20[] = "assumed: the 20 SMs of arXiv 2412.19437";
constexpr char kNvlinkShare[] = "assumed: 80% of the data sheet's, as H800 reaches (160 of 200)";
// What is left of five stacks of 16 GiB.
constexpr double kHopper80Gb = 85.520809984;
constexpr char kHopper80GbSource[] =
    "81559 MiB, as nvidia-smi shows of an H100 80GB HBM3 (github.com/NVIDIA/nccl, issue 1264)";
constexpr SourceRow kH800Sources[] = {
    {"memory_bytes", kHopper80GbSource},
    {"bf16_tflops fp8_tflops fp32_tflops memory_gigabytes_per_second compute_units "
     "watts",
     "NVIDIA H100 SXM data sheet, dense; H800 has the same but for NVLink and FP64 (arXiv "
     "2505.09343)"},
    {"scale_up_devices scale_up_gigabytes_per_second",
     "arXiv 2505.09343: NVLink of 400 GB/s, both ways together, among a node's 8"},
    {"scale_up_effective_gigabytes_per_second",
     "arXiv 2412.19437 and 2505.09343: about 160 GB/s are reached"},
    {"scale_up_latency_us", kNvlinkLatency},
    {"nic_gigabits_per_second", "arXiv 2505.09343: one 400 Gb/s InfiniBand NIC per GPU"},
    {"communication_units", "arXiv 2412.19437: 20 of 132 SMs"},
    {"launch_us", kLaunch},
    {"dollars_per_device_hour", "arXiv 2412.19437: a rental price of $2 is assumed there"},
};

constexpr ProfileRow kH800 = {
    .kind = "h800",
    .title = "NVIDIA H800 SXM",
    .bf16_tflops = 989.5,
    .fp8_tflops = 1979,
    .fp32_tflops = 66.9,
    .memory_gb = kHopper80Gb,
    .memory_gigabytes_per_second = 3350,
    .compute_units = 132,
    .communication_units = 20,
    .scale_up_devices = 8,
    .scale_up_gigabytes_per_second = 200,
    .scale_up_effective_gigabytes_per_second = 160,
    .scale_up_latency_us = 3.33,
    .nic_gigabits_per_second = 400,
    .watts = 700,
    .launch_us = 2,
    .dollars_per_device_hour = 2,
    .rates = kH800Rates,
    .sources = kH800Sources,
    .like = nullptr,
};

constexpr SourceRow kH100Sources[] = {
    {"memory_bytes", kHopper80GbSource},
    {"bf16_tflops fp8_tflops fp32_tflops memory_gigabytes_per_second compute_units "
     "scale_up_devices scale_up_gigabytes_per_second watts",
     "NVIDIA H100 SXM data sheet, dense; NVLink of 900 GB/s, both ways together"},
    {"scale_up_effective_gigabytes_per_second", kNvlinkShare},
    {"scale_up_latency_us", kNvlinkLatency},
    {"nic_gigabits_per_second", "NVIDIA DGX H100 data sheet: one 400 Gb/s NIC per GPU"},
    {"communication_units", kUnits20},
    {"launch_us", kLaunch},
};

constexpr SourceRow kH200Sources[] = {
    {"bf16_tflops fp8_tflops fp32_tflops memory_bytes memory_gigabytes_per_second compute_units "
     "scale_up_devices scale_up_gigabytes_per_second watts",
     "NVIDIA H200 SXM data sheet, dense; NVLink of 900 GB/s, both ways together"},
    {"scale_up_effective_gigabytes_per_second", kNvlinkShare},
    {"scale_up_latency_us", kNvlinkLatencyAssumed},
    {"nic_gigabits_per_second", "NVIDIA DGX H200 data sheet: one 400 Gb/s NIC per GPU"},
    {"communication_units", kUnits20},
    {"launch_us", kLaunch},
};

constexpr SourceRow kH20Sources[] = {
    {"bf16_tflops fp8_tflops fp32_tflops memory_bytes memory_gigabytes_per_second compute_units "
     "scale_up_devices scale_up_gigabytes_per_second watts",
     "NVIDIA H20 SXM data sheet, dense, as the trade press reports it: 148 TFLOPS BF16, 96 GB, "
     "4.0 TB/s, 78 SMs, NVLink of 900 GB/s, both ways together, 400 W"},
    {"scale_up_effective_gigabytes_per_second", kNvlinkShare},
    {"scale_up_latency_us", kNvlinkLatencyAssumed},
    {"nic_gigabits_per_second", "assumed: one 400 Gb/s NIC per GPU, as in H800's machines"},
    {"communication_units", kUnits20},
    {"launch_us", kLaunch},
};

constexpr char kFlash2[] =
    "assumed: 73% of peak forward and 63% backward, the best that FlashAttention-2's paper (arXiv "
    "2307.08691) is remembered to claim; not looked up";

constexpr RateRow kA100Rates[] = {
    {"attention_forward", "bf16", 0, 4096, 128, 128, 227, kFlash2},
    {"attention_backward", "bf16", 0, 4096, 128, 128, 196, kFlash2},
};

constexpr SourceRow kA100Sources[] = {
    {"bf16_tflops fp32_tflops memory_bytes memory_gigabytes_per_second compute_units "
     "scale_up_devices scale_up_gigabytes_per_second watts",
     "NVIDIA A100 80GB SXM data sheet, dense; NVLink of 600 GB/s, both ways together"},
    {"scale_up_effective_gigabytes_per_second", kNvlinkShare},
    {"scale_up_latency_us", kNvlinkLatencyAssumed},
    {"nic_gigabits_per_second", "NVIDIA DGX A100 data sheet: one 200 Gb/s NIC per GPU"},
    {"communication_units", kUnits20},
    {"launch_us", kLaunch},
};

constexpr char kDeepEpBlackwell[] =
    "DeepEP repository, V2: SM100, 8 GPUs over NVLink, 8192 tokens, hidden 7168, top 8, 24 SMs; "
    "more nodes of one NVLink domain assumed to do as well";
constexpr char kFlashMlaBlackwell[] =
    "FlashMLA repository: dense prefill on B200 as NVIDIA reports it, up to 1460 TFLOPS forward "
    "and 1000 backward; the length of ours assumed to do as well";

constexpr RateRow kGb200Rates[] = {
    {"attention_forward", "bf16", 0, 4096, 128, 192, 1460, kFlashMlaBlackwell},
    {"attention_backward", "bf16", 0, 4096, 128, 192, 1000, kFlashMlaBlackwell},
    {"dispatch", "e4m3", 1, 8192, 7168, 0, 643, kDeepEpBlackwell},
    {"combine", "bf16", 1, 8192, 7168, 0, 675, kDeepEpBlackwell},
};

constexpr SourceRow kGb200Sources[] = {
    {"bf16_tflops fp8_tflops fp32_tflops memory_bytes memory_gigabytes_per_second "
     "scale_up_devices scale_up_gigabytes_per_second",
     "NVIDIA GB200 NVL72 data sheet, of one GPU of its 72, dense; NVLink of 1.8 TB/s, both ways "
     "together"},
    {"compute_units", "assumed: 148 SMs, as a B200"},
    {"watts", "NVIDIA Blackwell data sheet: up to 1200 W for a GPU of GB200"},
    {"scale_up_effective_gigabytes_per_second",
     "DeepEP repository, V2: 726 GB/s over NVLink on SM100 with all SMs it can use"},
    {"scale_up_latency_us", kNvlinkLatencyAssumed},
    {"nic_gigabits_per_second", "assumed: one 400 Gb/s ConnectX-7 per GPU"},
    {"communication_units", "DeepEP repository, V2: the 24 SMs of the exchange rates"},
    {"launch_us", kLaunch},
};

constexpr ProfileRow kNvidia[] = {
    kH800,
    {.kind = "h100",
     .title = "NVIDIA H100 SXM",
     .bf16_tflops = 989.5,
     .fp8_tflops = 1979,
     .fp32_tflops = 66.9,
     .memory_gb = kHopper80Gb,
     .memory_gigabytes_per_second = 3350,
     .compute_units = 132,
     .communication_units = 20,
     .scale_up_devices = 8,
     .scale_up_gigabytes_per_second = 450,
     .scale_up_effective_gigabytes_per_second = 360,
     .scale_up_latency_us = 3.33,
     .nic_gigabits_per_second = 400,
     .watts = 700,
     .launch_us = 2,
     .dollars_per_device_hour = 0,
     .rates = {},
     .sources = kH100Sources,
     .like = "h800"},
    {.kind = "h20",
     .title = "NVIDIA H20 SXM",
     .bf16_tflops = 148,
     .fp8_tflops = 296,
     .fp32_tflops = 44,
     .memory_gb = 96,
     .memory_gigabytes_per_second = 4000,
     .compute_units = 78,
     .communication_units = 20,
     .scale_up_devices = 8,
     .scale_up_gigabytes_per_second = 450,
     .scale_up_effective_gigabytes_per_second = 360,
     .scale_up_latency_us = 3.33,
     .nic_gigabits_per_second = 400,
     .watts = 400,
     .launch_us = 2,
     .dollars_per_device_hour = 0,
     .rates = {},
     .sources = kH20Sources,
     .like = "h800"},
    {.kind = "h200",
     .title = "NVIDIA H200 SXM",
     .bf16_tflops = 989.5,
     .fp8_tflops = 1979,
     .fp32_tflops = 66.9,
     .memory_gb = 141,
     .memory_gigabytes_per_second = 4800,
     .compute_units = 132,
     .communication_units = 20,
     .scale_up_devices = 8,
     .scale_up_gigabytes_per_second = 450,
     .scale_up_effective_gigabytes_per_second = 360,
     .scale_up_latency_us = 3.33,
     .nic_gigabits_per_second = 400,
     .watts = 700,
     .launch_us = 2,
     .dollars_per_device_hour = 0,
     .rates = {},
     .sources = kH200Sources,
     .like = "h800"},
    {.kind = "a100",
     .title = "NVIDIA A100 80GB SXM",
     .bf16_tflops = 312,
     .fp8_tflops = 0,
     .fp32_tflops = 19.5,
     .memory_gb = 80,
     .memory_gigabytes_per_second = 2039,
     .compute_units = 108,
     .communication_units = 20,
     .scale_up_devices = 8,
     .scale_up_gigabytes_per_second = 300,
     .scale_up_effective_gigabytes_per_second = 240,
     .scale_up_latency_us = 3.33,
     .nic_gigabits_per_second = 200,
     .watts = 400,
     .launch_us = 2,
     .dollars_per_device_hour = 0,
     .rates = kA100Rates,
     .sources = kA100Sources,
     .like = "h800"},
    {.kind = "gb200-nvl72",
     .title = "NVIDIA GB200 NVL72",
     .bf16_tflops = 2500,
     .fp8_tflops = 5000,
     .fp32_tflops = 80,
     .memory_gb = 186,
     .memory_gigabytes_per_second = 8000,
     .compute_units = 148,
     .communication_units = 24,
     .scale_up_devices = 72,
     .scale_up_gigabytes_per_second = 900,
     .scale_up_effective_gigabytes_per_second = 726,
     .scale_up_latency_us = 3.33,
     .nic_gigabits_per_second = 400,
     .watts = 1200,
     .launch_us = 2,
     .dollars_per_device_hour = 0,
     .rates = kGb200Rates,
     .sources = kGb200Sources,
     .like = "h800"},
};

}  // namespace

absl::Span<const ProfileRow> NvidiaProfiles() { return kNvidia; }

}  // namespace fathom::cluster
