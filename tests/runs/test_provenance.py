"""What a results file says of where it was made."""

from tlm_hf.runs.provenance import command_line, portable


def test_paths_of_this_machine_stay_out_of_results(monkeypatch):
    monkeypatch.setenv("TLM_DATA", "/data/texts")
    there = ["/data/texts/wikipedia", "a=/data/texts/b", "new=scratch:/elsewhere/x", "https://host/y", "a=b", "/z/w"]
    assert portable(there) == ["$TLM_DATA/wikipedia", "a=$TLM_DATA/b", "new=scratch:x", "https://host/y", "a=b", "w"]


def test_a_token_does_not_go_into_results():
    for words in (["--hub-token", "secret"], ["--hub_token=secret"], ["--hub-token=secret"]):
        assert "secret" not in command_line(["tlm", "finetune", *words, "--seed", "1"])
        assert command_line(["tlm", "finetune", *words, "--seed", "1"]).endswith("--seed 1")
