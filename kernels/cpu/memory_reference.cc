#include <cstdlib>
#include <cstring>
#include <memory>

#include "kernels/check.h"
#include "kernels/cpu/reference_ops.h"

namespace fathom::kernels {
namespace {

constexpr size_t kAlignment = 64;  // a cache line, and the widest vector register

}  // namespace

std::unique_ptr<Ops> CreateReferenceOps() { return std::make_unique<ReferenceOps>(); }

void* ReferenceOps::Allocate(size_t bytes) {
  if (bytes == 0) {
    return nullptr;
  }
  const size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  Check(rounded >= bytes, "Allocate", "size overflows");
  void* data = std::aligned_alloc(kAlignment, rounded);
  Check(data != nullptr, "Allocate", "out of memory");
  std::memset(data, 0, rounded);
  return data;
}

void ReferenceOps::Free(void* data) { std::free(data); }

void ReferenceOps::CopyFromHost(void* device, const void* host, size_t bytes) {
  if (bytes > 0) {
    std::memcpy(device, host, bytes);
  }
}

void ReferenceOps::CopyToHost(void* host, const void* device, size_t bytes) {
  if (bytes > 0) {
    std::memcpy(host, device, bytes);
  }
}

}  // namespace fathom::kernels
