// What an instruction waits for from other ranks and what it gives them, and running a schedule by
// those dependencies alone.
//
// A forward takes its stage's input from the stage before and gives its output to the stage after;
// a backward takes and gives gradients the other way. Between two ranks each kind is one channel:
// an ordered queue. (As one queue for both kinds, DualPipe on six ranks or more would take messages
// in another order than they are sent.) The first stage takes no activations, the last no
// gradients. Where a rank holds two stages in a row it hands over to itself: such a message has the
// same rank at both ends, needs no room, and takes no time.
#ifndef FATHOM_COMMON_SCHEDULE_PIPELINE_MESSAGES_H_
#define FATHOM_COMMON_SCHEDULE_PIPELINE_MESSAGES_H_

#include <compare>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "common/schedule/instruction.h"

namespace fathom::schedule {

struct Channel {
  int from = 0;
  int to = 0;
  bool gradients = false;

  friend auto operator<=>(const Channel&, const Channel&) = default;
};

struct Message {
  Channel channel;
  int direction = 0;
  int micro_batch = 0;
  int chunk = 0;  // of the op that sends it

  friend bool operator==(const Message&, const Message&) = default;
};

std::string ToString(const Message& message);  // "activation F0.3 from rank 1 to rank 2"

// In the order in which they are taken and sent: of an overlapped pair, the forward's first.
struct Messages {
  std::vector<Message> receives;  // all needed before the instruction starts
  std::vector<Message> sends;     // all given when it is done
};
Messages MessagesOf(const Schedule& schedule, int rank, const Instruction& instruction);

// Runs all lists: a rank starts its next instruction when all its messages have arrived, then
// sends; a send waits while its channel holds `slots` messages (0: never waits; nor does one to
// itself), and a message
// leaves its channel when the instruction that took it has ended. Calls `started` for each
// instruction, in an order that respects every dependency. FAILED_PRECONDITION: a deadlock; says
// what each rank waits for.
absl::Status Replay(const Schedule& schedule, int slots,
                    absl::FunctionRef<void(int rank, int index, const Messages& messages)> started);

}  // namespace fathom::schedule

#endif  // FATHOM_COMMON_SCHEDULE_PIPELINE_MESSAGES_H_
