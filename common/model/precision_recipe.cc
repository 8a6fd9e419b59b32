#include "common/model/precision_recipe.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace fathom::model {
namespace {

const PrecisionRecipe kRecipes[] = {
    {"fp32", Format::kFp32, Format::kFp32, Format::kFp32, Format::kFp32, Format::kFp32},
    {"bf16", Format::kBf16, Format::kBf16, Format::kBf16, Format::kBf16, Format::kBf16},
    {"fp8", Format::kBf16, Format::kE4M3, Format::kE4M3, Format::kBf16, Format::kBf16},
};

}  // namespace

std::vector<std::string> RecipeNames() {
  std::vector<std::string> names;
  for (const PrecisionRecipe& recipe : kRecipes) names.push_back(recipe.name);
  return names;
}

absl::StatusOr<PrecisionRecipe> FindRecipe(const std::string& name) {
  for (const PrecisionRecipe& recipe : kRecipes) {
    if (recipe.name == name) return recipe;
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "precision: \"", name, "\" is unknown; choose one of ", absl::StrJoin(RecipeNames(), ", ")));
}

int64_t BytesOf(Format format) {
  switch (format) {
    case Format::kFp64:
      return 8;
    case Format::kFp32:
      return 4;
    case Format::kBf16:
      return 2;
    case Format::kE4M3:
      return 1;
  }
  return 0;
}

}  // namespace fathom::model
