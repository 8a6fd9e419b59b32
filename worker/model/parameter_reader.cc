#include "worker/model/parameter_reader.h"

#include "absl/strings/str_cat.h"

namespace fathom::model {

using kernels::Matrix;

void ParameterReader::Fail(const std::string& message) {
  if (status_.ok()) status_ = absl::InvalidArgumentError(message);
}

Parameter* ParameterReader::Find(const std::string& name, int64_t rows, int64_t cols,
                                 kernels::DType dtype) {
  missing_ = Parameter();
  missing_.weight = {nullptr, dtype, rows, cols, cols};
  missing_.gradient = {nullptr, context_.numerics.sum, rows, cols, cols};
  Parameter* found = store_->Find(name);
  if (found == nullptr) {
    Fail(absl::StrCat("building a stage: the parameter store lacks ", name));
    return &missing_;
  }
  if (found->weight.rows != rows || found->weight.cols != cols) {
    Fail(absl::StrCat("building a stage: ", name, " is ", found->weight.rows, "x",
                      found->weight.cols, " in the parameter store, and ", rows, "x", cols,
                      " in the model"));
    return &missing_;
  }
  if (found->weight.dtype != dtype) {
    Fail(absl::StrCat("building a stage: ", name,
                      " is not held in the format that the precision recipe computes in"));
    return &missing_;
  }
  return found;
}

const Parameter& ParameterReader::Read(const std::string& name, int64_t rows, int64_t cols) {
  Parameter* parameter = Find(name, rows, cols, context_.numerics.activation);
  if (status_.ok() && parameter->gradient.dtype != context_.numerics.sum) {
    Fail(absl::StrCat("building a stage: the gradient of ", name,
                      " is not held in the format that the precision recipe sums in"));
  }
  return *parameter;
}

Parameter* ParameterReader::ReadRouterBias(const std::string& name, int64_t experts) {
  return Find(name, 1, experts, context_.numerics.sum);
}

Linear ParameterReader::ReadLinear(const std::string& name, int64_t outputs, int64_t inputs,
                                   Products products) {
  const Parameter& parameter = Read(name, outputs, inputs);
  return Linear(context_, parameter.weight, parameter.gradient, products);
}

Linear ParameterReader::ReadGateUp(const std::string& prefix, int64_t width, int64_t hidden) {
  const Parameter gate = Read(absl::StrCat(prefix, ".gate_proj.weight"), width, hidden);
  const Parameter up = Read(absl::StrCat(prefix, ".up_proj.weight"), width, hidden);
  if (status_.ok() && up.offset != gate.offset + width * hidden) {
    Fail(absl::StrCat("building a stage: ", prefix,
                      ".up_proj.weight does not follow its gate_proj in the parameter store"));
  }
  Matrix weight = gate.weight;
  Matrix gradient = gate.gradient;
  weight.rows = 2 * width;
  gradient.rows = 2 * width;
  return Linear(context_, weight, gradient);
}

RmsNorm ParameterReader::ReadNorm(const std::string& name, int64_t width, double epsilon) {
  const Parameter& parameter = Read(name, 1, width);
  return RmsNorm(context_, parameter.weight, parameter.gradient, epsilon);
}

}  // namespace fathom::model
