"""Stage: a language model learns from a teacher with another tokenizer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from halfpint.bundle import Bundle
from halfpint.distil.ranked_answers import RankedAnswers
from halfpint.distil.token_answers import kept_answers, need_causal, store_for
from halfpint.distil.token_logits import TokenLogits
from halfpint.engines.torch_lm import load_model
from halfpint.errors import HalfpintError, SettingError
from halfpint.models.sizes import CAUSAL
from halfpint.stage import Work
from halfpint.tokenizers.load import open_tokenizer

_AT_ONCE = 256
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Universal(TokenLogits):
    """Bring the student's sorted probabilities near its teacher's: how sure to be, and between how many tokens.

    Which tokens they are is told by the text itself, so its share of the loss is large. The distance is the sum of the
    differences between both sorted lists, the Wasserstein distance where all tokens are equally far from each other.
    Source: Boizard et al. 2024, "Towards Cross-Tokenizer Distillation: the Universal Logit Distillation Loss for LLMs",
    section 3.2. There the n-th token of the one is compared with the n-th of the other; here those places are, where
    both have read the same characters. Of each list the `draws` largest count.
    """

    label_share: float = 0.5
    draws: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.cached:
            raise HalfpintError(f"{self.use}: cached", wanted="true: the teacher's lists are kept", got="false")

    def _teacher(self, bundle: Bundle, some: Sequence[str]) -> Bundle:
        """The one teacher, of any tokenizer that tells where in a text a token ends."""
        found = self.teachers(bundle, "", self.use)
        if len(found) != 1:
            raise SettingError(f"{self.use}: teacher", wanted="one", got=str(len(found)))
        need_causal(found[0], self.use)
        return found[0]

    def _keeps(self, learner: Any, learn: Any, work: Work) -> bool:
        """The teacher has tokens of its own, which are read beforehand."""
        return True

    def _kept(self, bundle: Bundle, teacher: Bundle, learn: Any, work: Work) -> Any:
        """The teacher's lists, and which of them stands for which place of the student's store."""
        asked = RankedAnswers(
            teacher=str(teacher.path), draws=self.draws, temperature=self.temperature, precision=self.precision
        )
        inner = replace(work, scratch=work.scratch / "teacher")
        store = store_for(teacher, load_model(teacher.path, CAUSAL), inner)
        kept = kept_answers(asked, store, inner)
        ranked = np.load(kept.path / "ranked.npy", mmap_mode="r", allow_pickle=False)
        corpus = work.documents
        readers = [open_tokenizer(one.path) for one in (bundle, teacher)]
        for reader in readers:
            reader.encode_special_tokens = True  # as text is text where stores are written
        places = aligned(corpus.train, readers, (learn.offsets, store.offsets))
        share = float((places >= 0).mean())
        work.log.say(f"  after {share:.0%} of the tokens the teacher's end too", kind="aligned", share=share)
        if share == 0:
            raise HalfpintError(
                f"{self.use}: teacher", wanted="a tokenizer that ends tokens where the student's does", got="none alike"
            )
        return ranked, places

    def _from_kept(self, logits: Any, draws: Any, places: Any) -> Any:
        """The distance of the lists at the places that have one, as if all had."""
        import torch

        ranked, align = draws
        theirs = align[places]
        known = np.flatnonzero(theirs >= 0)
        if not len(known):
            return logits.sum() * 0.0
        told = torch.from_numpy(np.asarray(ranked[theirs[known]], dtype=np.float32)).to(logits.device)
        ours = torch.softmax(logits[torch.from_numpy(known).to(logits.device)] / self.temperature, -1)
        count = min(told.shape[1], ours.shape[1])
        apart = (ours.topk(count).values - told[:, :count]).abs().sum()
        return apart * (len(places) / len(known))


def aligned(documents: Iterable[str], readers: Sequence[Any], offsets: Sequence[Ints]) -> Ints:
    """For each token of the first store the second's token that comes after the same characters; -1 where none does.

    Args:
        documents: what both stores hold; readers: their tokenizers; offsets: where their documents begin.
    """
    found = np.full(int(offsets[0][-1]), -1, dtype=np.int64)
    texts, number = iter(documents), 0
    while some := list(islice(texts, _AT_ONCE)):
        for pair in zip(*(reader.encode_batch(some) for reader in readers), strict=True):
            # Of several tokens that end at one character (parts of a letter) the last has read it all.
            ends = [{end: place for place, (_, end) in enumerate(encoding.offsets)} for encoding in pair]
            begins = [int(store[number]) for store in offsets]
            sizes = [int(store[number + 1]) - begin for store, begin in zip(offsets, begins, strict=True)]
            for end, place in ends[0].items():
                other = ends[1].get(end, sizes[1])
                if place + 1 < sizes[0] and other + 1 < sizes[1]:
                    found[begins[0] + place + 1] = begins[1] + other + 1
            number += 1
    return found
