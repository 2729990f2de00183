"""Finding, preparing and describing data sets by name: what holds for all of them, and what happens when it fails."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tensorflow_datasets as tfds

from research.core.errors import UserError
from research.data import catalogue, embedded

ROOT = Path(__file__).parents[2]
EMBEDDED = ["adult", "asterisk_prompts", "austen", "bible_en_es", "fashion_mnist", "sentences", "twemoji"]
LOAD = "import sys; from research.data import catalogue; catalogue.load(sys.argv[1])"


class Toy(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A stranger's builder: three records."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({"text": tfds.features.Text()}))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        yield from ((key, {"text": f"record {key}"}) for key in range(3))


def start_load(name: str, cache: Path) -> subprocess.Popen:
    """Loads a data set in another process whose cache is `cache`."""
    environment = os.environ | {"ONTOGENY_CACHE": str(cache), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", LOAD, name], env=environment, stderr=subprocess.PIPE, text=True)


def copy_data_set(name: str, folder: Path) -> Path:
    """Copies an embedded data set's folder to where it may be damaged."""
    return shutil.copytree(embedded.DATASETS / name, folder / name)


def files_below(folder: Path) -> dict[Path, int]:
    """Returns {file: time of change in nanoseconds}, locks left out."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def test_names_are_the_folders():
    """Every folder with a builder is a data set, without any list to keep."""
    assert embedded.names() == EMBEDDED


def test_cache_folder_follows_the_environment(monkeypatch):
    """ONTOGENY_CACHE wins, then XDG_CACHE_HOME, then ~/.cache."""
    monkeypatch.setenv("HOME", "/home/jane")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("ONTOGENY_CACHE", raising=False)
    assert catalogue.cache_folder() == Path("/home/jane/.cache/ontogeny/tfds")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/xdg")
    assert catalogue.cache_folder() == Path("/var/xdg/ontogeny/tfds")
    monkeypatch.setenv("ONTOGENY_CACHE", "/scratch")
    assert catalogue.cache_folder() == Path("/scratch/tfds")


def test_second_load_prepares_nothing(tmp_path, capfd):
    """Data are prepared once: loading again leaves every file in the cache as it is; neither prints anything."""
    first = catalogue.load("austen", cache=tmp_path)
    prepared = files_below(tmp_path)
    second = catalogue.load("austen", cache=tmp_path)
    assert prepared and files_below(tmp_path) == prepared
    assert second["train"][268] == first["train"][268]
    assert capfd.readouterr() == ("", "")


def test_records_are_read_at_once_as_one_by_one(tmp_path):
    """In the order asked for; none, or records that know only positions, are fine as well."""
    records = catalogue.load("austen", cache=tmp_path)["train"]
    assert catalogue.read(records, [5, 2]) == [records[5], records[2]]
    assert catalogue.read(records, []) == []
    assert catalogue.read("abc", range(2)) == ["a", "b"]


def test_two_processes_may_prepare_at_once(tmp_path):
    """Two processes that load an unprepared data set at the same time both succeed and prepare it once."""
    processes = [start_load("twemoji", tmp_path) for _ in range(2)]
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    assert len(list(tmp_path.rglob("dataset_info.json"))) == 1


def test_preparing_survives_a_kill(tmp_path):
    """A process killed half way leaves nothing that a later load takes for the data, and no waste after it."""
    process = start_load("twemoji", tmp_path)
    while not list(tmp_path.rglob("incomplete.*")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert list(tmp_path.rglob("incomplete.*")) and not list(tmp_path.rglob("dataset_info.json"))
    assert len(catalogue.load("twemoji", cache=tmp_path / "tfds")["train"]) == 1_911
    assert not list(tmp_path.rglob("incomplete.*"))


def test_edited_data_set_is_prepared_anew(tmp_path, monkeypatch):
    """A change in a data set's folder, here its README, never meets data prepared before the change."""
    folder = copy_data_set("austen", tmp_path / "datasets")
    monkeypatch.setattr(embedded, "DATASETS", tmp_path / "datasets")
    catalogue.load("austen", cache=tmp_path / "cache")
    (folder / "README.md").write_text("Changed.", encoding="utf-8")
    catalogue.load("austen", cache=tmp_path / "cache")
    assert len(list((tmp_path / "cache").rglob("dataset_info.json"))) == 2


def test_damaged_raw_file_is_named(tmp_path, monkeypatch):
    """One flipped bit in a raw file stops loading with the file's name."""
    raw = copy_data_set("sentences", tmp_path) / "raw" / "sentences.tsv.gz"
    content = bytearray(raw.read_bytes())
    content[len(content) // 2] ^= 1
    raw.write_bytes(content)
    monkeypatch.setattr(embedded, "DATASETS", tmp_path)
    with pytest.raises(UserError, match=r"sentences\.tsv\.gz is damaged or changed"):
        catalogue.load("sentences", cache=tmp_path / "cache")


def test_missing_raw_file_is_named(tmp_path):
    """A raw file that is listed but not there is named."""
    folder = copy_data_set("austen", tmp_path)
    (folder / "raw" / "emma.txt.gz").unlink()
    with pytest.raises(UserError, match=r"emma\.txt\.gz is missing"):
        embedded.check_raw_files(folder)


def test_unknown_name_gets_the_nearest():
    """A misspelt name is answered by the right one."""
    with pytest.raises(UserError, match="did you mean austen"):
        catalogue.load("austn")


def test_unknown_configuration_gets_the_list(tmp_path):
    """A configuration that does not exist is answered by those that do."""
    with pytest.raises(UserError, match=r"no configuration 'max'; it has \['full', 'mini'\]"):
        catalogue.load("fashion_mnist/max", cache=tmp_path)
    with pytest.raises(UserError, match="no configuration 'x'; it has none: use the name alone"):
        catalogue.load("austen/x", cache=tmp_path)


def test_unusable_cache_folder_is_named(tmp_path):
    """A cache that cannot be written is answered by how to choose another."""
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="set ONTOGENY_CACHE to another folder"):
        catalogue.load("austen", cache=tmp_path / "file")


def test_data_prepared_by_tfds_load(tmp_path):
    """Whatever TFDS prepared as ArrayRecord loads by its name, without its builder's code."""
    Toy(data_dir=tmp_path).download_and_prepare(file_format="array_record")
    assert sorted(record["text"] for record in catalogue.load("toy", cache=tmp_path)["train"]) == [
        b"record 0",
        b"record 1",
        b"record 2",
    ]
    assert catalogue.info("toy", cache=tmp_path)["splits"] == {"train": 3}


def test_format_without_random_access_is_refused(tmp_path):
    """Data prepared as TFRecord are refused with the command that prepares them rightly."""
    builder = Toy(data_dir=tmp_path)
    builder.download_and_prepare(file_format="array_record")
    record = builder.data_path / "dataset_info.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"fileFormat": "tfrecord"}))
    with pytest.raises(UserError, match="tfds build toy --file_format=array_record"):
        catalogue.load("toy", cache=tmp_path)


def test_catalogue_set_that_cannot_be_prepared_says_what_to_do(tmp_path, monkeypatch):
    """A TFDS data set whose download fails is answered by the command and the variable to set."""

    def fail(*arguments, **options):
        raise OSError("no network")

    monkeypatch.setattr(tfds.download.DownloadManager, "download_and_extract", fail)
    with pytest.raises(UserError, match=r"no network.*tfds build kmnist .*TFDS_DATA_DIR"):
        catalogue.load("kmnist", cache=tmp_path)


def test_info_is_json_with_source_licence_and_digest(tmp_path):
    """What the run's record says about a data set survives JSON and pins every raw file."""
    facts = catalogue.info("austen", cache=tmp_path)
    assert json.loads(json.dumps(facts)) == facts
    assert facts["name"] == "austen" and facts["splits"] == {"train": 269}
    assert "public domain" in facts["licence"] and "janeaustenr" in facts["source"] and "Silge" in facts["citation"]
    listed = (embedded.DATASETS / "austen" / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    assert facts["files"] == {name: digest for digest, name in (line.split("  ") for line in listed)}
    assert len(facts["digest"]) == 64
