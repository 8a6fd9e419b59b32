#include <cstdint>

#include "kernels/check.h"
#include "kernels/cpu/reference_ops.h"

namespace fathom::kernels {

void ReferenceOps::EmbeddingForward(const int32_t* tokens, const Matrix& table, const Matrix& out) {
  GatherRows(table, tokens, out);
}

void ReferenceOps::EmbeddingBackward(const int32_t* tokens, const Matrix& dout,
                                     const Matrix& dtable) {
  Check(dtable.dtype != DType::kBF16, "EmbeddingBackward", "dtable is neither F32 nor F64");
  ScatterAddRows(dout, tokens, dtable);
}

}  // namespace fathom::kernels
