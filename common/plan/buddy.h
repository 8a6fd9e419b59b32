// Who keeps whose state: every rank's buddy holds the newest snapshots of its shard. Pure.
//
// The ranks are laid in a ring, those of one failure domain, leaf and node beside each other, and
// rotated, so that a rank's buddy is on another node whenever no node has more than half of them,
// in another failure domain whenever no domain has, and under another leaf where that goes
// together. Of rotations equally good, one that makes fewer pairs of nodes hold all copies of
// something is taken. It is a permutation: each rank is the buddy of exactly one.
#ifndef FATHOM_COMMON_PLAN_BUDDY_H_
#define FATHOM_COMMON_PLAN_BUDDY_H_

#include <vector>

#include "proto/fathom/v1/plan.pb.h"

namespace fathom::plan {

// By rank, all at once; -1 in a job of one rank.
std::vector<int> BuddiesOf(const v1::Plan& plan);

// Who keeps this rank's state; -1 in a job of one rank.
int BuddyOf(const v1::Plan& plan, int rank);

// The rank whose state this one keeps; -1 in a job of one rank.
int WardOf(const v1::Plan& plan, int rank);

// Whether a change from `present` to `next` takes both processes that have some rank's state, its
// own and its buddy's: no device of theirs is in `next`.
bool LeavesStateBehind(const v1::Plan& present, const v1::Plan& next);

}  // namespace fathom::plan

#endif  // FATHOM_COMMON_PLAN_BUDDY_H_
