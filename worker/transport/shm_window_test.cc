#include "worker/transport/transport_conformance.h"

namespace fathom::transport {
namespace {

INSTANTIATE_TEST_SUITE_P(Shm, TransportConformance, testing::Values(OneNode(2), OneNode(4)),
                         PlacementName);

}  // namespace
}  // namespace fathom::transport
