"""Colours are meanings, in 16 and in 256 colours; each stands beside a word or a sign, never alone."""

# name, 16 colours, monochrome, 256 colours
_MEANINGS: tuple[tuple[str, tuple[str, str], str, tuple[str, str]], ...] = (
    ("well", ("black", "dark green"), "standout", ("h16", "h71")),
    ("fault", ("white,bold", "dark red"), "standout,bold", ("h231,bold", "h160")),
    ("warn", ("yellow", "default"), "bold", ("h214", "default")),
    ("bad", ("light red", "default"), "bold", ("h203", "default")),
    ("good", ("light green", "default"), "default", ("h114", "default")),
    ("dim", ("dark gray", "default"), "default", ("h244", "default")),
    ("heading", ("white,bold", "default"), "bold", ("h255,bold", "default")),
    ("title", ("white,bold", "dark blue"), "standout", ("h231,bold", "h24")),
    ("focus", ("black", "light gray"), "standout", ("h16", "h252")),
    ("mark", ("yellow,bold", "default"), "bold", ("h220,bold", "default")),
    ("spark", ("light cyan", "default"), "default", ("h80", "default")),
    ("keys", ("black", "light gray"), "standout", ("h16", "h250")),
    ("ask", ("black", "yellow"), "standout", ("h16", "h220")),
)
PALETTE = [(name, *low, mono, *high) for name, low, mono, high in _MEANINGS]
