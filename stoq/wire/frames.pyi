# C-level only: stoq.wire.frame_codec is the Python face.
