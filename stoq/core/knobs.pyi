KNOB_ROWS: tuple[tuple[str, str, int, int, int, str, str], ...]
STAT_ROWS: tuple[tuple[str, str], ...]
