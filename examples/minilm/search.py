"""Rank a few sentences by how near they are in meaning to a query.

Usage: python search.py --backend numpy "How do plants make food?"
"""

import argparse

import minilm
import numpy as np

SENTENCES = (
    "Photosynthesis turns sunlight, water and carbon dioxide into sugar and oxygen.",
    "The last train to the coast leaves at a quarter past eleven.",
    "Knead the dough for ten minutes, then let it rest under a cloth until it has doubled.",
    "A violin has four strings.",
    "Bees carry pollen from flower to flower, and without them many fruit trees bear little.",
    "The central bank left interest rates unchanged for the third time this year.",
    "Water boils at a lower temperature in the mountains, because the air pressure is lower.",
    "Sharpen the knife before you cut the tomatoes.",
    (
        "The court ruled that the landlord must return the deposit, with interest, within "
        "thirty days of the end of the lease, unless there is damage beyond ordinary wear."
    ),
    "It rained all night.",
    "The orchestra tuned to the oboe and waited for the conductor.",
    "To undo the most recent commit but keep your changes, move the branch back by one.",
)


def main() -> None:
    """Parse the command line, embed everything in one ragged batch, print the ranking."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("query", help="a sentence, a question or a few words")
    parser.add_argument(
        "--backend", default="numpy", help="reference, numpy, torch or any installed one"
    )
    arguments = parser.parse_args()
    sentences = [arguments.query, *SENTENCES]
    vectors = minilm.embed(minilm.load(), sentences, backend=arguments.backend)
    scores = vectors[1:] @ vectors[0]
    for n in np.argsort(-scores):
        print(f"{scores[n]:6.3f}  {SENTENCES[n]}")


if __name__ == "__main__":
    main()
