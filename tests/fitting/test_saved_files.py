"""Saved laws and kept resamples: whatever is wrong in them is one sentence; order and age do not matter."""

import json
from pathlib import Path

import numpy as np
import pytest

import scalesim as ss
from scalesim.fitting.named import load_fit
from scalesim.fitting.saved import ARCHIVE_VERSION, VERSION, read_archive, write_archive

SHIPPED = Path(ss.__file__).parent / "data" / "law_points.json"
RAW = json.loads(SHIPPED.read_text())


def changed(path, value, *keys):
    raw = json.loads(json.dumps(RAW))
    holder = raw
    for key in keys[:-1]:
        holder = holder[key]
    if value is KeyError:
        del holder[keys[-1]]
    else:
        holder[keys[-1]] = value
    path.write_text(json.dumps(raw))
    return path


@pytest.mark.parametrize(
    ("keys", "value", "says"),
    [
        (("law",), KeyError, "has no field 'law'"),
        (("law",), 5, "law must be an object"),
        (("law", "type"), "Nolaw", "law 'Nolaw' is not known"),
        (("law", "type"), 3, "must be an object with a 'type'"),
        (("law", "A"), "1", "law.A must be finite numbers"),
        (("law", "A"), [1, 2], "law.A must be finite numbers"),
        (("law", "A"), -1.0, "law.A must be above 0"),
        (("law", "Q"), 1.0, "a field 'Q', which HeadLaw has not"),
        (("objective",), "low", "objective must be a finite number"),
        (("optima",), [5], r"optima\[0\] must be an object"),
        (("status",), "good", "status 'good' is not known"),
        (("rms",), -1.0, "rms must be a finite number at least 0"),
        (("rollout_errors", "scatter"), -1.0, "scatter must be a finite number at least 0"),
        (("law", "E"), 2.5, "coefficients.E is 1.97, and its law.E 2.5: they are one number"),
        (("coefficients",), {"E": [[1], []]}, r"coefficients.E\[0\] must be a finite number"),
        (("coefficients",), {"E": None}, "coefficients.E is nan, and its law.E 1.97"),
        (("coefficients",), {"E": 2.5}, "coefficients.E is 2.5, and its law.E 1.97: they are one number"),
        (("bootstrap", "samples", "E"), 2.5, "samples.E are of another law: they are from 2.5 to 2.5"),
        (("bootstrap", "freedom"), 10, "freedom must be at most units"),
        (("bootstrap", "resamples"), 3, "resamples is 3, but its objectives are 200"),
        (("provenance", "evidence"), {}, "evidence must be a list"),
        (("bootstrap", "samples"), KeyError, "bootstrap has no field 'samples'"),
        (("bootstrap", "samples", "A"), KeyError, "samples has no A"),
        (("bootstrap", "samples", "A"), [1.0, 2.0], "samples.A must hold a value for each of the"),
        (("bootstrap", "kind"), "pair", "did you mean 'pairs'"),
        (("bootstrap", "objectives"), ["x"], "objectives must be finite numbers"),
        (("version",), VERSION + 1, "reads up to"),
    ],
)
def test_what_is_wrong_with_a_law_is_named(tmp_path, keys, value, says):
    path = changed(tmp_path / "law.json", value, *keys)
    with pytest.raises(ss.InvalidInput, match=says):
        load_fit(path)


def test_the_order_of_keys_is_nothing(tmp_path):
    path = tmp_path / "law.json"
    path.write_text(json.dumps(RAW, sort_keys=True))
    at = {"n_params": 7e8, "n_head": 8.0, "n_kv_head": 1.0}
    plain, ordered = (ss.predict(load_fit(p), at) for p in (SHIPPED, path))
    assert ordered.loss.tolist() == plain.loss.tolist()
    assert (ordered.low.tolist(), ordered.high.tolist()) == (plain.low.tolist(), plain.high.tolist())


def test_what_is_saved_states_its_version_and_is_read(tmp_path):
    fit = load_fit(SHIPPED)
    fit.save(tmp_path / "new" / "law.json")
    raw = json.loads((tmp_path / "new" / "law.json").read_text())
    assert raw["version"] == VERSION
    assert load_fit(tmp_path / "new" / "law.json").coefficients == fit.coefficients


ARRAYS = {"z": np.ones((6, 2)), "objective": np.ones(6), "gradient_norm": np.zeros(6)}


def test_kept_resamples_are_whole_or_refused(tmp_path):
    path = tmp_path / "kept.npz"
    write_archive(path, "key", ARRAYS)
    key, held = read_archive(path, 2)
    assert key == "key"
    np.testing.assert_array_equal(held["z"], ARRAYS["z"])
    for version, says in ((0, None), (ARCHIVE_VERSION + 1, "reads up to")):
        np.savez(path, key="key", **ARRAYS, **({"version": version} if version else {}))
        if says is None:  # as before versions were stated
            assert read_archive(path, 2)[0] == "key"
        else:
            with pytest.raises(ss.InvalidInput, match=says):
                read_archive(path, 2)
    write_archive(path, "key", ARRAYS)
    whole = path.read_bytes()
    for damaged in (whole[:300], whole[:-9], b"", b"rubbish", b"\x80\x04."):
        path.write_bytes(damaged)
        with pytest.raises(ss.InvalidInput, match="not a file of kept resamples"):
            read_archive(path, 2)
    for name, wrong in (("z", np.ones((6, 3))), ("objective", np.ones(5)), ("z", np.full((6, 2), np.nan))):
        write_archive(path, "key", {**ARRAYS, name: wrong})
        with pytest.raises(ss.InvalidInput, match=r"must hold|not numbers"):
            read_archive(path, 2)
