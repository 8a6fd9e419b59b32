#include "worker/transport/transport_conformance.h"

namespace fathom::transport {
namespace {

INSTANTIATE_TEST_SUITE_P(Tcp, TransportConformance,
                         testing::Values(OwnNodes(2), Placement{"OneNode3", {"a", "a", "a"}, true}),
                         PlacementName);

}  // namespace
}  // namespace fathom::transport
