"""What a results file says of where it was made."""

from tlm_hf.runs.provenance import portable


def test_paths_of_this_machine_stay_out_of_results(monkeypatch):
    monkeypatch.setenv("TLM_DATA", "/data/texts")
    there = ["/data/texts/wikipedia", "a=/data/texts/b", "new=scratch:/elsewhere/x", "https://host/y", "a=b", "/z/w"]
    assert portable(there) == ["$TLM_DATA/wikipedia", "a=$TLM_DATA/b", "new=scratch:x", "https://host/y", "a=b", "w"]
