#!/usr/bin/env bash
# Every attack of this folder at its full size, one after another: some hours on two cores. What each found goes to
# benchmarks/results/. Ends with status 1 where one of them failed.
#
#     bash benchmarks/reliability/nightly.sh
set -uo pipefail
cd "$(dirname "$0")"
failed=0
for attack in "overhead.py" "kills.py --rounds 200" "outages.py" "full_disk.py" "promotion.py" "first_run.py" "data.py" \
  "random_requests.py --requests 50000" "clients.py" "sharing.py" "suite.py --runs 5 --busy 1"; do
  echo "+ python benchmarks/reliability/$attack"
  # shellcheck disable=SC2086  # the words of the options
  python $attack || failed=1
done
exit $failed
