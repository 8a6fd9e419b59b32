// The learning rate of a step: linear warm-up from 0, constant at the peak, then a cosine down to
// the final rate at the last step (DeepSeek-V3 report, section 4.2).
#ifndef FATHOM_WORKER_ENGINE_LEARNING_RATE_H_
#define FATHOM_WORKER_ENGINE_LEARNING_RATE_H_

#include <cstdint>

#include "proto/fathom/v1/job.pb.h"

namespace fathom::engine {

// Rate of update number `step`, from 1 to training.steps(). `training` is resolved.
double LearningRate(const v1::Training& training, int64_t step);

}  // namespace fathom::engine

#endif  // FATHOM_WORKER_ENGINE_LEARNING_RATE_H_
