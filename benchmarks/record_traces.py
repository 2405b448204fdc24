"""Records the runs that CI shows to the detectors.

`python benchmarks/record_traces.py` trains every scenario once with a tuning seed, nobody acting, and writes
`tests/orchestrator/recorded/*.npz`. Traces are only needed anew when scenarios change, or when detectors read figures
that the old ones do not have.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lumina.gym.plan import cell_of
from lumina.gym.scenario import load_scenarios, read_seeds
from lumina.gym.traces import record, replay, save

FOLDER = Path(__file__).parents[1] / "tests" / "orchestrator" / "recorded"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenario", nargs="+", default=[])
    parser.add_argument("--seed", type=int, default=read_seeds().tune[0])
    parser.add_argument("--out", type=Path, default=FOLDER)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for scenario in load_scenarios(options.scenario):
        trace = record(cell_of(scenario, "clip", options.seed, True))
        path = options.out / f"{scenario.name}.npz"
        save(trace, path)
        said = {(heard.kind, heard.cause): heard.step for heard in reversed(replay(trace))}
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB; first said: {said}", flush=True)


if __name__ == "__main__":
    main()
