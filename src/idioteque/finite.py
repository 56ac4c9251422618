"""Whether NaN or an infinity hides in a value, which JSON cannot hold and pydantic writes as null by default."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import cast

from pydantic import BaseModel

DEPTH_MAX = 200


def has_non_finite(value: object, depth: int = 0) -> bool:
    """Whether a float in it would silently become null: what a model's own configuration does by default."""
    if isinstance(value, float):
        return not math.isfinite(value)
    if depth > DEPTH_MAX or isinstance(value, str | bytes | int) or value is None:
        return False
    if isinstance(value, BaseModel):
        inner: list[object] = [item for _, item in value]
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        inner = [getattr(value, field.name) for field in dataclasses.fields(value)]
    elif isinstance(value, Mapping):
        inner = list(cast(Mapping[object, object], value).values())
    elif isinstance(value, Collection):
        inner = list(cast(Collection[object], value))
    else:
        return False
    return any(has_non_finite(item, depth + 1) for item in inner)
