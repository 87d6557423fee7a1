import pytest

from pipeline.errors import redacted


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://user:secret@host/a.mp4", "https://…@host/a.mp4"),
        ("https://h/a?X-Amz-Signature=s3cr/et%2B&x=1", "https://h/a?…&x=1"),
        ("cannot open 'https://h/a?sig=s3cret': 403", "cannot open 'https://h/a?…': 403"),
        ("s3://bucket/a:b@c.mp4", "s3://bucket/a:b@c.mp4"),
        ("design=1&sig_type=2", "design=1&sig_type=2"),
    ],
)
def test_credentials_go_and_the_rest_stays(text: str, shown: str) -> None:
    assert redacted(text) == shown
