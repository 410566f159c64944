"""L0: bytes <-> structs. Varints, headers, frame codecs, transport parameters."""
