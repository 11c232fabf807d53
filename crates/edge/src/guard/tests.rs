use insula_env::Rng;

use super::*;

/// How much of a stream of requests passes, when it comes in pieces of that size: all, or so many bytes.
fn passes(text: &str, piece: usize) -> Result<(), usize> {
    let mut guard = Guard::new();
    for (number, piece_bytes) in text.as_bytes().chunks(piece).enumerate() {
        guard.check(piece_bytes).map_err(|good| number * piece + good)?;
    }
    Ok(())
}

#[test]
fn plain_requests_pass_in_any_pieces() {
    let stream = "GET / HTTP/1.1\r\nhost: a\r\n\r\n\
                  POST / HTTP/1.1\r\nHost: a\r\nContent-Length:  3 \r\n\r\nabc\
                  \r\nPOST / HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: Chunked\r\n\r\n\
                  5\r\nhello\r\n000a;x=\"y\"\r\n0\r\n\r\nGET /\r\n0\r\nx-sum: 1\r\n\r\n\
                  POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\nGET / HTTP/1.0\r\n\r\n";
    for piece in 1..=stream.len() {
        assert_eq!(passes(stream, piece), Ok(()), "in pieces of {piece}");
    }
}

#[test]
fn what_can_be_read_in_two_ways_does_not_pass() {
    let head = |lines: &str| format!("POST / HTTP/1.1\r\nhost: a\r\n{lines}");
    let chunked = |body: &str| head(&format!("transfer-encoding: chunked\r\n\r\n{body}"));
    // Up to the byte behind which it can be.
    for (text, last) in [
        ("GET / HTTP/1.1\n".to_owned(), ""),
        (head("x: 1\n"), ""),
        (head("x: 1\r2\r\n"), ""),
        (head("\n"), ""),
        (head("x: 1\r\n 2\r\n"), "\r\n"),
        (head("x: 1\r\n\t2\r\n"), "\r\n"),
        (head("content-length : 3\r\n"), "\r\n"),
        (head("content-length\r\n"), "\r\n"),
        (head(": 3\r\n"), "\r\n"),
        (head("content-length: 3\r\ncontent-length: 3\r\n"), "\r\n"),
        (head("content-length: 3\r\nContent-Length: 4\r\n"), "\r\n"),
        (head("content-length: 3, 3\r\n"), "\r\n"),
        (head("content-length: +3\r\n"), "\r\n"),
        (head("content-length: -3\r\n"), "\r\n"),
        (head("content-length: 0x3\r\n"), "\r\n"),
        (head("content-length:\r\n"), "\r\n"),
        (head("content-length: 9999999999999999999\r\n"), "\r\n"),
        (head("content-length: 3\r\ntransfer-encoding: chunked\r\n"), "\r\n"),
        (head("transfer-encoding: chunked\r\ncontent-length: 3\r\n"), "\r\n"),
        (head("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n"), "\r\n"),
        (head("transfer-encoding: gzip, chunked\r\n"), "\r\n"),
        (head("transfer-encoding: identity\r\n"), "\r\n"),
        (head("transfer-encoding: \u{b}chunked\r\n"), "\r\n"),
        (chunked("\r\n"), "\r\n"),
        (chunked("zz\r\n"), "\r\n"),
        (chunked("-1\r\n"), "\r\n"),
        (chunked("+1\r\n"), "\r\n"),
        (chunked("0x1\r\n"), "\r\n"),
        (chunked(" 1\r\n"), "\r\n"),
        (chunked("1 \r\n"), "\r\n"),
        (chunked("1000000000000000\r\n"), "\r\n"),
        (chunked("1\n"), ""),
        (chunked("1\r\nab\n"), ""),
        (chunked("1\r\nab\r\n"), "\r\n"),
        (chunked("1;a\rb\r\n"), ""),
        (chunked("0\r\nx\r\n"), "\r\n"),
        (chunked("0\r\n\n"), ""),
    ] {
        for piece in [text.len(), 1, 7] {
            assert_eq!(passes(&text, piece), Err(text.len() - 1), "{text:?} in pieces of {piece}");
        }
        let before = text.strip_suffix('\n').unwrap_or_default();
        assert!(text.ends_with(last) && passes(before, 5).is_ok(), "{text:?}: its last byte decides");
    }
}

#[test]
fn lines_are_bounded() {
    let endless = [
        ("GET / HTTP/1.1\r\nx: ".to_owned(), HEAD_BYTES_MAX * 2),
        ("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1;".to_owned(), CHUNK_LINE_MAX),
        ("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx: ".to_owned(), TRAILER_BYTES_MAX),
    ];
    for (begin, max) in endless {
        let text = format!("{begin}{}", "a".repeat(max + 1));
        let refused = passes(&text, 1000).expect_err(&begin);
        assert!(refused <= begin.len() + max + 1000, "{begin}");
    }
}

/// Whatever comes, how it is cut makes no difference, and what was refused is before its end.
#[test]
fn random_streams_are_judged_alike_in_any_pieces() {
    let rng = Rng::from_seed(7);
    let words = [
        "GET / HTTP/1.1\r\n",
        "content-length: 2\r\n",
        "transfer-encoding: chunked\r\n",
        "\r\n",
        "2\r\n",
        "ab",
        "0\r\n",
        "\n",
        "x: 1\r\n",
        " ",
        "\r",
        "a",
    ];
    let mut refused = 0;
    for _ in 0..5000 {
        let text: String = (0..rng.range(1, 12)).map(|_| words[rng.range(0, words.len() as u64) as usize]).collect();
        let whole = passes(&text, text.len());
        for piece in 1..5 {
            assert_eq!(passes(&text, piece), whole, "{text:?} in pieces of {piece}");
        }
        refused += usize::from(whole.is_err());
    }
    assert!(refused > 1000 && refused < 5000, "{refused}");
}

/// Notes how many bytes each call is given, and whether they are in one piece.
#[derive(Debug, Default)]
struct Calls(Vec<(usize, bool)>);

impl AsyncWrite for Calls {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.push((buf.len(), true));
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let len = bufs.iter().map(|buf| buf.len()).sum();
        self.0.push((len, false));
        Poll::Ready(Ok(len))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn small_parts_are_written_as_one() {
    use tokio::io::AsyncWriteExt as _;
    let mut guarded = Guarded::new(Calls::default(), Bytes::new(), Arc::default(), Duration::from_secs(1));
    for body in [JOINED_BYTES_MAX - 100, JOINED_BYTES_MAX - 99, 64 << 10] {
        let (head, body) = (vec![1; 100], vec![2; body]);
        let parts = [io::IoSlice::new(&head), io::IoSlice::new(&body)];
        assert_eq!(guarded.write_vectored(&parts).await.expect("written"), 100 + body.len());
    }
    let expected = [(JOINED_BYTES_MAX, true), (JOINED_BYTES_MAX + 1, false), (100 + (64 << 10), false)];
    assert_eq!(guarded.inner.0, expected);
    let mut joined = [0; JOINED_BYTES_MAX];
    assert_eq!(join(&[io::IoSlice::new(b"head "), io::IoSlice::new(b"body")], &mut joined), Some(&b"head body"[..]));
}
