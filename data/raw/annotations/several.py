"""Several captions of one sample: lists, named captions, weights, and a field that says which are meant.

    {"captions": ["a dog", "a brown dog on grass"], "caption_weights": [1, 3]}
    {"captions": {"short": "a dog", "long": "a brown dog"}, "caption_weights": {"short": 1, "long": 3}}
    {"caption_key": "long_caption", "short_caption": "a dog", "long_caption": "a brown dog on grass"}

A raw dataset keeps them in the JSON of a sample: `texts`, and `text_names` and `text_weights` where given.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from data.raw.annotations.quoted_lists import quoted_list
from data.raw.annotations.roles import ColumnsConfig, is_nothing, plain, role_of

_KEYS, _NAMES = {"captionkey", "captionkeys"}, {"textnames", "captionnames"}
_WEIGHTS = {"captionweights", "captionsweights", "textweights", "textsweights"}
ABOUT = {"texts"} | _KEYS | _NAMES | _WEIGHTS  # plain names of fields that say something about captions
MOST_CAPTIONS = 1000  # of a sample
# Conversations, as LLaVA and as chat interfaces write them: fields of speaker and speech, and who describes.
SPEECH = (("from", "value"), ("role", "content"))
ANSWERING = {"gpt", "chatgpt", "assistant", "model", "bot"}
STORED = ("texts", "text_names", "text_weights")  # fields of a raw sample's JSON


class Caption(NamedTuple):
    """One caption. name: of its field or key, "" for none.  weight: how often it is drawn."""

    text: str
    name: str = ""
    weight: float = 1.0


class CaptionError(ValueError):
    """A fault in the captions of a sample. stage: of its entry in the list of those set aside."""

    def __init__(self, reason: str, stage: str = "caption") -> None:
        super().__init__(reason)
        self.stage = stage


def is_about_captions(name: str) -> bool:
    """Return whether a field holds names or weights of captions, or says which field is the caption."""
    return plain(name) in ABOUT


def is_caption_key(name: str) -> bool:
    """Return whether a field says which field is the caption."""
    return plain(name) in _KEYS


def stored(captions: Iterable[Caption]) -> dict[str, list[Any]]:
    """Return what a raw sample's JSON records beside `text`; {} for one caption without a name."""
    captions = list(captions)
    if len(captions) < 2 and not any(caption.name for caption in captions):
        return {}
    found: dict[str, list[Any]] = {"texts": [caption.text for caption in captions]}
    if any(caption.name for caption in captions):
        found["text_names"] = [caption.name for caption in captions]
    if any(caption.weight != 1 for caption in captions):
        found["text_weights"] = [caption.weight for caption in captions]
    return found


def read(
    fields: Mapping[str, Any], filled: list[tuple[str, Any]], columns: ColumnsConfig, *, one_text: bool
) -> tuple[Caption, ...]:
    """Return all different captions of a sample, in order; CaptionError says what is wrong with them.

    fields: everything that is known of the sample.  filled: (name, value) of those that hold captions.
    one_text: different captions in two fields that nobody named are refused, else all are kept.
    """
    keys = _about(fields, _KEYS)
    by_key = keys is not None and not columns.text
    if by_key:
        filled, one_text = _named_by_key(fields, filled, keys), False
    filled = [(name, _all_of(name, value, fields)) for name, value in filled]
    listed = {name: _listed(name, value) for name, value in filled}
    if (count := sum(map(len, listed.values()))) > MOST_CAPTIONS:
        raise CaptionError(f"{count} captions, more than {MOST_CAPTIONS}")
    listed = {name: captions for name, captions in listed.items() if _adds(name, captions, listed)}
    if len(listed) > 1 and one_text and not columns.names_texts:
        first, second, *_ = listed
        raise CaptionError(
            f"{first!r} and {second!r} differ; columns.text=NAME says which is meant, "
            "columns.text=NAME+NAME keeps both",
            "columns",
        )
    named = by_key or len(listed) > 1 or columns.names_texts
    every = [
        Caption(caption.text, caption.name or (field if named else ""), caption.weight)
        for field, captions in listed.items()
        for caption in captions
    ]
    return _distinct(_weighted(_renamed(every, _about(fields, _NAMES)), _about(fields, _WEIGHTS)))


def _all_of(name: str, value: Any, fields: Mapping[str, Any]) -> Any:
    """Return the value of a field, or all captions where a raw dataset wrote `text` and `texts`."""
    texts = fields.get("texts")
    return texts if name == "text" and isinstance(texts, list) and texts and texts[0] == value else value


def _about(fields: Mapping[str, Any], names: set[str]) -> Any:
    """Return the value of the field with one of these plain names, None if there is none."""
    return next((v for n, v in fields.items() if plain(n) in names and not is_nothing(v)), None)


def _named_by_key(
    fields: Mapping[str, Any], filled: list[tuple[str, Any]], keys: Any
) -> list[tuple[str, Any]]:
    """Return the fields, or the keys of an object of captions, that `caption_key` names."""
    wanted = [keys] if isinstance(keys, str) else keys
    if not isinstance(wanted, list | tuple) or not all(isinstance(key, str) for key in wanted):
        raise CaptionError(f"caption_key is not a name but {type(keys).__name__}")
    places = [fields, *(value for _, value in filled if isinstance(value, Mapping))]
    found = []
    for key in wanted:
        here = next((p[name] for p in reversed(places) for name in p if plain(name) == plain(key)), None)
        if here is None:
            raise CaptionError(f"caption_key names {key!r}, which is not there or empty")
        found.append((key, here))
    return found


def _listed(field: str, value: Any) -> list[Caption]:
    """Return the captions in a field, empty ones included, since weights count them."""
    if isinstance(value, Mapping) and not any(role_of(name) == "text" for name in value):
        return [
            Caption(caption.text, name, caption.weight)
            for name, part in value.items()
            for caption in _listed(f"{field}.{name}", part)
        ]
    if isinstance(value, Mapping):
        text = next(part for name, part in value.items() if role_of(name) == "text")
        name = value.get("name") or value.get("key") or ""
        weight = _number(value.get("weight", 1.0))
        return [
            Caption(caption.text, name if isinstance(name, str) else "", weight)
            for caption in _listed(field, text)
        ]
    if isinstance(value, list | tuple):
        return [caption for part in value for caption in _listed(field, _said(field, part))]
    if is_nothing(value):
        return [Caption("")]
    if not isinstance(value, str):
        raise CaptionError(f"{field} is not a text but {type(value).__name__}")
    return [Caption(text) for text in quoted_list(value) or [value]]


def _said(field: str, part: Any) -> Any:
    """Return the caption in a part of a list: itself, or what an assistant says in a conversation.

    CaptionError for an object without a text: its fields may be numbers, times or names as well.
    """
    if not isinstance(part, Mapping) or any(role_of(name) == "text" for name in part):
        return part
    for speaker, speech in SPEECH:
        if speaker in part and speech in part:
            return part[speech] if str(part[speaker]).casefold() in ANSWERING else ""
    if part.get("type") in ("image", "video", "image_url", "video_url"):
        return ""
    shown = ", ".join(map(str, list(part)[:6]))
    raise CaptionError(f"{field} is a list of objects without a field `text`; they have: {shown}")


def _adds(field: str, captions: list[Caption], listed: Mapping[str, list[Caption]]) -> bool:
    """Return whether a field holds a caption that no larger one, nor an equal one before it, holds too."""
    texts = {caption.text for caption in captions if caption.text}
    before = True
    for other, theirs in listed.items():
        before = before and other != field
        has = {caption.text for caption in theirs if caption.text}
        if other != field and texts <= has and (before or texts < has):
            return False
    return bool(texts)


def _renamed(captions: list[Caption], names: Any) -> list[Caption]:
    if names is None:
        return captions
    if not isinstance(names, list | tuple) or len(names) != len(captions):
        raise CaptionError(f"text_names has not one name for each of {len(captions)} captions")
    return [caption._replace(name=str(name or "")) for caption, name in zip(captions, names, strict=True)]


def _weighted(captions: list[Caption], weights: Any) -> list[Caption]:
    """Return the captions with `caption_weights`: numbers in order, or an object with one a name."""
    if isinstance(weights, str):
        weights = re.split(r"[\s,;]+", weights.strip("[]() \t"))
    if isinstance(weights, Mapping):
        by_name = {plain(str(name)): value for name, value in weights.items()}
        if lost := [c.name for c in captions if c.text and plain(c.name) not in by_name]:
            raise CaptionError(f"caption_weights has no weight for {lost[0]!r}")
        weights = [by_name.get(plain(caption.name), 0) for caption in captions]
    if weights is not None:
        if not isinstance(weights, list | tuple) or len(weights) != len(captions):
            raise CaptionError(f"caption_weights has not one number for each of {len(captions)} captions")
        captions = [c._replace(weight=_number(weight)) for c, weight in zip(captions, weights, strict=True)]
    if captions and not any(caption.weight for caption in captions if caption.text):
        raise CaptionError("caption_weights are all 0")
    return captions


def _number(weight: Any) -> float:
    try:
        number = math.nan if isinstance(weight, bool) else float(weight)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not 0 <= number < 1e9:
        raise CaptionError(f"caption weight {str(weight)[:40]!r} is no number from 0 to 1e9")
    return number


def _distinct(captions: list[Caption]) -> tuple[Caption, ...]:
    """Return the captions with text, each once; a repeated one keeps its first name and larger weight."""
    found: dict[str, Caption] = {}
    for caption in captions:
        if caption.text:
            kept = found.setdefault(caption.text, caption)
            if caption.weight > kept.weight:
                found[caption.text] = kept._replace(weight=caption.weight)
    return tuple(found.values())
