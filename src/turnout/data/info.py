"""A text without a run around it: opened, and described line by line."""

from turnout.config.cache import cache_folder
from turnout.config.errors import UserError
from turnout.config.train import DataConfig
from turnout.data.progress import Progress
from turnout.data.shards.corpus import Corpus, Request, open_corpus


def open_data(data: DataConfig, progress: Progress, *, thorough: bool = False) -> Corpus:
    """Read, split and tokenise a text, or map what the cache has of it.

    Args:
        thorough: hash every cached file, and make damaged ones again.

    Raises:
        UserError: a mixture, which is several texts; see ``open_corpus``.
    """
    if data.mixture is not None:
        raise UserError("data.mixture: is several texts; give the paths of one of its sources")
    cache = cache_folder(data.cache)
    request = Request(data.paths, data.text_field, data.validation_share, cache, 0, thorough)
    return open_corpus(request, data.tokenizer, progress)


def corpus_lines(corpus: Corpus) -> list[str]:
    """What a person wants to know of a text."""
    text, tokens, tokenizer = corpus.text, corpus.tokens, corpus.tokenizer
    train, held_out, common = corpus.train_text, corpus.validation_text, corpus.overlap
    count = int(tokens.starts[-1])
    skipped = ", ".join(f"{number} {reason}" for reason, number in sorted(text.skipped.items()))
    aligned = "every byte kept" if tokens.aligned else "not every byte kept"
    return [
        f"source      {corpus.origin}",
        f"text        {text.num_documents:,} documents, {text.num_bytes:,} bytes, sha256 "
        f"{text.sha256}",
        f"left out    {text.duplicates:,} copies of documents ({text.duplicate_bytes:,} bytes)"
        + (f"; skipped {skipped}" if skipped else "")
        + (f"; {text.replaced} not quite UTF-8, repaired" if text.replaced else ""),
        f"train       {len(train):,} documents, {train.num_bytes:,} bytes, "
        f"{corpus.train.num_tokens:,} tokens",
        f"held out    {len(held_out):,} documents, {held_out.num_bytes:,} bytes, "
        f"{corpus.validation.num_tokens:,} tokens"
        + (f"; {corpus.split.note}" if corpus.split.note else ""),
        f"overlap     {common.share:.2%} of {common.asked:,} sampled runs of 50 held-out bytes "
        "stand in the training text too",
        f"tokenizer   {tokenizer.kind}, {tokenizer.vocab_size:,} ids, {tokenizer.num_sentinels} "
        f"sentinels, fingerprint {tokenizer.fingerprint}",
        f"tokens      {count:,}, {text.num_bytes / max(count, 1):.2f} bytes a token, {aligned}, "
        f"{len(tokens.shards)} shard{'s' if len(tokens.shards) > 1 else ''} of "
        f"{tokens.shards[0].dtype.name}",
        f"cache       {text.folder}",
    ]
