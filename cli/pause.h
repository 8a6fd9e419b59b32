// The rhythm of what looks again and again: --watch, top, logs -f, daemons that start or end.
// Behind an interface so that tests neither wait nor loop for ever.
#ifndef FATHOM_CLI_PAUSE_H_
#define FATHOM_CLI_PAUSE_H_

#include "absl/time/time.h"

namespace fathom::cli {

class Pause {
 public:
  virtual ~Pause() = default;

  // Returns after the duration. False: look no more.
  virtual bool For(absl::Duration duration) = 0;
};

// Never says no: an interrupt ends the process.
class RealPause final : public Pause {
 public:
  bool For(absl::Duration duration) override;
};

}  // namespace fathom::cli

#endif  // FATHOM_CLI_PAUSE_H_
