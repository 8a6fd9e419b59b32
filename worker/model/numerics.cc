#include "worker/model/numerics.h"

#include <bit>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace fathom::model {
namespace {

using kernels::DType;

absl::StatusOr<DType> DenseType(Format format, const PrecisionRecipe& recipe, const char* what) {
  switch (format) {
    case Format::kFp64:
      return DType::kF64;
    case Format::kFp32:
      return DType::kF32;
    case Format::kBf16:
      return DType::kBF16;
    case Format::kE4M3:
      break;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("precision recipe \"", recipe.name, "\": ", what, " can't be E4M3"));
}

}  // namespace

absl::StatusOr<Numerics> NumericsOf(const PrecisionRecipe& recipe, int64_t tokens_per_step) {
  Numerics numerics;
  const auto activation = DenseType(recipe.activations, recipe, "activations");
  if (!activation.ok()) return activation.status();
  const auto combine = DenseType(recipe.combine, recipe, "combine");
  if (!combine.ok()) return combine.status();
  numerics.activation = *activation;
  numerics.combine = *combine;
  numerics.sum = *activation == DType::kF64 ? DType::kF64 : DType::kF32;
  numerics.fp8 = recipe.products == Format::kE4M3;
  numerics.fp8_dispatch = recipe.dispatch == Format::kE4M3;
  if (numerics.fp8_dispatch) {
    numerics.dispatch = numerics.activation;
  } else {
    const auto dispatch = DenseType(recipe.dispatch, recipe, "dispatch");
    if (!dispatch.ok()) return dispatch.status();
    numerics.dispatch = *dispatch;
  }
  if (!numerics.fp8 && recipe.products != recipe.activations) {
    return absl::InvalidArgumentError(
        absl::StrCat("precision recipe \"", recipe.name,
                     "\": products other than E4M3 take the format of the activations"));
  }
  if (numerics.fp8 != numerics.fp8_dispatch) {
    return absl::InvalidArgumentError(
        absl::StrCat("precision recipe \"", recipe.name,
                     "\": products and dispatch must both be E4M3 or neither, for experts "
                     "multiply the codes as they arrive"));
  }
  if (!numerics.fp8 && numerics.dispatch != numerics.activation) {
    return absl::InvalidArgumentError(
        absl::StrCat("precision recipe \"", recipe.name,
                     "\": dispatch other than E4M3 takes the format of the activations"));
  }
  if (numerics.fp8 && numerics.activation == DType::kF64) {
    return absl::InvalidArgumentError(absl::StrCat(
        "precision recipe \"", recipe.name, "\": E4M3 products don't go with FP64 activations"));
  }
  if (numerics.fp8 && tokens_per_step > 0) {
    numerics.gradient_scale =
        static_cast<double>(std::bit_floor(static_cast<uint64_t>(tokens_per_step)));
  }
  return numerics;
}

}  // namespace fathom::model
