"""Draw the pictures of the documentation: ``python docs/diagrams/draw.py``.

Every picture has a background of its own, so that it is legible wherever it is shown, and follows
the reader's preference for light or dark.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

FOLDER = Path(__file__).parent
LEFT, MIDDLE, RIGHT = "start", "middle", "end"

LIGHT = {
    "back": "#ffffff", "ink": "#1f2328", "soft": "#59636e", "line": "#8c959f", "box": "#f6f8fa",
    "gate": "#0969da", "gate-box": "#ddf4ff", "good": "#1a7f37", "good-box": "#dafbe1",
    "bad": "#cf222e", "bad-box": "#ffebe9",
}  # fmt: skip
DARK = {
    "back": "#15191f", "ink": "#e6edf3", "soft": "#9ea7b3", "line": "#6e7681", "box": "#222832",
    "gate": "#58a6ff", "gate-box": "#12304f", "good": "#3fb950", "good-box": "#12351d",
    "bad": "#ff7b72", "bad-box": "#481a1d",
}  # fmt: skip

SHAPES = """
text { font: 15px system-ui, "Segoe UI", "DejaVu Sans", sans-serif }
.small { font-size: 13px }
.title { font-size: 16px; font-weight: 600 }
.code { font: 13px ui-monospace, "DejaVu Sans Mono", monospace }
.gate, .wait, .way { stroke-width: 2 }
.way, .time { fill: none }
.note { font-size: 13px; paint-order: stroke; stroke-width: 8px }
.wait { stroke-dasharray: 5 4 }
.way { marker-end: url(#tip) }
"""


def colours(of: dict[str, str]) -> str:
    """The rules that give every shape its colours."""
    boxes = "".join(
        f".{kind} {{ fill: {of[kind + '-box']}; stroke: {of[kind]} }}\n"
        for kind in ("gate", "good", "bad")
    )
    return f"""
text {{ fill: {of["ink"]} }}
.small {{ fill: {of["soft"]} }}
.back {{ fill: {of["back"]}; stroke: {of["line"]} }}
.box {{ fill: {of["box"]}; stroke: {of["line"]} }}
.wait {{ fill: {of["back"]}; stroke: {of["gate"]} }}
.note {{ fill: {of["soft"]}; stroke: {of["back"]} }}
.way {{ stroke: {of["soft"]} }}
.time {{ stroke: {of["line"]} }}
.tip {{ fill: {of["soft"]} }}
{boxes}"""


STYLE = f"{SHAPES}{colours(LIGHT)}@media (prefers-color-scheme: dark) {{{colours(DARK)}}}\n"


class Picture:
    """A picture that grows; coordinates are pixels at the size the page shows it."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.width, self.height, self.title = width, height, title
        self.parts: list[str] = []

    def text(self, x: float, y: float, line: str, kind: str = "", anchor: str = MIDDLE) -> None:
        attribute = f' class="{kind}"' if kind else ""
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{attribute}>{escape(line)}</text>'
        )

    def box(
        self, x: float, y: float, width: float, height: float, *lines: str, kind: str = "box"
    ) -> None:
        """A box with its first line as its name and the others small below it."""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="7" '
            f'class="{kind}"/>'
        )
        first = y + height / 2 + 5 - 9 * (len(lines) - 1)
        for number, line in enumerate(lines):
            self.text(x + width / 2, first + 18 * number, line, "small" if number else "")

    def way(self, *points: tuple[float, float]) -> None:
        path = " L".join(f"{x:g} {y:g}" for x, y in points)
        self.parts.append(f'<path d="M{path}" class="way"/>')

    def line(self, x1: float, y1: float, x2: float, y2: float) -> None:
        self.parts.append(f'<path d="M{x1:g} {y1:g} L{x2:g} {y2:g}" class="time"/>')

    def write(self, name: str) -> None:
        size = (
            f'viewBox="0 0 {self.width} {self.height}" width="{self.width}" height="{self.height}"'
        )
        FOLDER.joinpath(name).write_text(
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">\n'
            f"<title>{escape(self.title)}</title>\n<style>{STYLE}</style>\n"
            '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" '
            'markerHeight="7" orient="auto"><path d="M0 0 L10 5 L0 10 z" class="tip"/></marker>'
            "</defs>\n"
            f'<rect x="0.5" y="0.5" width="{self.width - 1}" height="{self.height - 1}" rx="10" '
            'class="back"/>\n' + "\n".join(self.parts) + "\n</svg>\n",
            encoding="utf-8",
        )


def the_way_of_an_event() -> None:
    p = Picture(
        720, 400, "The way of an event: in through the input gate, out through the output gate"
    )
    top, low, tall = 40, 175, 74
    p.box(24, top, 84, tall, "caller")
    p.box(164, top, 130, tall, "input gate", "one step at a time", kind="gate")
    p.box(338, top, 150, tall, "your method", "runs step by step")
    p.box(532, top, 164, tall, "ctx.storage", "SQL and key-value")
    p.way((108, top + 37), (162, top + 37))
    p.way((294, top + 37), (336, top + 37))
    p.way((488, top + 37), (530, top + 37))
    p.text(135, top + 24, "call", "small")

    p.way((614, top + tall), (614, low - 2))
    p.text(606, top + tall + 35, "end of the step", "small", RIGHT)

    p.box(532, low, 164, tall, "commit", "survives a crash", "of the process")
    p.box(338, low, 150, tall, "confirm", "one fdatasync", "for all who wait")
    p.box(164, low, 130, tall, "output gate", "withholds results", kind="gate")
    p.box(24, low, 84, tall, "caller")
    p.way((532, low + 37), (490, low + 37))
    p.way((338, low + 37), (296, low + 37))
    p.way((164, low + 37), (110, low + 37))
    p.text(136, low + 24, "result", "small")
    # The result itself goes from the method straight to the gate, and waits there.
    p.way((390, top + tall), (390, low - 24), (229, low - 24), (229, low - 2))
    p.text(310, low - 32, "result", "small")

    p.box(532, 310, 164, 66, "commit log", "bookmarks, restore", kind="good")
    p.way((614, low + tall), (614, 308))
    p.text(24, 332, "Left of the gates: the outside. Right of them: the object.", "small", LEFT)
    p.text(24, 352, "A result leaves when everything it could have seen", "small", LEFT)
    p.text(24, 372, "is confirmed, that is, on stable storage.", "small", LEFT)
    p.write("event.svg")


def interleaving_prevented() -> None:
    p = Picture(720, 452, "Two calls that increment a counter: with and without an input gate")

    def step(x: float, y: float, text: str, kind: str = "box", width: float = 96) -> None:
        p.parts.append(
            f'<rect x="{x:g}" y="{y - 16:g}" width="{width:g}" height="32" rx="6" class="{kind}"/>'
        )
        p.text(x + width / 2, y + 5, text, "code")

    def lanes(y: float, title: str) -> None:
        p.text(24, y, title, "title", LEFT)
        for number, name in enumerate(("call A", "call B")):
            p.text(24, y + 43 + 46 * number, name, "", LEFT)
            p.line(84, y + 38 + 46 * number, 696, y + 38 + 46 * number)

    lanes(34, "A database and no gate: both read 7, one increment is lost")
    step(100, 72, "get → 7")
    step(216, 118, "get → 7")
    step(332, 72, "put 8")
    step(448, 118, "put 8", "bad")
    p.text(560, 123, "should be 9", "note", LEFT)

    lanes(184, "An object: B waits at the input gate until A has put what it got")
    step(100, 222, "get → 7")
    step(216, 222, "put 8")
    step(100, 268, "waits", "wait", 212)
    step(332, 268, "get → 8")
    step(448, 268, "put 9", "good")

    lanes(334, "A waits for the network, not for storage: B may run meanwhile")
    step(100, 372, "get → 7")
    step(216, 372, "await fetch(…)", "wait", 328)
    step(560, 372, "put …", "box", 96)
    step(216, 418, "get → 7")
    step(332, 418, "put 8")
    p.text(442, 423, "block_concurrency_while() keeps B out", "note", LEFT)
    p.write("interleaving.svg")


def main() -> None:
    the_way_of_an_event()
    interleaving_prevented()


if __name__ == "__main__":
    main()
