// A picture of a pipeline's step: a row per rank, a coloured box per instruction, idle time left
// grey, and a time axis below. One SVG file that needs nothing else, on its own light ground, so
// that it can be read in a browser or a page of either theme.
#ifndef FATHOM_CLI_PIPELINE_SVG_H_
#define FATHOM_CLI_PIPELINE_SVG_H_

#include <string>

#include "proto/fathom/v1/prediction.pb.h"

namespace fathom::cli {

struct PictureOptions {
  std::string title;        // empty: of the timeline's job and step
  bool has_seconds = true;  // false: times are in units of no name
};

// Rows in the order of pipeline ranks. An overlapped pair shows its forward above its backward;
// waiting for peers inside an instruction is drawn pale at its front. What can't be drawn, such as
// a time that is no number or an end before its start, is left out.
std::string PipelineSvg(const v1::Timeline& timeline, const PictureOptions& options = {});

}  // namespace fathom::cli

#endif  // FATHOM_CLI_PIPELINE_SVG_H_
