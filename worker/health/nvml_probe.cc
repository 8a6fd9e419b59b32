#include "worker/health/nvml_probe.h"

#include <dlfcn.h>

#include <memory>

#include "absl/strings/str_cat.h"

namespace fathom::health {
namespace {

// As nvml.h of CUDA 12 declares them; the ABI has been the same since CUDA 11.
using NvmlReturn = int;  // 0: success
using NvmlDevice = void*;
constexpr NvmlReturn kGpuIsLost = 15;  // NVML_ERROR_GPU_IS_LOST
constexpr int kVolatile = 0;           // since the driver was loaded
constexpr int kMaxNvLinks = 18;        // NVML_NVLINK_MAX_LINKS
constexpr unsigned kMaxGpus = 64;

struct Closer {
  void operator()(void* library) const { ::dlclose(library); }
};

class Nvml {
 public:
  explicit Nvml(const std::string& library)
      : library_(::dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL)) {
    if (library_ == nullptr) return;
    Find("nvmlInit_v2", &init);
    Find("nvmlShutdown", &shutdown);
    Find("nvmlDeviceGetCount_v2", &count);
    Find("nvmlDeviceGetHandleByIndex_v2", &handle);
    Find("nvmlDeviceGetTotalEccErrors", &ecc_errors);
    Find("nvmlDeviceGetRemappedRows", &remapped_rows);
    Find("nvmlDeviceGetPcieReplayCounter", &pcie_replay);
    Find("nvmlDeviceGetNvLinkState", &nvlink_state);
    Find("nvmlDeviceGetNvLinkErrorCounter", &nvlink_errors);
    const bool complete =
        init != nullptr && shutdown != nullptr && count != nullptr && handle != nullptr;
    ready_ = complete && init() == 0;
  }
  Nvml(const Nvml&) = delete;
  Nvml& operator=(const Nvml&) = delete;
  ~Nvml() {
    if (ready_) shutdown();
  }

  bool ready() const { return ready_; }

  // Null where this version of the library has no such function.
  NvmlReturn (*init)() = nullptr;
  NvmlReturn (*shutdown)() = nullptr;
  NvmlReturn (*count)(unsigned*) = nullptr;
  NvmlReturn (*handle)(unsigned index, NvmlDevice*) = nullptr;
  // Type 0: corrected, 1: uncorrected.
  NvmlReturn (*ecc_errors)(NvmlDevice, int type, int counter, unsigned long long*) = nullptr;
  NvmlReturn (*remapped_rows)(NvmlDevice, unsigned* corrected, unsigned* uncorrected,
                              unsigned* is_pending, unsigned* failure_occurred) = nullptr;
  NvmlReturn (*pcie_replay)(NvmlDevice, unsigned*) = nullptr;
  NvmlReturn (*nvlink_state)(NvmlDevice, unsigned link, unsigned* is_active) = nullptr;
  // Counter 0: replay, 1: recovery, 2: CRC of flits, 3: CRC of data.
  NvmlReturn (*nvlink_errors)(NvmlDevice, unsigned link, int counter,
                              unsigned long long*) = nullptr;

 private:
  template <typename Function>
  void Find(const char* name, Function* function) {
    *function = reinterpret_cast<Function>(::dlsym(library_.get(), name));
  }

  const std::unique_ptr<void, Closer> library_;
  bool ready_ = false;
};

class GpuProbe {
 public:
  GpuProbe(const Nvml& nvml, std::vector<v1::HealthSignal>* signals)
      : nvml_(nvml), signals_(signals) {}

  void Probe(unsigned index) {
    gpu_ = absl::StrCat("gpu", index);
    lost_ = false;
    NvmlDevice device = nullptr;
    if (!Succeeds(nvml_.handle(index, &device))) {
      return Add("pcie", gpu_, "reachable", 0);
    }
    ProbeMemory(device);
    unsigned replays;
    if (nvml_.pcie_replay != nullptr && Succeeds(nvml_.pcie_replay(device, &replays))) {
      Add("pcie", gpu_, "replay", replays);
    }
    ProbeNvLinks(device);
    Add("pcie", gpu_, "reachable", lost_ ? 0 : 1);
  }

 private:
  void ProbeMemory(NvmlDevice device) {
    unsigned long long errors;
    for (const int type : {0, 1}) {
      if (nvml_.ecc_errors != nullptr &&
          Succeeds(nvml_.ecc_errors(device, type, kVolatile, &errors))) {
        Add("ecc", gpu_, type == 0 ? "corrected" : "uncorrected", static_cast<double>(errors));
      }
    }
    unsigned corrected, uncorrected, pending, failed;
    if (nvml_.remapped_rows != nullptr &&
        Succeeds(nvml_.remapped_rows(device, &corrected, &uncorrected, &pending, &failed))) {
      Add("ecc", gpu_, "rows_remapped", corrected + uncorrected);
      Add("ecc", gpu_, "remap_pending", pending);
      Add("ecc", gpu_, "remap_failed", failed);
    }
  }

  void ProbeNvLinks(NvmlDevice device) {
    constexpr const char* kCounters[] = {"replay", "recovery", "crc_flit", "crc_data"};
    for (unsigned link = 0; link < kMaxNvLinks && nvml_.nvlink_state != nullptr; ++link) {
      unsigned active;
      if (!Succeeds(nvml_.nvlink_state(device, link, &active))) continue;
      const std::string subject = absl::StrCat(gpu_, "/link", link);
      Add("nvlink", subject, "active", active);
      for (int counter = 0; active != 0 && counter < 4 && nvml_.nvlink_errors != nullptr;
           ++counter) {
        unsigned long long errors;
        if (Succeeds(nvml_.nvlink_errors(device, link, counter, &errors))) {
          Add("nvlink", subject, kCounters[counter], static_cast<double>(errors));
        }
      }
    }
  }

  bool Succeeds(NvmlReturn result) {
    lost_ |= result == kGpuIsLost;
    return result == 0;
  }

  void Add(const char* source, const std::string& subject, const char* name, double value) {
    v1::HealthSignal& signal = signals_->emplace_back();
    signal.set_source(source);
    signal.set_subject(subject);
    signal.set_name(name);
    signal.set_value(value);
  }

  const Nvml& nvml_;
  std::vector<v1::HealthSignal>* const signals_;
  std::string gpu_;
  bool lost_ = false;
};

}  // namespace

std::vector<v1::HealthSignal> ProbeNvml(const std::string& library) {
  std::vector<v1::HealthSignal> signals;
  const Nvml nvml(library);
  unsigned count = 0;
  if (!nvml.ready() || nvml.count(&count) != 0) return signals;
  GpuProbe probe(nvml, &signals);
  for (unsigned index = 0; index < count && index < kMaxGpus; ++index) probe.Probe(index);
  return signals;
}

}  // namespace fathom::health
