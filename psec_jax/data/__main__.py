"""The command line on datasets: ``python -m psec_jax.data list``."""

import argparse
import json
import sys
from typing import Any

from psec_jax import storage
from psec_jax.command_line import printing
from psec_jax.data import registry
from psec_jax.data.dataset import TransitionDataset
from psec_jax.data.readers import is_file_name, read_file
from psec_jax.data.references import references


def main(arguments: list[str] | None = None) -> None:
    chosen = _parser().parse_args(arguments)
    try:
        with printing():
            _COMMANDS[chosen.command](chosen)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m psec_jax.data", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    about = "the known names, where their files are, and their reference returns"
    sub = commands.add_parser("list", help=about, description=about)
    sub.add_argument("part", nargs="?", default="", help="only names with this in them")

    about = "counts and quantiles of returns and costs, as JSON"
    sub = commands.add_parser("show", help=about, description=about)
    sub.add_argument("dataset", help="a name, or a file (.hdf5, .h5, .npz, .pkl)")
    _reading(sub)

    about = "bring public datasets to this machine"
    sub = commands.add_parser("fetch", help=about, description=about)
    sub.add_argument("dataset", nargs="+", help="a D4RL or DSRL name")

    about = "write a dataset as an HDF5 file in D4RL's layout, or as a Minari dataset"
    sub = commands.add_parser("convert", help=about, description=about)
    sub.add_argument("dataset", help="a name, or a file (.hdf5, .h5, .npz, .pkl)")
    sub.add_argument("target", help="file.hdf5, or minari/[namespace/]name-v0")
    _reading(sub)
    return parser


def _reading(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--key",
        action="append",
        default=[],
        metavar="NAME=KEY",
        help="where a file keeps observations, actions, rewards, terminations, truncations, costs "
        "or next_observations, if not where D4RL does",
    )
    sub.add_argument(
        "--bounds",
        nargs=2,
        type=float,
        metavar=("LOW", "HIGH"),
        action="append",
        default=[],
        help="the bounds of a file's actions, if not -1 and 1; once for all dimensions, or once "
        "for each in turn",
    )
    sub.add_argument(
        "--observation-key",
        action="append",
        default=[],
        metavar="KEY",
        help="an entry of a file's dictionary of observations; repeat it for more, in this order "
        "(default: all, in alphabetical order)",
    )


def _load(chosen: argparse.Namespace) -> TransitionDataset:
    options = _options(chosen)
    if not options:
        return registry.load_dataset(chosen.dataset)
    if not is_file_name(chosen.dataset):
        raise ValueError(
            "--key, --bounds and --observation-key are for files, and "
            f"{chosen.dataset!r} is a name"
        )
    return read_file(chosen.dataset, **options)


def _options(chosen: argparse.Namespace) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if wrong := [pair for pair in chosen.key if "=" not in pair]:
        raise ValueError(f"--key {wrong[0]!r} must be NAME=KEY, such as observations=data/obs")
    if chosen.key:
        options["keys"] = dict(pair.split("=", 1) for pair in chosen.key)
    if len(chosen.bounds) == 1:
        options["bounds"] = tuple(chosen.bounds[0])
    elif chosen.bounds:
        options["bounds"] = tuple(zip(*chosen.bounds, strict=True))
    if chosen.observation_key:
        options["observation_keys"] = tuple(chosen.observation_key)
    return options


def _list(chosen: argparse.Namespace) -> None:
    rows = [
        (
            name,
            "made here",
            f"{recipe.trajectories} trajectories of return {recipe.return_mean:.0f}",
            recipe.environment,
        )
        for name, recipe in registry.local_datasets().items()
    ]
    for name, known in references().items():
        file = registry.local_file(known)
        returns = ""
        if known.low_return is not None and known.high_return is not None:
            returns = f"returns {known.low_return:.1f} to {known.high_return:.1f}"
        where = str(file) if file else "to be fetched"
        rows.append((name, where, returns, known.environment or ""))
    rows = [row for row in rows if chosen.part.lower() in row[0].lower()]
    if not rows:
        raise ValueError(f"no known dataset has {chosen.part!r} in its name")
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


def _show(chosen: argparse.Namespace) -> None:
    print(json.dumps(_rounded(_load(chosen).summary()), indent=2))


def _fetch(chosen: argparse.Namespace) -> None:
    for name in chosen.dataset:
        print(registry.fetch(name))


def _convert(chosen: argparse.Namespace) -> None:
    if chosen.target.startswith("minari/"):
        from psec_jax.data.minari import write_minari

        print(write_minari(chosen.target.removeprefix("minari/"), _load(chosen)))
        return
    target = storage.expanded(chosen.target)
    if target.suffix.lower() not in (".hdf5", ".h5"):
        raise ValueError(
            f"{chosen.target!r} is neither a file.hdf5 nor minari/[namespace/]name-v0"
        )
    if target.exists():
        raise FileExistsError(f"{target} exists already; remove it or choose another name")
    from psec_jax.data.hdf5 import write_hdf5

    print(write_hdf5(target, _load(chosen)))


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items()}
    return round(value, 4) if isinstance(value, float) else value


_COMMANDS = {"list": _list, "show": _show, "fetch": _fetch, "convert": _convert}


if __name__ == "__main__":
    main()
