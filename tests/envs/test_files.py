"""What tells a folder that changed from one that did not."""

import os
from pathlib import Path

from textrl_envs.files import stamp


def test_a_stamp_changes_with_names_contents_and_times_and_not_otherwise(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one")
    stamps = [stamp(tmp_path)]
    assert stamp(str(tmp_path)) == stamps[0]
    (tmp_path / "a").write_text("longer")
    stamps.append(stamp(tmp_path))
    os.utime(tmp_path / "a", ns=(1, 1))  # other content of the same size, written at another time
    stamps.append(stamp(tmp_path))
    (tmp_path / "a").rename(tmp_path / "b")
    stamps.append(stamp(tmp_path))
    assert len(set(stamps)) == len(stamps)


def test_what_is_no_folder_has_an_empty_stamp(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert stamp("organisation/model") == stamp(tmp_path / "file") == ()
