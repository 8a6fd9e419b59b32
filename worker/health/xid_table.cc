#include "worker/health/xid_table.h"

#include <algorithm>
#include <iterator>

namespace fathom::health {
namespace {

struct Row {
  int code;
  v1::Severity severity;
  absl::string_view text;
};

// In order of codes.
constexpr Row kRows[] = {
    {13, v1::SEVERITY_WARNING, "graphics engine exception: as a rule the program's own fault"},
    {31, v1::SEVERITY_WARNING, "memory page fault: as a rule the program's own fault"},
    {32, v1::SEVERITY_WARNING, "corrupted push buffer: watch the PCIe link"},
    {38, v1::SEVERITY_WARNING, "driver firmware error"},
    {43, v1::SEVERITY_WARNING, "reset channel: the program was ended, others go on"},
    {44, v1::SEVERITY_FATAL, "graphics engine fault during context switch: reset the GPU"},
    {45, v1::SEVERITY_WARNING, "preemptive cleanup after another error"},
    {46, v1::SEVERITY_FATAL, "the GPU stopped processing: reset it"},
    {48, v1::SEVERITY_FATAL, "uncorrectable double-bit memory error: drain and reset the GPU"},
    {61, v1::SEVERITY_FATAL, "internal microcontroller breakpoint: reset the GPU"},
    {62, v1::SEVERITY_FATAL, "internal microcontroller halt: reset the GPU"},
    {63, v1::SEVERITY_FATAL, "a memory row or page is to be remapped: reset the GPU to do so"},
    {64, v1::SEVERITY_FATAL, "a memory row or page can't be remapped: replace the GPU"},
    {68, v1::SEVERITY_WARNING, "video processor exception"},
    {69, v1::SEVERITY_FATAL, "graphics engine class error: reset the GPU"},
    {74, v1::SEVERITY_FATAL, "NVLink error: reset the GPU; check the link if it comes again"},
    {79, v1::SEVERITY_FATAL, "the GPU has fallen off the bus: drain, reboot, and reseat it"},
    {92, v1::SEVERITY_WARNING, "high rate of corrected memory errors: watch"},
    {94, v1::SEVERITY_FATAL,
     "contained uncorrectable memory error: the program is lost; reset the GPU"},
    {95, v1::SEVERITY_FATAL, "uncontained uncorrectable memory error: reset the GPU"},
    {109, v1::SEVERITY_FATAL, "context switch timeout: reset the GPU"},
    {110, v1::SEVERITY_FATAL, "security fault: reset the GPU"},
    {119, v1::SEVERITY_FATAL, "the GPU's system processor does not answer: reset or replace it"},
    {120, v1::SEVERITY_FATAL, "the GPU's system processor failed: reset or replace it"},
    {121, v1::SEVERITY_WARNING, "corrected error on the link between chips"},
    {136, v1::SEVERITY_FATAL, "link training failed: reset the GPU"},
    {137, v1::SEVERITY_WARNING,
     "memory fault at an NVLink peer: as a rule the program's own fault"},
    {140, v1::SEVERITY_FATAL, "unrecovered memory error: reset the GPU"},
    {143, v1::SEVERITY_FATAL, "GPU initialisation failed: reboot the node"},
    {154, v1::SEVERITY_WARNING,
     "the recovery action that the driver asks for changed: see the line"},
};

}  // namespace

XidMeaning MeaningOfXid(int code) {
  const auto* row = std::lower_bound(std::begin(kRows), std::end(kRows), code,
                                     [](const Row& r, int wanted) { return r.code < wanted; });
  if (row == std::end(kRows) || row->code != code) {
    return {v1::SEVERITY_WARNING, "not in the table; see NVIDIA's Xid catalog"};
  }
  return {row->severity, row->text};
}

}  // namespace fathom::health
