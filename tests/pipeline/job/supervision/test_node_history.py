from pipeline.job.supervision.node_history import NodeHistory


def test_a_node_that_finishes_nothing_is_avoided_if_another_one_does() -> None:
    history = NodeHistory()
    history.gave_up("bad", "decode: gone")
    history.gave_up("bad", "decode: gone")
    assert not history.avoided(), "the source may be away everywhere"
    history.decoded("sound")
    assert history.avoided() == {"bad": "2 units given up there and none finished: decode: gone"}
    history.blind.add("other")
    assert history.lines() == [
        "node bad: decode: 2 units given up there and none finished: decode: gone",
        "node other does not see the output",
    ]


def test_a_node_that_also_finishes_units_is_not_avoided() -> None:
    history = NodeHistory()
    for _ in range(5):
        history.gave_up("a", "decode: gone")
    history.decoded("a")
    history.gave_up("b", "decode: gone")
    assert not history.avoided()


def test_a_node_that_has_read_nothing_is_not_believed_alone() -> None:
    history = NodeHistory()
    assert history.believes("u", "only", num_nodes=1)
    assert not history.believes("v", "a", num_nodes=2)
    assert not history.believes("v", "a", num_nodes=2)
    assert history.believes("v", "b", num_nodes=2)
    history.decoded("a")
    assert history.believes("w", "a", num_nodes=2)
