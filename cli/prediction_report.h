// A prediction beside what was measured: the step, its parts, and every pipeline rank, with what is
// off named in sentences.
#ifndef FATHOM_CLI_PREDICTION_REPORT_H_
#define FATHOM_CLI_PREDICTION_REPORT_H_

#include <string>
#include <vector>

#include "cli/value.h"
#include "proto/fathom/v1/prediction.pb.h"
#include "proto/fathom/v1/worker.pb.h"

namespace fathom::cli {

// What a rank reported of a step.
struct MeasuredRank {
  int rank = 0;
  int pipeline_rank = 0;
  std::string node;
  v1::StepReport report;
};

struct ComparedTime {
  std::string what;
  double predicted_s = 0;
  double measured_s = 0;
  bool off = false;  // beyond the tolerance, by more than a hundredth of the step

  // Measured over predicted; 0 where nothing was predicted.
  double ratio() const { return predicted_s > 0 ? measured_s / predicted_s : 0; }
};

struct ComparedRank {
  int pipeline_rank = 0;
  std::vector<int> stages;  // that it holds
  int ranks = 0;            // measured ones, of all lanes; 0: none reported
  ComparedTime busy;  // its instructions, without waiting; of ranks of several lanes the median
  ComparedTime waiting;
};

struct PredictionReport {
  double tolerance = 0;
  ComparedTime step;
  // Of the pipeline rank that is predicted to be busy longest.
  int busiest_rank = 0;
  std::vector<ComparedTime> parts;
  std::vector<ComparedRank> ranks;    // by pipeline rank
  std::vector<std::string> findings;  // what is off; empty: nothing
};

// `step_seconds`: measured, 0: the longest that a rank reports. Ranks of pipeline ranks that the
// prediction hasn't got are left out. A rank is called slow where it is busy longer by more than
// the tolerance than the median of those with the same stages.
PredictionReport ComparePrediction(const v1::Prediction& prediction,
                                   const std::vector<MeasuredRank>& measured, double step_seconds,
                                   double tolerance = 0.10);

std::string PredictionReportText(const PredictionReport& report);
Value PredictionReportValue(const PredictionReport& report);

}  // namespace fathom::cli

#endif  // FATHOM_CLI_PREDICTION_REPORT_H_
