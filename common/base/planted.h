// Bugs planted on purpose, to prove that the simulation finds them (tests/sim). In a normal build
// FATHOM_PLANT is false and leaves no trace; with FATHOM_PLANTED_BUGS defined, one bug at a time
// can be chosen at run time.
#ifndef FATHOM_COMMON_BASE_PLANTED_H_
#define FATHOM_COMMON_BASE_PLANTED_H_

#ifdef FATHOM_PLANTED_BUGS

namespace fathom::planted {

enum Bug {
  kNone,
  kShedDropsSamples,
};

inline constexpr Bug kAll[] = {kShedDropsSamples};
inline constexpr const char* kNames[] = {"None", "ShedDropsSamples"};
inline const char* NameOf(Bug bug) { return kNames[bug]; }

inline Bug active = kNone;

}  // namespace fathom::planted

#define FATHOM_PLANT(bug) (::fathom::planted::active == ::fathom::planted::bug)

#else

#define FATHOM_PLANT(bug) false

#endif  // FATHOM_PLANTED_BUGS

#endif  // FATHOM_COMMON_BASE_PLANTED_H_
