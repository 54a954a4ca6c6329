"""One JSON-RPC message, without I/O: strict decoding, canonical form and digests, era, replies."""
