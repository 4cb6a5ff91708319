"""The judge: says whether a backend means what the specification means.

Cases are data, the oracle is the specification in float64, and the error bound is derived
from the arithmetic that a backend declares. `attnref conform NAME` runs it.
"""

SUITE_VERSION = "2026.11"
"""Names the set of cases; a report says which one it was made with."""
