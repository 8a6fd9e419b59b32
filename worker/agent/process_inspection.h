// What the kernel knows of a process that does not answer.
#ifndef FATHOM_WORKER_AGENT_PROCESS_INSPECTION_H_
#define FATHOM_WORKER_AGENT_PROCESS_INSPECTION_H_

#include <sys/types.h>

#include <string>

#include "absl/strings/string_view.h"

namespace fathom {

// Of /proc/<pid>/status and, where the kernel shows it, the function in it that the main thread
// waits in: "stopped by a signal", "in disk wait in rq_qos_wait", "sleeping". "gone": no such
// process.
std::string DescribeProcess(pid_t pid);

// The same from the two files' contents.
std::string DescribeProcess(absl::string_view status, absl::string_view wchan);

}  // namespace fathom

#endif  // FATHOM_WORKER_AGENT_PROCESS_INSPECTION_H_
