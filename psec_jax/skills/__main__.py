"""The command line on a skill library: ``python -m psec_jax.skills list PATH``."""

import argparse
import sys
from pathlib import Path

from psec_jax.command_line import import_modules, printing
from psec_jax.diffusion import NOISES
from psec_jax.networks.activations import ACTIVATIONS
from psec_jax.skills.library import SkillLibrary
from psec_jax.skills.published import import_published


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m psec_jax.skills", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command, (about, names) in _COMMANDS.items():
        sub = commands.add_parser(command, help=about, description=about)
        sub.add_argument("path", type=Path, help="folder of the library")
        if command != "import-psec":
            sub.add_argument(
                "--import",
                dest="modules",
                action="append",
                default=[],
                metavar="MODULE",
                help="import a module first, which defines the base's network or backbone",
            )
        for name in names:
            sub.add_argument(name)
        if command == "import":
            sub.add_argument("--as", dest="name", help="another name for the skill")
        elif command == "import-psec":
            _add_published(sub)
    chosen = parser.parse_args(arguments)
    try:
        with printing():
            _run(chosen)
    except (ValueError, KeyError, OSError, ImportError) as error:
        message = error.args[0] if isinstance(error, KeyError) else error
        sys.exit(f"error: {message}")


_COMMANDS = {
    "list": ("every skill: kind, rank, parameters and dataset", ()),
    "show": ("what one skill's file records", ("name",)),
    "rename": ("give a skill another name", ("name", "new")),
    "remove": ("delete one skill", ("name",)),
    "export": ("write one skill as one file", ("name", "file")),
    "import": ("add a skill that was exported", ("file",)),
    "import-psec": (
        "make a new library of the pickled checkpoints that the paper's authors published: the "
        "pretrained policy and its skills ('reward' and 'safety' in the safe setting, 'target' in "
        "the branch dynamic); nothing in the files is run; for a whole agent, context network and "
        "critics included, use psec_jax.skills.published.read_agent",
        (),
    ),
}


def _add_published(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--base", type=Path, help="their pretrained file; not needed where another file holds it"
    )
    parser.add_argument("--skills", type=Path, help="their file of LoRA skills on it")
    parser.add_argument(
        "--composition",
        type=Path,
        help="their file of a composition: its pretrained policy and the skills that it holds "
        "(both of the safe setting; in the branch dynamic the first, as 'lora0'); its context "
        "network is no part of a library: read_agent reads it",
    )
    parser.add_argument(
        "--activation",
        choices=sorted(ACTIVATIONS),
        required=True,
        help="of the library's network: the branches main and gymnasium pretrained with mish and "
        "trained skills and compositions with swish; dynamic pretrained with swish and trained "
        "them with mish",
    )
    parser.add_argument(
        "--noise",
        choices=sorted(NOISES),
        default="beta",
        help="what the sampler adds: beta, as theirs does (default), or posterior",
    )


def _run(chosen: argparse.Namespace) -> None:
    if chosen.command == "import-psec":
        lines = []
        library = import_published(
            chosen.path,
            chosen.base,
            chosen.activation,
            chosen.skills,
            chosen.composition,
            noise=chosen.noise,
            report=lines.append,
        )
        _list(library)
        print(*lines, sep="\n")
        return
    import_modules(chosen.modules)
    library = SkillLibrary.open(chosen.path)
    if chosen.command == "list":
        _list(library)
    elif chosen.command == "show":
        print(library.description(chosen.name), end="")
    elif chosen.command == "rename":
        library.rename(chosen.name, chosen.new)
    elif chosen.command == "remove":
        library.remove(chosen.name)
    elif chosen.command == "export":
        print(library.export(chosen.name, chosen.file))
    else:
        print(library.import_file(chosen.file, chosen.name))


def _list(library: SkillLibrary) -> None:
    """One line a skill; a damaged one says so on its line, and the exit status is then 1."""
    names, damaged = library.names(), False
    known = ", purpose known" if library.has_purpose() else ""
    print(f"base {library.fingerprint}, {len(names)} skill(s){known}")
    for name in names:
        try:
            skill = library.get(name)
        except (ValueError, OSError) as error:
            print(f"  {name:<20} damaged: {error}")
            damaged = True
            continue
        rank = f"rank {skill.adapter.rank}" if skill.adapter.kind == "low_rank" else "dense"
        notes = [skill.provenance.get("dataset", "")]
        notes += ["purpose known"] if library.has_purpose(name) else []
        print(f"  {name:<20} {rank:<9} {skill.size:>10,} parameters  {', '.join(notes)}")
    if damaged:
        sys.exit(1)


if __name__ == "__main__":
    main()
