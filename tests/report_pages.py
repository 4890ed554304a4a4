"""Run folders made by hand, and the pages that are written from them, read strictly."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

SIMULATED = "simulated great-ape demo genomes (not real sequence)"
VOID_TAGS = {"meta", "br", "hr", "img", "link", "input"}

CONFIG = {
    "model": {"n_layers": 4, "d_model": 128, "mixer": {"kind": "mamba", "d_state": 16}},
    "train": {"max_steps": 400, "betas": [0.9, 0.95], "softmask_weight": None},
}
MANIFEST = {
    "data": {"description": SIMULATED, "files": [{"name": "human.fa", "sha256": "ab12" * 16}]},
    "parameters": 471_808,
    "ended": {"at": "2026-11-22T10:13:00+00:00", "step": 400, "stopped_by": None},
}


def draw_nothing(size: tuple[int, int], salt: str, figure: Any) -> str:
    """Stands in for svg._drawn in tests of words: figures take most of a page's time."""
    return '<svg xmlns="http://www.w3.org/2000/svg"><g/></svg>'


class Page(HTMLParser):
    """Reads a page strictly: every tag is closed in its turn, every id is given once. Keeps its
    words and attributes."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open_tags: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self.feed(source)
        self.close()
        assert self.open_tags == []
        ids = [value for name, value in self.attributes if name == "id"]
        assert len(ids) == len(set(ids))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID_TAGS:
            self.open_tags.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open_tags.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open_tags and self.open_tags[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def assert_nothing_is_fetched(self) -> None:
        """No script, no style sheet or image of its own, no link but into the page."""
        assert not {"script", "link", "img", "image", "iframe", "a"} & set(self.tags)
        links = {value for name, value in self.attributes if name in ("src", "href")}
        assert all(value and value.startswith("#") for value in links)


def make_run(folder: Path, rows: list[dict[str, Any]] | None = None, **files: Any) -> Path:
    """A run folder with metrics.jsonl (if rows are given) and the named JSON files."""
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    if rows is not None:
        lines = (json.dumps(one) + "\n" for one in rows)
        (folder / "metrics.jsonl").write_text("".join(lines))
    return folder
