// The version that every program of this tree says it is.
#ifndef FATHOM_COMMON_BASE_VERSION_H_
#define FATHOM_COMMON_BASE_VERSION_H_

namespace fathom {

inline constexpr char kFathomVersion[] = "0.1.0";

}  // namespace fathom

#endif  // FATHOM_COMMON_BASE_VERSION_H_
