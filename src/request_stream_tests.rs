use std::future::poll_fn;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::unconstrained;

use super::*;

const AHEAD: usize = 4096;

/// A request of which `arrived` came with the head, the bytes its reader starts with, and the client.
fn request(length: BodyLength, arrived: &str) -> (RequestStream, BytesMut, DuplexStream) {
    let (client, server) = duplex(1 << 20);
    let mut stream = RequestStream::new(Box::new(server), AHEAD);
    let mut bytes = BytesMut::from(format!("head{arrived}").as_bytes());
    stream.begin(length, &mut bytes, 4).unwrap();
    (stream, bytes.split_off(4), client)
}

/// What one read yields now: `None` while there is nothing to read.
async fn read(stream: &mut RequestStream, room: usize) -> Option<io::Result<Vec<u8>>> {
    let mut room = vec![0; room];
    // Without tokio's budget, which would make a read pend that need not.
    unconstrained(poll_fn(|cx| {
        let mut buf = ReadBuf::new(&mut room);
        match Pin::new(&mut *stream).poll_read(cx, &mut buf) {
            Poll::Ready(read) => Poll::Ready(Some(read.map(|()| buf.filled().to_vec()))),
            Poll::Pending => Poll::Ready(None),
        }
    }))
    .await
}

async fn yields(stream: &mut RequestStream, expected: &str) {
    let read = read(stream, 1 << 16).await.expect("something to read").unwrap();
    assert_eq!(read.escape_ascii().to_string(), expected.as_bytes().escape_ascii().to_string());
}

async fn yields_nothing(stream: &mut RequestStream) {
    assert!(read(stream, 100).await.is_none());
}

#[tokio::test]
async fn bytes_behind_the_body_are_kept_for_the_next_request() {
    const CHUNKS: &str = "5\r\nhello\r\n0\r\nX: y\r\n\r\n";
    for (length, body) in
        [(BodyLength::None, ""), (BodyLength::Bytes(5), "hello"), (BodyLength::Chunked, CHUNKS)]
    {
        let all = format!("{body}GET /2");
        for cut in 0..=all.len() {
            let (mut stream, mut own, mut client) = request(length, &all[..cut]);
            client.write_all(&all.as_bytes()[cut..]).await.unwrap();
            while own.len() < body.len() {
                own.extend(read(&mut stream, 3).await.expect("more body").unwrap());
            }
            assert_eq!(own, body.as_bytes(), "{length:?} cut at {cut}");
            yields_nothing(&mut stream).await;
            client.write_all(b" HTTP").await.unwrap();
            yields_nothing(&mut stream).await;
            let mut stream = RequestStream::at_end(Box::new(stream)).expect("at its end");
            assert_eq!(stream.take_ahead(), "GET /2 HTTP", "{length:?} cut at {cut}");
        }
    }
}

#[tokio::test]
async fn a_client_that_leaves_is_noticed_behind_its_body() {
    let (mut stream, _, mut client) = request(BodyLength::Bytes(5), "hello");
    yields_nothing(&mut stream).await;
    client.write_all(b"GET").await.unwrap();
    drop(client);
    yields(&mut stream, "").await;
}

#[tokio::test]
async fn a_reader_that_waits_is_woken_when_the_client_leaves() {
    let (mut stream, _, mut client) = request(BodyLength::None, "");
    let waiting = tokio::spawn(async move { stream.read(&mut [0; 1]).await });
    tokio::task::yield_now().await;
    client.write_all(b"GET / HTTP").await.unwrap();
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    drop(client);
    assert_eq!(waiting.await.unwrap().unwrap(), 0);
}

#[tokio::test]
async fn a_client_that_hurries_has_to_wait() {
    let (mut stream, _, mut client) = request(BodyLength::None, "");
    client.write_all(&vec![b'x'; 100_000]).await.unwrap();
    yields_nothing(&mut stream).await;
    yields_nothing(&mut stream).await;
    assert!((AHEAD..AHEAD + EARLY_READ).contains(&stream.take_ahead().len()));
}

#[tokio::test]
async fn a_malformed_body_is_an_error_once_and_never_an_end() {
    assert!(matches!(
        RequestStream::new(Box::new(duplex(1).0), AHEAD).begin(
            BodyLength::Chunked,
            &mut "\r\n".as_bytes().into(),
            0
        ),
        Err(Malformed(_))
    ));

    let (mut stream, own, mut client) = request(BodyLength::Chunked, "5\r\nhel");
    assert_eq!(own, "5\r\nhel");
    client.write_all(b"lo\r\n5\r\nworld!!0\r\n\r\nGET /").await.unwrap();
    let e = read(&mut stream, 1 << 16).await.expect("an answer").expect_err("malformed");
    assert_eq!(e.kind(), io::ErrorKind::InvalidData);
    assert!(e.get_ref().is_some_and(|why| why.is::<Malformed>()));
    client.write_all(b"0\r\n\r\n").await.unwrap();
    yields_nothing(&mut stream).await;
    assert!(stream.ahead.is_empty());
    assert!(RequestStream::at_end(Box::new(stream)).is_none());
}

#[tokio::test]
async fn a_connection_is_not_used_again_in_the_middle_of_a_body() {
    for (length, arrived) in [(BodyLength::Bytes(5), "hell"), (BodyLength::Chunked, "5\r\nhello\r\n0\r\n")] {
        let (stream, ..) = request(length, arrived);
        assert!(RequestStream::at_end(Box::new(stream)).is_none());
    }
}

#[tokio::test]
async fn a_tunnel_has_every_byte_in_order() {
    let (mut stream, own, mut client) = request(BodyLength::None, "one");
    assert_eq!(own, "");
    client.write_all(b"two").await.unwrap();
    yields_nothing(&mut stream).await;
    let session = ServerSession::new_http1(Box::new(stream));
    open_tunnel(&session);
    let ServerSession::H1(session) = session else { unreachable!() };
    let mut stream = *session.into_inner().into_any().downcast::<RequestStream>().unwrap();
    assert_eq!(read(&mut stream, 4).await.unwrap().unwrap(), b"onet");
    yields(&mut stream, "wo").await;
    yields_nothing(&mut stream).await;
    client.write_all(b"\x81\x05hello").await.unwrap();
    assert_eq!(read(&mut stream, 100).await.unwrap().unwrap(), b"\x81\x05hello");
    assert!(RequestStream::at_end(Box::new(stream)).is_none());
}

/// What has arrived at the client by now.
async fn arrived(client: &mut DuplexStream) -> String {
    let mut bytes = Vec::new();
    let mut room = [0; 1 << 16];
    unconstrained(poll_fn(|cx| {
        let mut buf = ReadBuf::new(&mut room);
        match Pin::new(&mut *client).poll_read(cx, &mut buf) {
            Poll::Ready(_) => bytes.extend_from_slice(buf.filled()),
            Poll::Pending => {}
        }
        Poll::Ready(())
    }))
    .await;
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn small_writes_wait_for_a_larger_one_or_a_flush() {
    let (mut stream, _, mut client) = request(BodyLength::None, "");
    stream.write_all(b"at once ").await.unwrap();
    assert_eq!(arrived(&mut client).await, "at once ");
    *stream.holding.get_mut() = true;
    stream.write_all(b"head ").await.unwrap();
    stream.write_all(b"body ").await.unwrap();
    assert_eq!(arrived(&mut client).await, "");
    let large = "x".repeat(HELD);
    stream.write_all(large.as_bytes()).await.unwrap();
    assert_eq!(arrived(&mut client).await, format!("head body {large}"));
    stream.write_all(b"end").await.unwrap();
    stream.flush().await.unwrap();
    assert_eq!(arrived(&mut client).await, "end");
    stream.write_all(b"held").await.unwrap();
    *stream.holding.get_mut() = false;
    stream.write_all(b", then not").await.unwrap();
    assert_eq!(arrived(&mut client).await, "held, then not");
    *stream.holding.get_mut() = true;
    stream.write_all(b"last").await.unwrap();
    AsyncWriteExt::shutdown(&mut stream).await.unwrap();
    assert_eq!(arrived(&mut client).await, "last");
}

#[tokio::test]
async fn what_is_held_is_sent_in_order_however_little_fits() {
    for room in [1, 2, 7, 4095, 4097] {
        let (mut client, server) = duplex(room);
        let mut stream = RequestStream::new(Box::new(server), AHEAD);
        *stream.holding.get_mut() = true;
        let sent: Vec<u8> = (0..30_000_u32).map(|n| (n % 251) as u8).collect();
        let all = sent.clone();
        let writer = tokio::spawn(async move {
            for piece in all.chunks(5).take(200).chain(all[1000..].chunks(9_000)) {
                stream.write_all(piece).await.unwrap();
            }
            stream.flush().await.unwrap();
        });
        let mut received = Vec::new();
        client.read_to_end(&mut received).await.unwrap();
        writer.await.unwrap();
        assert!(received == sent, "{room}");
    }
}
