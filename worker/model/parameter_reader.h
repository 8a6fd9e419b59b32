// Finds the tensors of a layer in a ParameterStore, checks what they are, and remembers the first
// thing that was wrong, so that layers can be built in one go and the error looked at once.
#ifndef FATHOM_WORKER_MODEL_PARAMETER_READER_H_
#define FATHOM_WORKER_MODEL_PARAMETER_READER_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "kernels/ops.h"
#include "worker/model/linear.h"
#include "worker/model/numerics.h"
#include "worker/model/parameter_store.h"
#include "worker/model/rms_norm.h"

namespace fathom::model {

class ParameterReader {
 public:
  ParameterReader(const LayerContext& context, ParameterStore* store)
      : context_(context), store_(store) {}

  // What is returned after an error must not be used.
  const Parameter& Read(const std::string& name, int64_t rows, int64_t cols);
  Parameter* ReadRouterBias(const std::string& name, int64_t experts);
  Linear ReadLinear(const std::string& name, int64_t outputs, int64_t inputs,
                    Products products = Products::kRecipe);
  // prefix.gate_proj and prefix.up_proj as one matrix [2F, D].
  Linear ReadGateUp(const std::string& prefix, int64_t width, int64_t hidden);
  RmsNorm ReadNorm(const std::string& name, int64_t width, double epsilon);

  // INVALID_ARGUMENT: a tensor that the store lacks, or holds in another shape or format.
  const absl::Status& status() const { return status_; }

 private:
  Parameter* Find(const std::string& name, int64_t rows, int64_t cols, kernels::DType dtype);
  void Fail(const std::string& message);

  LayerContext context_;
  ParameterStore* store_;
  Parameter missing_;
  absl::Status status_;
};

}  // namespace fathom::model

#endif  // FATHOM_WORKER_MODEL_PARAMETER_READER_H_
