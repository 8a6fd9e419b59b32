// The router with the reference's arithmetic, sum for sum in FP64 (the choice of experts must not
// depend on the backend), but without its allocations and with the scores made once.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "kernels/check.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/element.h"
#include "kernels/cpu/shape_checks.h"

namespace fathom::kernels {
namespace {

constexpr double kSumMin = 1e-20;  // as in the reference
constexpr double kNone = -std::numeric_limits<double>::infinity();
constexpr double kNanScore =
    std::numeric_limits<double>::lowest();  // after all others, yet allowed

void Scores(const Matrix& logits, double* score_TE) {
  for (int64_t t = 0; t < logits.rows; ++t) {
    for (int64_t e = 0; e < logits.cols; ++e) {
      score_TE[t * logits.cols + e] = 1.0 / (1.0 + std::exp(-Get(logits, t, e)));
    }
  }
}

// Indices of the k largest of n values, largest first, ties to the lowest index: an insertion into
// a sorted list, which few values pass.
void Largest(const double* values, int64_t n, int64_t k, int32_t* picked) {
  int64_t count = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (count == k && !(values[i] > values[picked[k - 1]])) {
      continue;
    }
    int64_t place = count < k ? count++ : k - 1;
    for (; place > 0 && values[i] > values[picked[place - 1]]; --place) {
      picked[place] = picked[place - 1];
    }
    picked[place] = static_cast<int32_t>(i);
  }
}

double TwoLargestSum(const double* values, int64_t n) {
  double first = kNone;
  double second = kNone;
  for (int64_t i = 0; i < n; ++i) {
    if (values[i] > first) {
      second = first;
      first = values[i];
    } else if (values[i] > second) {
      second = values[i];
    }
  }
  return n > 1 ? first + second : first;
}

// Sets the biased scores of the groups that are not kept to minus infinity.
void DropGroups(const RouterShape& shape, double* biased_E, double* group_score, int32_t* kept) {
  const int64_t size = shape.experts / shape.groups;
  for (int64_t g = 0; g < shape.groups; ++g) {
    group_score[g] = TwoLargestSum(biased_E + g * size, size);
  }
  Largest(group_score, shape.groups, shape.groups_kept, kept);
  for (int64_t g = 0; g < shape.groups; ++g) {
    if (std::find(kept, kept + shape.groups_kept, g) == kept + shape.groups_kept) {
      std::fill_n(biased_E + g * size, size, kNone);
    }
  }
}

}  // namespace

// f_i of one sequence whose scores start at score_SE.
void CpuOps::BalanceFactors(const RouterShape& shape, const double* score_SE, double* factor_E) {
  std::fill_n(factor_E, shape.experts, 0.0);
  picked_.resize(shape.top_k);
  const double each = static_cast<double>(shape.experts) / (shape.top_k * shape.sequence_length);
  for (int64_t t = 0; t < shape.sequence_length; ++t) {
    Largest(score_SE + t * shape.experts, shape.experts, shape.top_k, picked_.data());
    for (const int32_t e : picked_) {
      factor_E[e] += each;
    }
  }
}

double CpuOps::BalanceLoss(const RouterShape& shape, const double* score_TE, double* factor_E) {
  double loss = 0;
  for (int64_t t = 0; t < shape.tokens; ++t) {
    const double* score_E = score_TE + t * shape.experts;
    if (t % shape.sequence_length == 0) {
      BalanceFactors(shape, score_E, factor_E);
    }
    double sum = kSumMin;
    for (int64_t e = 0; e < shape.experts; ++e) {
      sum += score_E[e];
    }
    for (int64_t e = 0; e < shape.experts; ++e) {
      loss += shape.balance_alpha * factor_E[e] * score_E[e] / sum / shape.sequence_length;
    }
  }
  return loss;
}

double CpuOps::RouterForward(const RouterShape& shape, const Matrix& logits, const Matrix& bias,
                             int32_t* experts, const Matrix& weights, int64_t* loads) {
  CheckRouter(shape, logits, weights);
  CheckShape("Router", "bias", bias, 1, shape.experts);
  double* score_TE = WideScratch((shape.tokens + 1) * shape.experts + shape.groups);
  double* biased_E = score_TE + shape.tokens * shape.experts;
  double* group_score = biased_E + shape.experts;
  Scores(logits, score_TE);
  picked_.resize(shape.groups_kept);
  for (int64_t t = 0; t < shape.tokens; ++t) {
    const double* score_E = score_TE + t * shape.experts;
    for (int64_t e = 0; e < shape.experts; ++e) {
      const double biased = score_E[e] + Get(bias, 0, e);
      biased_E[e] = std::isnan(biased) ? kNanScore : biased;
    }
    if (shape.groups_kept < shape.groups) {
      DropGroups(shape, biased_E, group_score, picked_.data());
    }
    int32_t* chosen = experts + t * shape.top_k;
    Largest(biased_E, shape.experts, shape.top_k, chosen);
    double sum = kSumMin;
    for (int64_t i = 0; i < shape.top_k; ++i) {
      sum += score_E[chosen[i]];
      ++loads[chosen[i]];
    }
    for (int64_t i = 0; i < shape.top_k; ++i) {
      Set(weights, t, i, score_E[chosen[i]] / sum * shape.scaling_factor);
    }
  }
  return shape.balance_alpha == 0 ? 0 : BalanceLoss(shape, score_TE, biased_E);
}

void CpuOps::RouterBackward(const RouterShape& shape, const Matrix& logits, const int32_t* experts,
                            const Matrix& dweights, double balance_scale, const Matrix& dlogits) {
  CheckRouter(shape, logits, dweights);
  CheckSameShape("RouterBackward", logits, "dlogits", dlogits);
  const bool balanced = shape.balance_alpha != 0 && balance_scale != 0;
  const double scale = balanced ? balance_scale * shape.balance_alpha / shape.sequence_length : 0;
  double* score_TE = WideScratch((shape.tokens + 2) * shape.experts);
  double* dscore_E = score_TE + shape.tokens * shape.experts;
  double* factor_E = dscore_E + shape.experts;
  Scores(logits, score_TE);
  for (int64_t t = 0; t < shape.tokens; ++t) {
    const double* score_E = score_TE + t * shape.experts;
    const int32_t* chosen = experts + t * shape.top_k;
    double sum = kSumMin;
    double dot = 0;
    for (int64_t i = 0; i < shape.top_k; ++i) {
      sum += score_E[chosen[i]];
      dot += score_E[chosen[i]] * Get(dweights, t, i);
    }
    std::fill_n(dscore_E, shape.experts, 0.0);
    for (int64_t i = 0; i < shape.top_k; ++i) {
      dscore_E[chosen[i]] += shape.scaling_factor * (Get(dweights, t, i) - dot / sum) / sum;
    }
    if (balanced) {
      if (t % shape.sequence_length == 0) {
        BalanceFactors(shape, score_E, factor_E);
      }
      double all = kSumMin;
      double weighted = 0;
      for (int64_t e = 0; e < shape.experts; ++e) {
        all += score_E[e];
        weighted += score_E[e] * factor_E[e];
      }
      for (int64_t e = 0; e < shape.experts; ++e) {
        dscore_E[e] += scale * (factor_E[e] - weighted / all) / all;
      }
    }
    for (int64_t e = 0; e < shape.experts; ++e) {
      Set(dlogits, t, e, dscore_E[e] * score_E[e] * (1 - score_E[e]));
    }
  }
}

}  // namespace fathom::kernels
