#include "worker/transport/transport_conformance.h"

namespace fathom::transport {
namespace {

INSTANTIATE_TEST_SUITE_P(Mixed, TransportConformance, testing::Values(TwoNodes(4)), PlacementName);

}  // namespace
}  // namespace fathom::transport
