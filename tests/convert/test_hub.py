"""Names on the hub: what is fetched, and one line for everything that can go wrong.

A fake download stands in the way of the network; the last tests have the hub's own library read its
cache.
"""

import hashlib
import json
import sys
from fnmatch import fnmatch

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants, errors

import turnout
from tests.convert.cases import ours, random_model, saved, text, theirs
from tests.convert.test_families import ANSWER
from turnout.cli.main import main
from turnout.config.errors import UserError
from turnout.convert.hub import located

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """A repository, and the cache that its files come to as the library lays it out."""

    def __init__(self, repository, cache):
        self.repository, self.cache, self.calls = repository, cache, []
        self.root = cache / "models--org--name"
        self.snapshot = self.root / "snapshots" / COMMIT

    def download(self, repo_id, *, revision=None, allow_patterns):
        self.calls.append((repo_id, revision, allow_patterns))
        (self.root / "blobs").mkdir(parents=True, exist_ok=True)
        self.snapshot.mkdir(parents=True, exist_ok=True)
        for path in sorted(self.repository.rglob("*")):
            name = str(path.relative_to(self.repository))
            if not path.is_file() or not any(fnmatch(name, each) for each in allow_patterns):
                continue
            content = path.read_bytes()
            blob = self.root / "blobs" / hashlib.sha256(content).hexdigest()
            blob.write_bytes(content)
            link = self.snapshot / name
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                link.symlink_to(blob)
        return str(self.snapshot)

    @property
    def fetched(self):
        return {path.name for path in self.snapshot.iterdir()}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    folder = saved("deepseek_v2, groups", tmp_path / "repository", max_shard_size="8KB")
    (folder / "tokenizer_config.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"runs code")
    (folder / "modeling_deepseek.py").write_text("raise SystemExit")
    (folder / "consolidated.safetensors").write_bytes(b"the same again")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.safetensors").write_bytes(b"another format")
    found = Hub(folder, tmp_path / "cache")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", found.download)
    monkeypatch.chdir(tmp_path)
    return found


def test_a_model_by_its_name(hub):
    model = turnout.load("org/name")
    ids, mask = text([9, 4, 6], 9, "left")
    expected = theirs(random_model("deepseek_v2, groups"), ids, mask, ANSWER)
    assert float((ours(model, ids, mask, ANSWER) - expected)[mask].abs().max()) <= 1e-4


def test_what_is_fetched(hub):
    assert located("org/name") == hub.snapshot
    index = json.loads((hub.repository / "model.safetensors.index.json").read_text())
    shards = sorted(set(index["weight_map"].values()))
    assert len(shards) > 2
    small = {"config.json", "model.safetensors.index.json", "tokenizer_config.json"}
    assert hub.fetched == {*shards, *small, "generation_config.json"}
    # First what says which files there are; then those, of the very commit that said so.
    first, second = hub.calls
    assert first[:2] == ("org/name", None) and second == ("org/name", COMMIT, shards)
    assert not any("*" in pattern for call in hub.calls for pattern in call[2])


def test_a_revision(hub):
    located("org/name@refs/pr/1")
    assert [call[1] for call in hub.calls] == ["refs/pr/1", COMMIT]


def test_the_command(hub, capsys):
    assert main(["convert", "org/name", "run", "--verify"]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[0] == f"org/name: in {hub.snapshot}"
    assert "same most probable token  100.00%" in said
    assert main(["convert", "run", "back"]) == 0
    weights = [path.read_bytes() for path in sorted(hub.repository.glob("model-*.safetensors"))]
    assert sum(map(len, weights)) > 10_000
    loaded, direct = turnout.load("back"), turnout.load("org/name")
    assert all(
        torch.equal(one, other)
        for one, other in zip(loaded.parameters(), direct.parameters(), strict=True)
    )


def test_a_folder_of_that_name_comes_first(hub, tmp_path):
    (tmp_path / "org").mkdir()
    saved("mixtral", tmp_path / "org" / "name")
    assert located("org/name") == located(tmp_path / "org" / "name").relative_to(tmp_path)
    assert turnout.load("org/name").config.moe.num_experts == 3
    assert hub.calls == []


@pytest.mark.parametrize(
    "name", ["name", "/org/name", "./org/name", "../org/name", "a/b/c", "org/", "~/x", "a b/c", ""]
)
def test_what_is_no_name_is_a_path(name, hub):
    with pytest.raises(UserError, match=r"no such run folder|is no run folder|holds no|no such"):
        turnout.load(name)
    assert hub.calls == []


def raising(kind, message="Not there.\nRequest: 7"):
    class Answer:
        status_code, headers, request = 404, {}, None

    def download(repo_id, *, revision=None, allow_patterns):
        if issubclass(kind, errors.HfHubHTTPError):
            raise kind(message, response=Answer())
        raise kind(message)

    return download


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (errors.RepositoryNotFoundError, "and the hub has no such model, or it is private"),
        (errors.GatedRepoError, "and it is gated on the hub: ask for access at https://hugg"),
        (errors.RevisionNotFoundError, "and the hub's model has no branch, tag or commit v9"),
        (errors.LocalEntryNotFoundError, "of that name cannot be fetched: Not there"),
        (ConnectionError, "of that name cannot be fetched: Not there"),
    ],
)
def test_why_nothing_came(kind, message, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", raising(kind))
    assert main(["convert", "org/name@v9", "run"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: org/name: no such folder, ") and message in error
    assert error.count("\n") == 1 and not (tmp_path / "run").exists()


def test_without_the_library(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"which is not installed: pip install 'turnout\[hub\]'"):
        turnout.load("org/name")


def test_pickles_alone_are_not_fetched(hub):
    for path in hub.repository.glob("model*"):
        path.unlink()
    with pytest.raises(UserError, match=r"org/name: has no model\.safetensors or model\.safet"):
        turnout.load("org/name")
    assert not any(name.endswith((".bin", ".py")) for name in hub.fetched)


def test_an_index_cannot_ask_for_other_files(hub):
    path = hub.repository / "model.safetensors.index.json"
    for name in ("*", "pytorch_model.bin", "../x.safetensors", "m[a-z].safetensors"):
        path.write_text(json.dumps({"weight_map": {"lm_head.weight": name}}))
        (hub.snapshot / path.name).unlink(missing_ok=True)
        with pytest.raises(UserError, match=r"must be NAME\.safetensors"):
            located("org/name")
        assert "pytorch_model.bin" not in hub.fetched


def test_no_model_of_transformers(hub):
    (hub.repository / "config.json").unlink()
    with pytest.raises(UserError, match=r"org/name: has no config\.json on the hub"):
        located("org/name")


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """The library itself, told that there is no network, with a cache of its own."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_library_itself_without_a_network(offline):
    with pytest.raises(UserError, match=r"org/name: no such folder, .* cannot be fetched: .*cache"):
        located("org/name")


def test_the_library_itself_with_a_full_cache(offline):
    folder = saved("mixtral", offline / "repository")
    kept = Hub(folder, offline / "cache")
    kept.download("org/name", allow_patterns=["*"])
    (kept.root / "refs").mkdir()
    (kept.root / "refs" / "main").write_text(COMMIT)
    assert located("org/name") == kept.snapshot
    assert turnout.load("org/name").config.moe.num_experts == 3
