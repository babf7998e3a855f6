"""The pages of the documentation and the fenced code blocks in them."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = [
    str(page.relative_to(ROOT))
    for place in (".", "docs", "examples", "recipes")
    for page in sorted((ROOT / place).glob("*.md" if place == "." else "**/*.md"))
]


class Block(NamedTuple):
    """A fenced block; `language` is everything that follows the opening fence."""

    page: str
    line: int
    language: str
    code: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(page: str) -> list[Block]:
    blocks = []
    opened: tuple[int, str, str] | None = None
    code: list[str] = []
    for number, line in enumerate((ROOT / page).read_text().splitlines(keepends=True), start=1):
        fence = re.match(r" *(```+|~~~+) *(.*)$", line)
        if opened is None and fence is not None:
            opened, code = (number, fence[1], fence[2].strip()), []
        elif opened is not None and line.strip() == opened[1]:
            blocks.append(Block(page, opened[0], opened[2], "".join(code)))
            opened = None
        else:
            code.append(line)
    assert opened is None, f"{page}:{opened}: a block is not closed"
    return blocks


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def blocks_in(language: str) -> list[Block]:
    found = [block for block in BLOCKS if block.language == language]
    assert found, f"no page has a block in {language}"
    return found
