#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

#include "kernels/check.h"
#include "kernels/cpu/element.h"
#include "kernels/cpu/reference_ops.h"
#include "kernels/cpu/shape_checks.h"

namespace fathom::kernels {
namespace {

// Keeps a token none of whose chosen scores is above zero in FP64 away from 0 / 0.
constexpr double kSumMin = 1e-20;

std::vector<double> Scores(const Matrix& logits, int64_t t) {
  std::vector<double> score_E(logits.cols);
  for (int64_t e = 0; e < logits.cols; ++e) {
    score_E[e] = 1.0 / (1.0 + std::exp(-Get(logits, t, e)));
  }
  return score_E;
}

// Indices of the k largest values, largest first, ties to the lowest index. NaN counts as smallest.
std::vector<int32_t> Largest(const std::vector<double>& values, int64_t k) {
  std::vector<int32_t> picked;
  std::vector<bool> taken(values.size(), false);
  while (static_cast<int64_t>(picked.size()) < k) {
    int32_t best = -1;
    for (int32_t i = 0; i < static_cast<int32_t>(values.size()); ++i) {
      if (!taken[i] && (best < 0 || values[i] > values[best] ||
                        (std::isnan(values[best]) && !std::isnan(values[i])))) {
        best = i;
      }
    }
    taken[best] = true;
    picked.push_back(best);
  }
  return picked;
}

// Sum of the two largest biased scores of one group, or its only one.
double GroupScore(const std::vector<double>& biased_E, int64_t group, int64_t size) {
  const std::vector<double> members(biased_E.begin() + group * size,
                                    biased_E.begin() + (group + 1) * size);
  double sum = 0;
  for (const int32_t i : Largest(members, std::min<int64_t>(2, size))) {
    sum += members[i];
  }
  return sum;
}

std::vector<int32_t> Choose(const RouterShape& shape, const std::vector<double>& biased_E) {
  if (shape.groups_kept == shape.groups) {
    return Largest(biased_E, shape.top_k);
  }
  const int64_t size = shape.experts / shape.groups;
  std::vector<double> group_score(shape.groups);
  for (int64_t g = 0; g < shape.groups; ++g) {
    group_score[g] = GroupScore(biased_E, g, size);
  }
  std::vector<int32_t> kept = Largest(group_score, shape.groups_kept);
  std::sort(kept.begin(), kept.end());
  std::vector<int32_t> candidates;  // ascending, so that ties still go to the lowest id
  std::vector<double> candidate_score;
  for (const int32_t g : kept) {
    for (int64_t e = g * size; e < (g + 1) * size; ++e) {
      candidates.push_back(static_cast<int32_t>(e));
      candidate_score.push_back(biased_E[e]);
    }
  }
  std::vector<int32_t> chosen;
  for (const int32_t i : Largest(candidate_score, shape.top_k)) {
    chosen.push_back(candidates[i]);
  }
  return chosen;
}

// f_i = E / (K S) * number of the sequence's tokens whose K largest raw scores hold i.
std::vector<double> BalanceFactors(const RouterShape& shape, const Matrix& logits, int64_t first) {
  std::vector<double> factor_E(shape.experts);
  for (int64_t t = first; t < first + shape.sequence_length; ++t) {
    for (const int32_t e : Largest(Scores(logits, t), shape.top_k)) {
      factor_E[e] += static_cast<double>(shape.experts) / (shape.top_k * shape.sequence_length);
    }
  }
  return factor_E;
}

double BalanceLoss(const RouterShape& shape, const Matrix& logits) {
  double loss = 0;
  for (int64_t first = 0; first < shape.tokens; first += shape.sequence_length) {
    const std::vector<double> factor_E = BalanceFactors(shape, logits, first);
    for (int64_t t = first; t < first + shape.sequence_length; ++t) {
      const std::vector<double> score_E = Scores(logits, t);
      const double sum = std::accumulate(score_E.begin(), score_E.end(), kSumMin);
      for (int64_t e = 0; e < shape.experts; ++e) {
        loss += shape.balance_alpha * factor_E[e] * score_E[e] / sum / shape.sequence_length;
      }
    }
  }
  return loss;
}

// Adds to dscore_E the gradient of weights = factor * s / sum(s) over the chosen.
void AddWeightGradient(const RouterShape& shape, const std::vector<double>& score_E,
                       const int32_t* chosen, const Matrix& dweights, int64_t t,
                       std::vector<double>& dscore_E) {
  double sum = kSumMin;
  double dot = 0;
  for (int64_t i = 0; i < shape.top_k; ++i) {
    sum += score_E[chosen[i]];
    dot += score_E[chosen[i]] * Get(dweights, t, i);
  }
  for (int64_t i = 0; i < shape.top_k; ++i) {
    dscore_E[chosen[i]] += shape.scaling_factor * (Get(dweights, t, i) - dot / sum) / sum;
  }
}

// Adds to dscore_E the gradient of scale * sum_i f_i s_i / sum(s).
void AddBalanceGradient(const std::vector<double>& factor_E, double scale,
                        const std::vector<double>& score_E, std::vector<double>& dscore_E) {
  const double sum = std::accumulate(score_E.begin(), score_E.end(), kSumMin);
  const double dot =
      std::inner_product(score_E.begin(), score_E.end(), factor_E.begin(), 0.0) / sum;
  for (size_t e = 0; e < score_E.size(); ++e) {
    dscore_E[e] += scale * (factor_E[e] - dot) / sum;
  }
}

}  // namespace

double ReferenceOps::RouterForward(const RouterShape& shape, const Matrix& logits,
                                   const Matrix& bias, int32_t* experts, const Matrix& weights,
                                   int64_t* loads) {
  CheckRouter(shape, logits, weights);
  CheckShape("Router", "bias", bias, 1, shape.experts);
  for (int64_t t = 0; t < shape.tokens; ++t) {
    const std::vector<double> score_E = Scores(logits, t);
    std::vector<double> biased_E(score_E);
    for (int64_t e = 0; e < shape.experts; ++e) {
      biased_E[e] += Get(bias, 0, e);
    }
    const std::vector<int32_t> chosen = Choose(shape, biased_E);
    double sum = kSumMin;
    for (const int32_t e : chosen) {
      sum += score_E[e];
      ++loads[e];
    }
    for (int64_t i = 0; i < shape.top_k; ++i) {
      experts[t * shape.top_k + i] = chosen[i];
      Set(weights, t, i, score_E[chosen[i]] / sum * shape.scaling_factor);
    }
  }
  return shape.balance_alpha == 0 ? 0 : BalanceLoss(shape, logits);
}

void ReferenceOps::RouterBackward(const RouterShape& shape, const Matrix& logits,
                                  const int32_t* experts, const Matrix& dweights,
                                  double balance_scale, const Matrix& dlogits) {
  CheckRouter(shape, logits, dweights);
  CheckSameShape("RouterBackward", logits, "dlogits", dlogits);
  const bool balanced = shape.balance_alpha != 0 && balance_scale != 0;
  std::vector<double> factor_E;
  for (int64_t t = 0; t < shape.tokens; ++t) {
    const std::vector<double> score_E = Scores(logits, t);
    std::vector<double> dscore_E(shape.experts, 0.0);
    AddWeightGradient(shape, score_E, experts + t * shape.top_k, dweights, t, dscore_E);
    if (balanced) {
      if (t % shape.sequence_length == 0) {
        factor_E = BalanceFactors(shape, logits, t);
      }
      AddBalanceGradient(factor_E, balance_scale * shape.balance_alpha / shape.sequence_length,
                         score_E, dscore_E);
    }
    for (int64_t e = 0; e < shape.experts; ++e) {
      Set(dlogits, t, e, dscore_E[e] * score_E[e] * (1 - score_E[e]));
    }
  }
}

}  // namespace fathom::kernels
