"""Names of the assets.

Belongs here: asset keys, and the tags that launch a range.
Does not: anything else.
"""

import dagster as dg

CONSTRAINTS_KEY = dg.AssetKey("balance_constraints")


def asset_key(source_id: str, name: str) -> dg.AssetKey:
    """Key of a source's asset: manifest, extracted, transformed, validated, posted or reconciliation."""
    return dg.AssetKey([source_id, name])
