from pipeline.job.supervision.node_book import NodeBook


def test_a_node_that_finishes_nothing_is_avoided_if_another_one_does() -> None:
    book = NodeBook()
    book.gave_up("bad", "decode: gone")
    book.gave_up("bad", "decode: gone")
    assert not book.avoided(), "the source may be away everywhere"
    book.decoded("sound")
    assert book.avoided() == {"bad": "2 units given up there and none finished: decode: gone"}
    book.blind.add("other")
    assert book.lines() == [
        "node bad: decode: 2 units given up there and none finished: decode: gone",
        "node other does not see the output",
    ]


def test_a_node_that_also_finishes_units_is_not_avoided() -> None:
    book = NodeBook()
    for _ in range(5):
        book.gave_up("a", "decode: gone")
    book.decoded("a")
    book.gave_up("b", "decode: gone")
    assert not book.avoided()


def test_a_node_that_has_read_nothing_is_not_believed_alone() -> None:
    book = NodeBook()
    assert book.believes("u", "only", num_nodes=1)
    assert not book.believes("v", "a", num_nodes=2)
    assert not book.believes("v", "a", num_nodes=2)
    assert book.believes("v", "b", num_nodes=2)
    book.decoded("a")
    assert book.believes("w", "a", num_nodes=2)
