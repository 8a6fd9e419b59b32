// Which number format each part of training uses, by the recipe's name (DeepSeek-V3 report,
// section 3.3).
#ifndef FATHOM_COMMON_MODEL_PRECISION_RECIPE_H_
#define FATHOM_COMMON_MODEL_PRECISION_RECIPE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace fathom::model {

enum class Format : uint8_t { kFp64, kFp32, kBf16, kE4M3 };

struct PrecisionRecipe {
  std::string name;
  Format activations = Format::kFp32;  // between ops, and of the compute copy of the weights
  Format products = Format::kFp32;     // inputs of forward, input- and weight-gradient products
  Format dispatch =
      Format::kFp32;               // tokens on their way to experts; kE4M3 with power-of-two scales
  Format combine = Format::kFp32;  // and back, forward and backward
  Format optimizer_moments =
      Format::kFp32;  // AdamW's m and v; master weights and gradients are FP32
};

// Of one element, without scales.
int64_t BytesOf(Format format);

std::vector<std::string> RecipeNames();  // "fp32", "bf16", "fp8"

// INVALID_ARGUMENT names the known ones.
absl::StatusOr<PrecisionRecipe> FindRecipe(const std::string& name);

}  // namespace fathom::model

#endif  // FATHOM_COMMON_MODEL_PRECISION_RECIPE_H_
