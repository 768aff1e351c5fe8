"""Several processes and threads at one library, and folders that may not be written."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from psec_jax import SkillLibrary
from psec_jax.errors import NotSaved

pytestmark = pytest.mark.slow


def test_threads_may_add_at_the_same_time(library, make_skill, same):
    skills = {f"skill-{i}": make_skill(library.base, i) for i in range(8)}
    with ThreadPoolExecutor(8) as pool:
        list(
            pool.map(
                lambda name: SkillLibrary(library.path, library.base).add(name, skills[name]),
                skills,
            )
        )
    assert library.names() == ("run", *skills, "walk")
    for name, skill in skills.items():
        assert same(dict(library.get(name).deltas), dict(skill.deltas))


def test_of_those_who_want_the_same_name_exactly_one_gets_it(library, make_skill, same, tree_of):
    skills = [make_skill(library.base, i) for i in range(8)]
    before = tree_of(library.path)

    def add(skill):
        try:
            library.add("wanted", skill)
        except FileExistsError as error:
            assert "wanted exists already" in str(error)
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        added = list(pool.map(add, skills))
    assert sum(added) == 1
    winner = skills[added.index(True)]
    assert same(dict(library.get("wanted").deltas), dict(winner.deltas))
    library.remove("wanted")
    assert tree_of(library.path) == before


ADD = """
import sys, time
from pathlib import Path
from psec_jax import SkillLibrary
path, mine = sys.argv[1:]
library = SkillLibrary.open(path)
skill = library.get("walk")
library.fingerprint, library._layers
Path(path, mine).touch()
while not Path(path, "start").exists():
    time.sleep(0.005)
for name in (mine, "shared"):
    try:
        library.add(name, skill, by=mine)
        print(name)
    except FileExistsError:
        print("taken")
"""


@pytest.mark.slow
def test_two_processes_may_add_at_the_same_time(library):
    writers = ("one", "two")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", ADD, library.path, name], stdout=subprocess.PIPE, text=True
        )
        for name in writers
    ]
    while not all((library.path / name).exists() for name in writers):
        assert all(process.poll() is None for process in processes)
        time.sleep(0.01)
    (library.path / "start").touch()
    said = {name: p.communicate()[0].split() for name, p in zip(writers, processes, strict=True)}
    assert [lines[0] for lines in said.values()] == ["one", "two"]
    assert sorted(lines[1] for lines in said.values()) == ["shared", "taken"]
    winner = next(name for name, lines in said.items() if lines[1] == "shared")
    assert library.get("shared").provenance["by"] == winner
    assert library.names() == ("one", "run", "shared", "two", "walk")


@pytest.fixture
def meanwhile(monkeypatch):
    """``meanwhile(act)``: another process does ``act`` just before a folder is renamed here."""
    rename = os.rename

    def arrange(act):
        def late(source, target):
            act()
            rename(source, target)

        monkeypatch.setattr(os, "rename", late)

    return arrange


def test_a_new_name_that_another_process_takes_first_is_refused(library, meanwhile, tree_of):
    skills = library.path / "skills"
    before = tree_of(skills)
    meanwhile(lambda: shutil.copytree(skills / "run", skills / "new"))
    with pytest.raises(FileExistsError, match="new exists already; remove it or choose another"):
        library.rename("walk", "new")
    assert library.names() == ("new", "run", "walk")
    assert before.items() < tree_of(skills).items()


@pytest.mark.parametrize("act", ["rename", "remove"])
def test_a_skill_that_another_process_removes_first_is_not_there(library, meanwhile, act):
    meanwhile(lambda: shutil.rmtree(library.path / "skills" / "walk"))
    with pytest.raises(KeyError, match=r"no skill 'walk' .*\['run'\]"):
        library.rename("walk", "new") if act == "rename" else library.remove("walk")
    assert [path.name for path in (library.path / "skills").iterdir()] == ["run"]


@pytest.mark.parametrize("room", [0, 4096])
def test_a_full_disk_is_said_and_takes_no_skill_away(
    library, make_skill, small_disk, room, tree_of
):
    """Whichever of a skill's two files has no room."""
    disk, leave = small_disk(2)
    library = SkillLibrary(shutil.copytree(library.path, disk / "library"), library.base)
    before = tree_of(library.path)
    leave(room)
    with pytest.raises(NotSaved, match=r"cannot save .*new \(No space left .*make room and start"):
        library.add("new", make_skill(library.base))
    assert tree_of(library.path) == before
    (disk / "filler").unlink()
    library.add("new", make_skill(library.base))
    assert library.names() == ("new", "run", "walk")
    assert before.items() < tree_of(library.path).items()


def refuse(*arguments, **options):
    raise PermissionError(13, "Permission denied")


@pytest.mark.parametrize(
    ("act", "module", "function"),
    [
        *((act, os, "rename") for act in ("add", "import_file", "remove", "rename", "create")),
        *((act, tempfile, "mkdtemp") for act in ("add", "import_file", "create")),
    ],
)
def test_without_permission_to_write_nothing_is_half_done(
    library, make_skill, tmp_path, monkeypatch, unchanged, act, module, function
):
    file = library.export("walk", tmp_path / "walk.safetensors")
    skill = make_skill(library.base)
    acts = {
        "add": lambda: library.add("new", skill),
        "import_file": lambda: library.import_file(file, "new"),
        "remove": lambda: library.remove("walk"),
        "rename": lambda: library.rename("walk", "new"),
        "create": lambda: SkillLibrary.create(tmp_path / "new", library.base),
    }
    unchanged()
    monkeypatch.setattr(module, function, refuse)
    with pytest.raises(PermissionError):
        acts[act]()
