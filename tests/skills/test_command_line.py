import json
import os
import re
import subprocess
import sys

import pytest

from psec_jax import SkillLibrary
from psec_jax.skills.__main__ import main


@pytest.fixture
def path(library):
    return str(library.path)


def test_list_says_kind_rank_size_and_dataset_of_each_skill(library, path, capsys):
    main(["list", path])
    first, *lines = capsys.readouterr().out.splitlines()
    assert library.fingerprint in first
    assert "2 skill" in first
    run, walk = lines
    assert run.split()[:2] == ["run", "dense"]
    assert walk.split()[:3] == ["walk", "rank", "3"]
    for line, name, dataset in ((run, "run", "number-2"), (walk, "walk", "number-1")):
        assert f"{library.get(name).size:,} parameters" in line
        assert line.endswith(dataset)


@pytest.mark.slow
def test_a_reader_that_stops_early_is_no_error(path):
    """As ``head`` does; here it has closed the pipe before anything is printed."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "psec_jax.skills", "list", path]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_list_names_damaged_skills_goes_on_and_fails(library, make_skill, path, capsys):
    library.add("a", make_skill(library.base))
    skills = library.path / "skills"
    (skills / "a" / "adapter_config.json").write_text("{")
    (skills / "run" / "adapter_model.safetensors").unlink()
    with pytest.raises(SystemExit) as stop:
        main(["list", path])
    assert stop.value.code == 1
    _, a, run, walk = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"  a +damaged: .*adapter_config.json holds no valid JSON.*", a)
    assert re.fullmatch(r"  run +damaged: .*safetensors is missing or not a plain file", run)
    assert walk.split()[:3] == ["walk", "rank", "3"]


def test_show_prints_the_facts_of_a_skill_as_json(library, path, capsys):
    main(["show", path, "walk"])
    facts = json.loads(capsys.readouterr().out)
    file = library.path / "skills" / "walk" / "adapter_config.json"
    assert facts == json.loads(file.read_text())


def test_rename_remove_export_and_import_do_what_the_library_does(
    library, path, tmp_path, capsys, same
):
    walk = library.get("walk")
    file = tmp_path / "walk.safetensors"
    main(["export", path, "walk", str(file)])
    assert capsys.readouterr().out.strip() == str(file)
    main(["rename", path, "walk", "stroll"])
    assert library.names() == ("run", "stroll")
    main(["remove", path, "stroll"])
    assert library.names() == ("run",)
    main(["import", path, str(file)])
    main(["import", path, str(file), "--as", "again"])
    assert capsys.readouterr().out.split() == ["walk", "again"]
    assert library.names() == ("again", "run", "walk")
    assert same(dict(library.get("again").deltas), dict(walk.deltas))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "{path}", "fly"], "error: no skill 'fly' in .*'run', 'walk'"),
        (["remove", "{path}", "../base"], "error: skill name '../base' is not allowed"),
        (["rename", "{path}", "walk", "run"], "error: .*run exists already"),
        (["import", "{path}", "{path}/library.json"], "error: .* is not a readable safetensors"),
        (["list", "{path}/skills"], "error: .* is not a skill library"),
    ],
)
def test_mistakes_end_in_one_line_and_change_nothing(
    path, arguments, message, library, tree_of, capsys
):
    before = tree_of(library.path)
    with pytest.raises(SystemExit, match=message) as stop:
        main([argument.format(path=path) for argument in arguments])
    assert "\n" not in str(stop.value)
    assert tree_of(library.path) == before
    assert SkillLibrary.open(path).names() == ("run", "walk")


@pytest.mark.parametrize("arguments", [[], ["list"], ["fly", "x"], ["rename", "x", "y"]])
def test_wrong_usage_is_explained(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert "usage: python -m psec_jax.skills" in capsys.readouterr().err
