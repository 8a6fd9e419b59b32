// What a rank does in a step, as a list. A schedule is one list per pipeline rank; the executor
// runs it, the validator and the event simulator read it.
//
// Notation (as in docs and on the command line): F0.3 is the forward of micro-batch 3 of direction
// 0, B its full backward, Bi its backward for the input only, W the oldest deferred weight
// gradient, and "F0.3|B1.1" an overlapped pair.
#ifndef FATHOM_COMMON_SCHEDULE_INSTRUCTION_H_
#define FATHOM_COMMON_SCHEDULE_INSTRUCTION_H_

#include <cstdint>
#include <string>
#include <vector>

namespace fathom::schedule {

enum class OpKind : uint8_t {
  kForward,        // F
  kBackward,       // B: input and weight gradients
  kBackwardInput,  // Bi: weight-gradient work is deferred into the rank's FIFO
  kWeight,         // W: the FIFO's oldest entry; direction and micro_batch say which that is
};

// One op on one chunk. The chunk is the stage that `direction` has on the rank: stage r for
// direction 0 of DualPipe, P-1-r for direction 1.
struct Op {
  OpKind kind = OpKind::kForward;
  int direction = 0;
  int micro_batch = 0;  // within its direction, from 0

  friend bool operator==(const Op&, const Op&) = default;
};

// One entry of a rank's list: an op, or a forward overlapped with a full backward.
struct Instruction {
  Op first;
  Op second;  // only when overlapped: first is F, second is B
  bool overlapped = false;

  friend bool operator==(const Instruction&, const Instruction&) = default;
};

// The kind of a schedule without backwards.
inline constexpr char kForwardOnlyKind[] = "forward_only";

// Largest ranks * micro-batches of a schedule, so that its lists fit memory.
inline constexpr int64_t kMaxScheduleCells = int64_t{1} << 22;

// Lists of all pipeline ranks for one step.
struct Schedule {
  std::string kind;       // "dualpipe", "sequential", ...
  int ranks = 0;          // P
  int micro_batches = 0;  // M, all directions together
  int directions = 1;     // 2 for DualPipe: the first M/2 micro-batches are direction 0's
  int stages = 0;
  std::vector<std::vector<Instruction>> lists;
};

std::string ToString(const Op& op);
std::string ToString(const Instruction& instruction);
// A rank's list in one line, overlapped pairs in brackets.
std::string ToString(const std::vector<Instruction>& list);

// The stage that a direction has on a rank, and back. Direction 0 enters at rank 0, direction 1 at
// P-1.
int StageOf(const Schedule& schedule, int rank, int direction);
int RankOf(const Schedule& schedule, int stage, int direction);

// M / directions.
int BatchesPerDirection(const Schedule& schedule);

}  // namespace fathom::schedule

#endif  // FATHOM_COMMON_SCHEDULE_INSTRUCTION_H_
