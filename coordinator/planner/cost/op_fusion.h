// The calls of a pass as an accelerator runs them: fewer kernels, and less memory traffic.
//
// worker/model makes one call per op. On an accelerator a fusable call runs in the kernel of a
// neighbour that makes its input: that input is not read again, and not written either where nobody
// else reads it. The rules, each for a call and the one that makes its input:
// - quantising joins the norm, SwiGLU or its backward before it; a SwiGLU's backward, and
//   quantising along tokens, take codes as they are;
// - the residual joins the norm's backward; the scales' factor its quantisation; a copy in another
//   format what made its input;
// - rows of experts are summed in one pass, from the activations' format, in which grouped products
//   write them; sums and copies over heads are one pass each;
// - rows that come back are added up by the exchange itself; vectors of one row ride along.
#ifndef FATHOM_COORDINATOR_PLANNER_COST_OP_FUSION_H_
#define FATHOM_COORDINATOR_PLANNER_COST_OP_FUSION_H_

#include "common/model/layer_ops.h"

namespace fathom::planner {

// `activations`: bytes of an element between ops; sums have four.
model::OpCalls FusedCalls(const model::OpCalls& calls, int64_t activations);

}  // namespace fathom::planner

#endif  // FATHOM_COORDINATOR_PLANNER_COST_OP_FUSION_H_
