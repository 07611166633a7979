#include "cuda/device_list.h"

#include "common/test.h"

namespace deftree {
namespace {

TEST(code_runs_on_its_own_architecture_and_on_later_minor_versions_of_it) {
  CHECK(has_code_for("80,89,90a", 80));
  CHECK(has_code_for("80,89,90a", 86));
  CHECK(has_code_for("80,89,90a", 89));
  CHECK(has_code_for("80,89,90a", 90));
  CHECK(has_code_for("120", 121));
}

TEST(code_does_not_run_on_other_major_versions_or_earlier_minor_ones) {
  CHECK(!has_code_for("80,89,90a", 75));
  CHECK(!has_code_for("80,89,90a", 100));
  CHECK(!has_code_for("89", 86));
  CHECK(!has_code_for("100a", 103));
  CHECK(!has_code_for("", 80));
}

TEST(a_status_has_devices_or_says_why_there_are_none) {
  const CudaStatus status = query_cuda();
  CHECK(!status.devices.empty() || !status.problem.empty());
  CHECK(status.is_built || status.devices.empty());
  for (const CudaDeviceInfo& device : status.devices) {
    CHECK(device.compute_capability >= kMinComputeCapability);
    CHECK(!device.name.empty());
    CHECK(device.free_bytes > 0 && device.free_bytes <= device.total_bytes);
  }
}

TEST(asking_twice_gives_the_same_answer) {
  const CudaStatus first = query_cuda(), second = query_cuda();
  CHECK_EQ(first.problem, second.problem);
  CHECK_EQ(first.devices.size(), second.devices.size());
}

}  // namespace
}  // namespace deftree
