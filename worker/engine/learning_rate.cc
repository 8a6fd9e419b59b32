#include "worker/engine/learning_rate.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace fathom::engine {

double LearningRate(const v1::Training& training, int64_t step) {
  const double peak = training.learning_rate();
  const double last = training.final_learning_rate();
  const int64_t warmup = training.warmup_steps();
  if (step <= warmup) return peak * static_cast<double>(step) / static_cast<double>(warmup);
  const int64_t decay_begin = warmup + training.constant_steps();
  if (step <= decay_begin) return peak;
  const double length = static_cast<double>(std::max<int64_t>(training.steps() - decay_begin, 1));
  const double progress = std::min(1.0, static_cast<double>(step - decay_begin) / length);
  return last + (peak - last) * 0.5 * (1 + std::cos(std::numbers::pi * progress));
}

}  // namespace fathom::engine
