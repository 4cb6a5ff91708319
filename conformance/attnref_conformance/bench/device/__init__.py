"""The command lines from before there was one suite; see `attnref_conformance.bench`."""
