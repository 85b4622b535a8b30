"""Result files: refused before the work, never half-written."""

import os

import pytest

import mtd_lens
from probes import files


def test_output_paths(task, tmp_path):
    card = mtd_lens.score(mtd_lens.construct(task, 4.0), n_sequences=64)
    (tmp_path / "file").write_text("kept")
    for path, message in (
        (tmp_path / "missing" / "a.json", "no folder"),
        (tmp_path, "it is a folder"),
        (tmp_path / "file" / "a.json", "no folder"),
    ):
        for write in (card.to_json, card.to_html):
            with pytest.raises(mtd_lens.OutputPathError, match=message):
                write(path)
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.usefixtures("_no_type_checker")
def test_two_outputs_cannot_share_a_path(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "a")
    with pytest.raises(mtd_lens.OutputPathError, match="same path"):
        files.check_output_paths(tmp_path / "a", None, tmp_path / "link")
    for bad in (5, "a\0b"):
        with pytest.raises(mtd_lens.OutputPathError, match="cannot write"):
            files.check_output_path(bad)


def test_writing_follows_links_keeps_modes_and_feeds_pipes(tmp_path):
    target, link, pipe = (tmp_path / name for name in ("target", "link", "pipe"))
    target.write_text("old")
    target.chmod(0o600)
    link.symlink_to(target)
    files.write_text(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert target.stat().st_mode & 0o777 == 0o600
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    files.write_text(pipe, "through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    assert pipe.is_fifo()


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    target = tmp_path / "report.json"
    target.write_text("old")

    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(mtd_lens.OutputPathError, match="disk full"):
        files.write_text(target, "new")
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
