// A stand-in for libnvidia-ml.so.1 in tests: two GPUs with one NVLink, ECC errors and remapped
// rows. FAKE_NVML=lost: the second has fallen off the bus. FAKE_NVML=broken: nothing works.
#include <cstdlib>
#include <cstring>

namespace {

constexpr int kNotSupported = 3;
constexpr int kUninitialized = 1;
constexpr int kGpuIsLost = 15;

bool Mode(const char* mode) {
  const char* set = std::getenv("FAKE_NVML");
  return set != nullptr && std::strcmp(set, mode) == 0;
}

int gpus[2] = {0, 1};

int IndexOf(void* device) { return *static_cast<int*>(device); }

int Result(void* device) { return Mode("lost") && IndexOf(device) == 1 ? kGpuIsLost : 0; }

}  // namespace

extern "C" {

int nvmlInit_v2() { return Mode("broken") ? kUninitialized : 0; }
int nvmlShutdown() { return 0; }

int nvmlDeviceGetCount_v2(unsigned* count) {
  *count = 2;
  return 0;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void** device) {
  *device = &gpus[index];
  return 0;
}

int nvmlDeviceGetTotalEccErrors(void* device, int type, int, unsigned long long* count) {
  *count = type == 0 ? 5 : 2;
  return Result(device);
}

int nvmlDeviceGetRemappedRows(void* device, unsigned* corrected, unsigned* uncorrected,
                              unsigned* is_pending, unsigned* failure_occurred) {
  *corrected = 1;
  *uncorrected = 2;
  *is_pending = 1;
  *failure_occurred = 0;
  return Result(device);
}

// No nvmlDeviceGetPcieReplayCounter, as in a library too old for it.

int nvmlDeviceGetNvLinkState(void* device, unsigned link, unsigned* is_active) {
  if (link > 1) return kNotSupported;
  *is_active = link == 0 ? 1 : 0;
  return Result(device);
}

int nvmlDeviceGetNvLinkErrorCounter(void* device, unsigned, int counter,
                                    unsigned long long* count) {
  *count = static_cast<unsigned long long>(100 + counter);
  return Result(device);
}

}  // extern "C"
