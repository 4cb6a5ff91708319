"""What all tests share: determinism, and shape annotations that are checked."""

from hypothesis import settings
from jaxtyping import install_import_hook

settings.register_profile("attnref", derandomize=True, deadline=None, max_examples=30)
settings.load_profile("attnref")

# Before anything imports the specification: its signatures state shapes, and only under
# this hook does somebody check them. `spec/test_shapes.py` proves that it took effect.
install_import_hook("attnref.spec", "beartype.beartype")
# Pages of models take backends, which no type checker can tell at run time; what they are
# built of takes arrays alone.
for part in ("arithmetic", "blocks", "inputs", "positions"):
    install_import_hook(f"attnref.models.{part}", "beartype.beartype")
