"""The contracts are tests, so their assertions explain themselves as those of tests do."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("idioteque.testing.contracts")
pytest.register_assert_rewrite("idioteque.testing.upkeep")
pytest.register_assert_rewrite("idioteque.testing.runlog")
