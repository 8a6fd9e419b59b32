// For tests: a backend that writes down every call with its shape, and passes it on.
//
// Bytes are those of the operands: each once, twice where it is read and written, rows picked by
// index only as far as they are picked. Host copies and allocation are passed on unrecorded.
#ifndef FATHOM_WORKER_MODEL_RECORDING_OPS_H_
#define FATHOM_WORKER_MODEL_RECORDING_OPS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/model/precision_recipe.h"
#include "kernels/ops.h"

namespace fathom::model {

struct RecordedOp {
  std::string op;
  Format format = Format::kFp32;  // of its first input
  int64_t m = 0;
  int64_t n = 0;
  int64_t k = 1;
  int64_t bytes = 0;
};

// Both outlive it; recorded may be null. on_call runs before each recorded call, when all that the
// call works on is there.
std::unique_ptr<kernels::Ops> CreateRecordingOps(kernels::Ops* ops,
                                                 std::vector<RecordedOp>* recorded,
                                                 std::function<void()> on_call = nullptr);

}  // namespace fathom::model

#endif  // FATHOM_WORKER_MODEL_RECORDING_OPS_H_
