#!/usr/bin/env python3
"""Makes the README's picture from a real run: an SVG of the terminal, as it was.

    docs/picture.py docs/run.svg cargo xtask vmtest -k 5.10,6.1,6.12,7.3 --warm --facts

Needs tmux, which is the terminal. The picture plays once, at the speed of the run, and stays at the end; readers who
asked for less motion, and viewers without animation, see the end only. Colours are those of the 16-colour palette.
"""

import re
import shlex
import subprocess
import sys
import time
from html import escape

COLUMNS, ROWS = 90, 40
# Of a character, in the picture's units. textLength below makes every font fit.
WIDTH, HEIGHT, SIZE, MARGIN = 7.8, 18, 13, 16
SOCKET = "vmtest-picture"
PROMPT = "$ "
# How often the terminal is looked at, in seconds.
INTERVAL = 0.25

BACKGROUND, BORDER, FOREGROUND, DIM = "#0d1117", "#3d444d", "#e6edf3", "#8b949e"
PALETTE = ["#484f58", "#ff7b72", "#3fb950", "#d29922", "#58a6ff", "#bc8cff", "#39c5cf", "#e6edf3"]


def tmux(*arguments):
    command = ["tmux", "-L", SOCKET, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def record(command):
    """The terminal's contents while the command runs: pairs of seconds and lines, the last when it has ended."""
    size = ["-x", str(COLUMNS), "-y", str(ROWS)]
    tmux("new-session", "-d", *size, "env", f"PS1={PROMPT}", "bash", "--norc", "--noprofile")
    try:
        while not screen():
            time.sleep(INTERVAL)
        tmux("send-keys", "-l", shlex.join(command))
        frames = [(0.0, screen())]
        tmux("send-keys", "Enter")
        begin = time.monotonic()
        while len(frames) < 3 or plain(frames[-1][1][-1]).strip() != PROMPT.strip():
            time.sleep(INTERVAL)
            frames.append((time.monotonic() - begin, screen()))
        return frames
    finally:
        tmux("kill-server")


def screen():
    return tmux("capture-pane", "-e", "-p").rstrip("\n").splitlines()


ESCAPE = re.compile(r"\x1b\[([0-9;]*)m")


def plain(line):
    return ESCAPE.sub("", line)


def runs(line):
    """Cuts a line where its style changes: column, text and attributes."""
    column, style = 0, {"fill": FOREGROUND, "weight": "normal"}
    pieces = ESCAPE.split(line)
    for index, piece in enumerate(pieces):
        if index % 2:
            apply(style, [int(code or 0) for code in piece.split(";")])
        else:
            if piece.strip():
                yield column, piece, dict(style)
            column += len(piece)


def apply(style, codes):
    """The part of SGR (ECMA-48) that the harness uses."""
    if codes[:2] in ([38, 5], [48, 5]):
        codes = [30 + codes[2]] if codes[0] == 38 and codes[2] < 8 else []
    for code in codes:
        if code in (0, 39):
            style["fill"] = FOREGROUND
        if code in (0, 22):
            style["weight"] = "normal"
        if code == 1:
            style["weight"] = "bold"
        if code == 2:
            style["fill"] = DIM
        if 30 <= code < 38:
            style["fill"] = PALETTE[code - 30]


def text(row, line):
    for column, piece, style in runs(line):
        start = len(piece) - len(piece.lstrip())
        piece = piece.strip()
        x, y = (column + start) * WIDTH, row * HEIGHT + SIZE
        attributes = f'x="{x:.1f}" y="{y}" textLength="{len(piece) * WIDTH:.1f}"'
        if style["fill"] != FOREGROUND:
            attributes += f' fill="{style["fill"]}"'
        if style["weight"] != "normal":
            attributes += ' font-weight="bold"'
        yield f"<text {attributes}>{escape(piece)}</text>"


def draw(frames, command):
    # The prompt that came back is no part of the run.
    last = frames[-1][1][:-1]
    frames = [*distinct(frames[:-1]), (frames[-1][0], last)]
    rows = max(len(lines) for _, lines in frames)
    width, height = COLUMNS * WIDTH, rows * HEIGHT
    total = frames[-1][0]
    end = -(len(frames) - 1) * width
    steps = "".join(
        f"{100 * at / total:.2f}%{{transform:translateX({-index * width:.1f}px)}}"
        for index, (at, _) in enumerate(frames)
    )
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width + 2 * MARGIN:.0f} {height + 2 * MARGIN}" '
        f'role="img" aria-labelledby="title">'
    )
    yield f"<!-- Made by docs/picture.py from a real run of {total:.1f} s on {time.strftime('%Y-%m-%d')}. -->"
    yield f'<title id="title">{escape(shlex.join(command))}</title>'
    yield (
        f"<style>text{{font:{SIZE}px ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;"
        f"white-space:pre;fill-opacity:1}}@keyframes run{{{steps}}}"
        f"#frames{{animation:run {total:.2f}s step-end both}}"
        "@media (prefers-reduced-motion:reduce){#frames{animation:none}}</style>"
    )
    yield f'<rect x=".5" y=".5" width="{width + 2 * MARGIN - 1:.0f}" height="{height + 2 * MARGIN - 1}" rx="8" '
    yield f'fill="{BACKGROUND}" stroke="{BORDER}"/>'
    yield f'<svg x="{MARGIN}" y="{MARGIN}" width="{width:.1f}" height="{height}" fill="{FOREGROUND}">'
    yield f'<g id="frames" transform="translate({end:.1f} 0)">'
    for index, (_, lines) in enumerate(frames):
        yield f'<g transform="translate({index * width:.1f} 0)">'
        for row, line in enumerate(lines):
            yield from text(row, line)
        yield "</g>"
    yield "</g></svg></svg>"


def distinct(frames):
    previous = None
    for at, lines in frames:
        if lines != previous:
            yield at, lines
        previous = lines


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    picture, command = sys.argv[1], sys.argv[2:]
    frames = record(command)
    with open(picture, "w", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in draw(frames, command))


if __name__ == "__main__":
    main()
