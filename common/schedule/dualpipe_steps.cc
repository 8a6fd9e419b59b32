#include "common/schedule/dualpipe_steps.h"

namespace fathom::schedule {

// In the order of the public DualPipe code.
void AppendDualPipe(int half, int depth, int micro_batches, RankList& list) {
  const int beyond = half - depth - 1;  // ranks between this one and the meeting point
  for (int i = 0; i < 2 * beyond; ++i) list.Forward(0);
  for (int i = 0; i < depth + 1; ++i) {
    list.Forward(0);
    list.Forward(1);
  }
  for (int i = 0; i < beyond; ++i) {
    list.BackwardInput(1);
    list.Weight();
    list.Forward(1);
  }
  for (int i = 0; i < micro_batches - 2 * half + depth + 1; ++i) {
    if (i == 0 && beyond == 0) {
      // Both ends of this pair would wait for each other's neighbour: run it apart.
      list.Forward(0);
      list.Backward(1);
    } else {
      list.Overlapped(0, 1);
    }
    list.Overlapped(1, 0);
  }
  for (int i = 0; i < beyond; ++i) {
    list.Backward(1);
    list.Overlapped(1, 0);
  }
  // Zero bubble: from here on weight gradients are kept back, to fill the end of the step.
  const int turn = (depth + 1) / 2;
  bool defer = false;
  for (int i = 0; i < depth + 1; ++i) {
    if (i == turn && depth % 2 == 1) defer = true;
    defer ? list.BackwardInput(1) : list.Backward(1);
    if (i == turn && depth % 2 == 0) defer = true;
    defer ? list.BackwardInput(0) : list.Backward(0);
  }
  for (int i = 0; i < beyond; ++i) {
    list.Weight();
    list.BackwardInput(0);
  }
  for (int i = 0; i < depth + 1; ++i) list.Weight();
}

}  // namespace fathom::schedule
