"""Whatever a file holds, every record comes out once, good, rejected or filtered, or one sentence refuses the file."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backfill_pipeline_tests.fuzz.files import FILE_TARGETS
from backfill_pipeline_tests.fuzz.mutations import mutated
from backfill_pipeline_tests.fuzz.targets import targets

QUICK = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
LONG = settings(max_examples=4000, deadline=None, suppress_health_check=list(HealthCheck))
NAMES = sorted(targets())


@pytest.mark.parametrize("name", sorted(FILE_TARGETS))
def test_the_seeds_are_good_files(name: str) -> None:
    target = FILE_TARGETS[name]
    for seed in target.seeds:
        found = target.run(seed)
        assert found is not None
        assert found.read >= 5
        assert found.good >= 1


@pytest.mark.parametrize("name", NAMES)
@QUICK
@given(data=st.data())
def test_whatever_comes_in(name: str, data: st.DataObject) -> None:
    run, seeds, words = targets()[name]
    run(data.draw(mutated(seeds, words)))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", NAMES)
@LONG
@given(data=st.data())
def test_whatever_comes_in_at_length(name: str, data: st.DataObject) -> None:
    run, seeds, words = targets()[name]
    run(data.draw(mutated(seeds, words)))
