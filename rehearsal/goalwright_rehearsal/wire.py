"""Replies, vectors and errors in the shapes of the OpenAI API."""

from __future__ import annotations

import array
import base64
import hashlib
import json
import math
import re
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from goalwright_rehearsal.messages import Json, Reply

MODEL = "rehearsal"
FINGERPRINT = "rehearsal-without-intelligence"
_DIMENSIONS = 256


@dataclass(frozen=True)
class ApiError(Exception):
    """An error answer: HTTP status, machine code, message for people, the parameter at fault."""

    status: int
    code: str
    message: str
    param: str | None = None
    kind: str = "invalid_request_error"

    def body(self) -> dict[str, Json]:
        """The JSON of the answer."""
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return {"error": error}


def count_tokens(text: str) -> int:
    """Tokens of a text, estimated as a quarter of its bytes."""
    return -(-len(text.encode("utf-8", "replace")) // 4)


def prompt_tokens(request: Mapping[str, Json]) -> int:
    """Tokens of a request: its messages, tools and schema."""
    parts = [request.get("messages") or [], request.get("tools") or [], request.get("response_format") or {}]
    return sum(count_tokens(json.dumps(part, ensure_ascii=False)) for part in parts if part)


def completion(request: Mapping[str, Json], reply: Reply, cap: int | None) -> dict[str, Json]:
    """The chat completion for a reply, cut when it is longer than `cap` tokens."""
    calls = [json.dumps(call.arguments, ensure_ascii=False) for call in reply.calls]
    spent = sum(map(count_tokens, [reply.text or "", *calls]))
    cut = cap is not None and spent > cap
    if cut and cap is not None:
        text, calls = _cut(reply.text, calls, cap * 4)
        spent = cap
    else:
        text = reply.text
    digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
    message: dict[str, Json] = {"role": "assistant", "content": text, "refusal": None}
    if calls:
        message["tool_calls"] = [
            {
                "id": f"call_{digest[:12]}_{at}",
                "type": "function",
                "function": {"name": reply.calls[at].name, "arguments": arguments},
            }
            for at, arguments in enumerate(calls)
        ]
    before = prompt_tokens(request)
    reason = "length" if cut else "tool_calls" if calls else "stop"
    return {
        "id": f"chatcmpl-rehearsal-{digest[:24]}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": MODEL,
        "system_fingerprint": FINGERPRINT,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": reason}],
        "usage": usage(before, spent),
    }


def refusal(request: Mapping[str, Json], said: str) -> dict[str, Json]:
    """A completion in which the model refuses, as OpenAI's do: no content, and the reason in a field of its own."""
    answer = completion(request, Reply(None), None)
    answer["choices"][0]["message"]["refusal"] = said
    answer["usage"] = usage(prompt_tokens(request), count_tokens(said))
    return answer


def usage(before: int, spent: int) -> dict[str, Json]:
    """Token counts as providers report them."""
    return {
        "prompt_tokens": before,
        "completion_tokens": spent,
        "total_tokens": before + spent,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }


def _cut(text: str | None, calls: list[str], characters: int) -> tuple[str | None, list[str]]:
    """The first `characters` of a reply, its text first."""
    kept = text[:characters] if text else text
    left = characters - len(kept or "")
    cut = []
    for arguments in calls:
        if left <= 0:
            break
        cut.append(arguments[:left])
        left -= len(arguments)
    return kept, cut


def embeddings(request: Mapping[str, Json]) -> dict[str, Json]:
    """Vectors of hashed words: the same text gets the same vector, similar texts get similar ones."""
    given = request.get("input")
    texts = given if isinstance(given, list) and not all(isinstance(item, int) for item in given) else [given]
    size = request.get("dimensions") or _DIMENSIONS
    if not isinstance(size, int) or not 1 <= size <= 4096:
        raise ApiError(400, "invalid_value", "dimensions must be between 1 and 4096", "dimensions")
    packed = request.get("encoding_format") == "base64"
    data = []
    for index, item in enumerate(texts):
        vector = _vector(item if isinstance(item, str) else json.dumps(item), size)
        body: Json = _packed(vector) if packed else vector
        data.append({"object": "embedding", "index": index, "embedding": body})
    spent = sum(count_tokens(str(item)) for item in texts)
    return {
        "object": "list",
        "data": data,
        "model": MODEL,
        "usage": {"prompt_tokens": spent, "total_tokens": spent},
    }


def _vector(text: str, size: int) -> list[float]:
    """Each word adds or takes one at the place of its hash; the length is one."""
    sums = [0.0] * size
    for word in re.findall(r"\w+", text.lower()) or [text]:
        digest = hashlib.blake2b(word.encode("utf-8", "replace"), digest_size=8).digest()
        sums[int.from_bytes(digest[:7], "big") % size] += 1 if digest[7] % 2 else -1
    length = math.sqrt(sum(value * value for value in sums))
    if length == 0:
        return [1.0] + [0.0] * (size - 1)
    return [value / length for value in sums]


def _packed(vector: Iterable[float]) -> str:
    """Little-endian 32-bit floats in base64, as clients ask for."""
    floats = array.array("f", vector)
    if sys.byteorder == "big":
        floats.byteswap()
    return base64.b64encode(floats.tobytes()).decode()


def model_card(name: str = MODEL) -> dict[str, Json]:
    """A row of /v1/models."""
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": "goalwright: a rehearsal, no intelligence",
    }
