"""English words that hold a sentence together and seldom decide an answer: a closed list of our own. No behaviour.

Articles, pronouns, auxiliaries, common prepositions and conjunctions, case-folded, with the straight apostrophe. Left
out on purpose, because they do decide answers: negations (no, not, never, nor, without, any contraction in n't),
quantities and comparisons (all, any, few, more, most, less, only, than, too, very), contrasts (but, although, however),
and prepositions of place, time and exclusion (above, under, before, after, against, except).
"""

from __future__ import annotations

__all__ = ["STOP_WORDS"]

_ARTICLES = "a an the"
_PRONOUNS = """
i me my mine myself you your yours yourself yourselves he him his himself she her hers herself it its itself
we us our ours ourselves they them their theirs themselves this that these those there who whom whose which what
"""
_AUXILIARIES = """
am is are was were be been being do does did doing have has had having
will would shall should can could may might must
"""
_PREPOSITIONS = "about as at by for from in into of on onto to toward towards upon with"
_CONJUNCTIONS = "and because if or since so when where whether while"
_CONTRACTIONS = """
i'm i've i'd i'll you're you've you'd you'll he's he'd he'll she's she'd she'll it's it'd it'll
we're we've we'd we'll they're they've they'd they'll that's that'd that'll there's there'd there'll here's
who's who'd who'll what's what're where's when's let's
"""

STOP_WORDS = frozenset(
    " ".join((_ARTICLES, _PRONOUNS, _AUXILIARIES, _PREPOSITIONS, _CONJUNCTIONS, _CONTRACTIONS)).split()
)
