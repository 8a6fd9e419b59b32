// What a stand-in for fathom-rank does: the words of a script, in order, separated
// by ';'. The script is the argument --script=... or, without one, what RankStart gives as the
// checkpoint directory. The process exits with 0 after the last word.
//
//   listen  load  train  finish  step:N  fail:TEXT  checkpoint:N  held:TEXT  parked:N  answer:TEXT
//                             events to the daemon, of the epoch that it was told of last
//   start  peers  stop  hold  park  diagnose  eof  wait for that command, or the channel's end
//   epoch:N                   of the events that follow
//   exit:N  signal:N  hang    end, or never do
//   print:TEXT  surroundings  write to standard output
//   close  garbage  orphan    close the channel, spoil it, leave a child behind
#ifndef FATHOM_WORKER_AGENT_SCRIPTED_RANK_H_
#define FATHOM_WORKER_AGENT_SCRIPTED_RANK_H_

#include <string>

namespace fathom {

// Empty: the script comes with RankStart. Returns the exit code, unless the script ends the
// process.
int RunScriptedRank(const std::string& script);

}  // namespace fathom

#endif  // FATHOM_WORKER_AGENT_SCRIPTED_RANK_H_
