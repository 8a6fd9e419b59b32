// A timeline as a Chrome trace: JSON that Perfetto (ui.perfetto.dev) and chrome://tracing open.
#ifndef FATHOM_CLI_CHROME_TRACE_H_
#define FATHOM_CLI_CHROME_TRACE_H_

#include <string>

#include "proto/fathom/v1/prediction.pb.h"

namespace fathom::cli {

// A process per rank, named and ordered by pipeline rank and node, with two threads. The first
// holds all instructions and what is idle between them as complete events that don't overlap and
// add up to the step; the second, where there is any, the waiting for peers inside of them, drawn
// at the front of the instruction it is part of. One event a line, times in microseconds.
std::string ChromeTrace(const v1::Timeline& timeline);

}  // namespace fathom::cli

#endif  // FATHOM_CLI_CHROME_TRACE_H_
