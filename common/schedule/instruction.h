// What a rank does in a step, as a list. A schedule is one list per pipeline rank; the executor
// runs it, the validator and the event simulator read it.
//
// Notation (as in docs and on the command line): F0.3 is the forward of micro-batch 3 of direction
// 0, B its full backward, Bi its backward for the input only, W the oldest deferred weight
// gradient, and "F0.3|B1.1" an overlapped pair. Where all micro-batches go one way, the number
// before the point is the chunk: F1.3 is the forward on the second stage that the rank holds.
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

// One op on one chunk: on the stage that StageOf gives for the rank, `direction` and `chunk`.
struct Op {
  OpKind kind = OpKind::kForward;
  int direction = 0;
  int micro_batch = 0;  // within its direction, from 0
  int chunk = 0;        // which of the stages that the direction has on the rank

  friend bool operator==(const Op&, const Op&) = default;
};

// One entry of a rank's list: an op, or a forward overlapped with a full backward.
struct Instruction {
  Op first;
  Op second;  // only when overlapped: first is F, second is B
  bool overlapped = false;

  friend bool operator==(const Instruction&, const Instruction&) = default;
};

// How the stages of a direction lie on the ranks.
enum class Placement : uint8_t {
  kLoop,  // chunk c of rank r is stage c * P + r: after the last rank comes the first again
  kV,     // two chunks, r and 2P - 1 - r: down the ranks and back up; the last rank holds the turn
};

// The kind of a schedule without backwards.
inline constexpr char kForwardOnlyKind[] = "forward_only";

// Largest stages * micro-batches of a schedule, so that its lists fit memory, and largest number of
// ranks, so that following messages along all of them stays quick.
inline constexpr int64_t kMaxScheduleCells = int64_t{1} << 22;
inline constexpr int kMaxScheduleRanks = 4096;

// Lists of all pipeline ranks for one step.
struct Schedule {
  std::string kind;       // "dualpipe", "sequential", ...
  int ranks = 0;          // P
  int micro_batches = 0;  // M, all directions together
  int directions = 1;     // 2 for DualPipe: the first M/2 micro-batches are direction 0's
  int chunks = 1;         // stages that each direction has on a rank; 1 with two directions
  int stages = 0;         // ranks * chunks
  Placement placement = Placement::kLoop;
  std::vector<std::vector<Instruction>> lists;
};

std::string ToString(const Op& op);
std::string ToString(const Instruction& instruction);
// A rank's list in one line, overlapped pairs in brackets.
std::string ToString(const std::vector<Instruction>& list);

// The stage that a direction has on a rank as a chunk, and back. Direction 0 enters at rank 0,
// direction 1 at P-1.
int StageOf(const Schedule& schedule, int rank, int direction, int chunk = 0);
int RankOf(const Schedule& schedule, int stage, int direction);
int ChunkOf(const Schedule& schedule, int stage);

// M / directions.
int BatchesPerDirection(const Schedule& schedule);

}  // namespace fathom::schedule

#endif  // FATHOM_COMMON_SCHEDULE_INSTRUCTION_H_
