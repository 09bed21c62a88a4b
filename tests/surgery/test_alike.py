"""Models that are mixed have one tokenizer, wherever their folders keep it."""

import shutil

import pytest
from tokenizers import Tokenizer, models

from tests.convert.cases import saved as saved_by_transformers
from tests.surgery.models import decoder, operate, saved, two_stacks
from turnout.cli.surgery_ensemble import _check_alike
from turnout.config.errors import UserError
from turnout.config.moe import Placement
from turnout.convert.conversion import to_native
from turnout.convert.folder import open_foreign
from turnout.convert.mapping import map_foreign
from turnout.surgery.branches import Branches
from turnout.surgery.opened import open_source, require_one_text
from turnout.surgery.upcycle import Sparse

BTX = Branches(Sparse(2, 2, placement=Placement(1)))


def tokenizer(folder, *words):
    names = ["<pad>", "</s>", *words]
    library = Tokenizer(models.WordLevel({name: n for n, name in enumerate(names)}, "</s>"))
    library.save(str(folder / "tokenizer.json"))


@pytest.fixture
def folders(tmp_path):
    """Three Hugging Face folders of one model: a tokenizer, another one, and none; and a run that
    was made of the first."""
    first = saved_by_transformers("t5", tmp_path / "first")
    for name in ("other", "none"):
        shutil.copytree(first, tmp_path / name)
    tokenizer(first, "a", "b", "c")
    tokenizer(tmp_path / "other", "b", "a", "c")
    foreign = open_foreign(first)
    to_native(foreign, map_foreign(foreign), tmp_path / "run")
    return tmp_path


def opened(folder, *names):
    return [open_source(str(folder / name)) for name in names]


def test_the_same_tokenizer_is_found_in_a_folder_and_in_a_run(folders):
    same = opened(folders, "first", "run")
    assert same[0].fingerprint() == same[1].fingerprint() is not None
    assert require_one_text(same) == () == _check_alike(same)


@pytest.mark.parametrize("names", [("first", "other"), ("run", "other"), ("other", "run")])
def test_other_tokenizers_are_refused(names, folders):
    sources = opened(folders, *names)
    for check in (require_one_text, _check_alike):
        with pytest.raises(UserError, match="reads other tokens than") as caught:
            check(sources)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="models that are mixed have one tokenizer"):
        operate(BTX, [folders / name for name in names], folders / "out")
    assert not (folders / "out").exists()


def test_where_there_is_no_tokenizer_the_receipt_says_so(folders):
    (note,) = require_one_text(opened(folders, "first", "none"))
    assert note.startswith(str(folders / "none")) and "no tokenizer" in note
    receipt = operate(BTX, [folders / "none", folders / "run"], folders / "out")
    assert any("none has no tokenizer" in note for note in receipt.notes)


def test_without_tokenizers_vocabularies_must_agree_in_size(tmp_path):
    from dataclasses import replace

    saved(decoder(), tmp_path / "one")
    saved(replace(decoder(), vocab_size=40), tmp_path / "other")
    with pytest.raises(UserError, match="vocabularies of 40 and 31, tokenizers unknown and"):
        require_one_text(opened(tmp_path, "one", "other"))


def test_an_ensemble_has_one_kind_of_model(tmp_path):
    saved(decoder(), tmp_path / "one")
    saved(two_stacks(), tmp_path / "other")
    with pytest.raises(UserError, match="an ensemble has one kind of model"):
        _check_alike(opened(tmp_path, "one", "other"))
