#include <memory>

#include "kernels/check.h"
#include "kernels/cpu/cpu_ops.h"

namespace fathom::kernels {

std::unique_ptr<Ops> CreateCpuOps() {
  __builtin_cpu_init();
  Check(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"), "CreateCpuOps",
        "this CPU has no AVX2 and FMA; use the reference backend");
  return std::make_unique<CpuOps>();
}

}  // namespace fathom::kernels
