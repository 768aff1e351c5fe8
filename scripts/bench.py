"""Speed and memory on this machine, as JSON or Markdown on standard output.

    python scripts/bench.py [SECTION ...] [--markdown] [--batch 256] [--repeats 5]

Sections: learning, acting, composition, growth, milliseconds, memory, stepping, loading; all of
them where none is named. Each is a file in ``scripts/benchmarks``.

Learning, acting and composition are those of the paper's denoiser. Every rate is the best of a few
repeats. Next to each learner's arithmetic rate stands the rate at which this machine computes the
matrix products that the learner needs, with nothing between them: their ratio is the share of the
time that is not overhead.
"""

import argparse
import json
import platform
from functools import partial

import jax
from benchmarks.acting import acting
from benchmarks.composition import composition
from benchmarks.growth import growth
from benchmarks.learning import learning
from benchmarks.loading import loading
from benchmarks.memory import memory
from benchmarks.milliseconds import milliseconds
from benchmarks.stepping import stepping
from benchmarks.tables import markdown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("section", nargs="*", help="learning, acting, …; all of them where none")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--markdown", action="store_true", help="tables in place of JSON")
    chosen = parser.parse_args()
    sections = {
        "learning": partial(learning, chosen.batch, chosen.repeats),
        "acting": partial(acting, chosen.repeats),
        "composition": partial(composition, chosen.batch, chosen.repeats),
        "growth": partial(growth, chosen.batch, chosen.repeats),
        "milliseconds": partial(milliseconds, chosen.batch, chosen.repeats),
        "memory": memory,
        "stepping": partial(stepping, chosen.repeats),
        "loading": loading,
    }
    if unknown := sorted(set(chosen.section) - set(sections)):
        parser.error(f"unknown section {unknown}; choose from {', '.join(sections)}")
    device = jax.devices()[0]
    report = {
        "device": f"{device.platform}: {device.device_kind}",
        "machine": f"{platform.machine()}, {len(jax.devices())} device(s)",
        "jax": jax.__version__,
        "batch": chosen.batch,
    }
    measurements = {name: sections[name]() for name in chosen.section or sections}
    if chosen.markdown:
        print(", ".join(f"{name} {value}" for name, value in report.items()))
        for name, section in measurements.items():
            print(f"\n## {name}\n\n{markdown(section)}")
    else:
        print(json.dumps(report | measurements, indent=2))


if __name__ == "__main__":
    main()
