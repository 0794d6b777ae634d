//! Against a real HTTP server on a socket, and real files.

use std::sync::atomic::AtomicUsize;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::tokens::Claims;
use crate::tokens::private_key::PrivateKey;
use crate::tokens::test_support::{Parts, foreign_key, foreign_payload, issuer, jwks, parts, sign};

/// Serves one answer, which a test may change, and counts who asks for it.
struct Server {
    url: String,
    answer: Arc<Mutex<String>>,
    requests: Arc<AtomicUsize>,
}

impl Server {
    async fn start(document: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/jwks.json", listener.local_addr().unwrap());
        let server = Self { url, answer: Arc::default(), requests: Arc::default() };
        server.serve(document);
        let (answer, requests) = (server.answer.clone(), server.requests.clone());
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let (answer, requests) = (answer.clone(), requests.clone());
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        let Ok(byte) = socket.read_u8().await else { return };
                        head.push(byte);
                    }
                    requests.fetch_add(1, Ordering::SeqCst);
                    let answer = answer.lock().clone();
                    let _ = socket.write_all(answer.as_bytes()).await;
                });
            }
        });
        server
    }

    fn serve(&self, document: &str) {
        self.answer(&format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n", document.len()), document);
    }

    fn answer(&self, head: &str, body: &str) {
        *self.answer.lock() = format!("{head}Connection: close\r\n\r\n{body}");
    }

    fn count(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    fn parts(&self) -> Parts {
        parts(Algorithm::Es256, &[issuer(JwksSource::Url(self.url.clone()), &[Algorithm::EdDsa])])
    }
}

fn key(kid: &str) -> (PrivateKey, Value) {
    foreign_key(Algorithm::EdDsa, kid)
}

fn token(key: &PrivateKey, kid: &str) -> String {
    let mut payload = foreign_payload();
    payload["exp"] = json!(Timestamp::now().seconds() + 7200);
    sign(key, &json!({"alg": "EdDSA", "kid": kid}).to_string(), payload.to_string().as_bytes())
}

async fn verdict(parts: &Parts, token: &str, after: u64) -> Result<Claims, Rejection> {
    parts.verifier.verify_or_refetch(token, Timestamp::now().plus(Duration::from_secs(after))).await
}

fn later(seconds: u64) -> Timestamp {
    Timestamp::now().plus(Duration::from_secs(seconds))
}

/// Check 16, foreign: the first token under a new key is believed, and nobody asked for the keys in between.
#[tokio::test]
async fn a_rotation_at_the_issuer_makes_no_false_rejection() {
    let ((old, old_jwk), (new, new_jwk)) = (key("old"), key("new"));
    let server = Server::start(&jwks(&[&old_jwk])).await;
    let parts = server.parts();
    parts.issuers.refresh_once().await;
    verdict(&parts, &token(&old, "old"), 0).await.unwrap();
    assert_eq!(server.count(), 1);

    server.serve(&jwks(&[&old_jwk, &new_jwk]));
    let tokens: Vec<String> = (0..50).map(|_| token(&new, "new")).collect();
    let verdicts = tokens.iter().map(|token| verdict(&parts, token, 0));
    for claims in futures_all(verdicts).await {
        claims.unwrap();
    }
    assert_eq!(server.count(), 2, "fifty requests shared one fetch");
    verdict(&parts, &token(&old, "old"), 0).await.unwrap();
}

async fn futures_all<T>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut pinned: Vec<_> = futures.map(Box::pin).collect();
    let mut done: Vec<Option<T>> = pinned.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, done) in pinned.iter_mut().zip(&mut done) {
            if done.is_none()
                && let std::task::Poll::Ready(value) = future.as_mut().poll(context)
            {
                *done = Some(value);
            }
        }
        if done.iter().all(Option::is_some) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    done.into_iter().flatten().collect()
}

/// go-oidc PR 482: random kids cause one fetch in 30 seconds, and a good token is served all the while.
#[tokio::test]
async fn a_flood_of_kids_causes_one_fetch_in_30_seconds() {
    let (good, good_jwk) = key("good");
    let (evil, _) = key("evil");
    let server = Server::start(&jwks(&[&good_jwk])).await;
    let parts = server.parts();
    parts.issuers.refresh_once().await;
    let good = token(&good, "good");
    for i in 0..10_000 {
        let kid = format!("{i}-{}", uuid::Uuid::new_v4());
        assert_eq!(verdict(&parts, &token(&evil, &kid), 0).await.unwrap_err(), Rejection::UnknownKey);
        if i % 1000 == 0 {
            verdict(&parts, &good, 0).await.unwrap();
        }
    }
    assert_eq!(server.count(), 2, "one at start, one for the flood");
    assert_eq!(parts.issuers.list[0].keys(later(0)).unwrap().keys().len(), 1);
    assert!(verdict(&parts, &token(&evil, "x"), 31).await.is_err());
    assert_eq!(server.count(), 3, "another one after 30 seconds");
}

#[tokio::test]
async fn an_outage_keeps_the_last_good_keys_for_a_time() {
    let (key, jwk) = key("k");
    let server = Server::start(&jwks(&[&jwk])).await;
    let parts = server.parts();
    let token = token(&key, "k");
    assert_eq!(parts.verifier.verify(&token, later(0)).unwrap_err(), Rejection::Unavailable, "never fetched");
    parts.issuers.refresh_once().await;
    let claims = parts.verifier.verify(&token, later(0)).unwrap();
    for (head, body) in [
        ("HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n", ""),
        ("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n", ""),
        ("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n", "<html>"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 11\r\n", "{\"keys\":{}}"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n", "{\"keys\""),
        ("garbage\r\n", ""),
    ] {
        server.answer(head, body);
        parts.issuers.refresh_once().await;
        parts.verifier.verify(&token, later(0)).unwrap();
    }
    assert_eq!(parts.verifier.recheck(&claims, later(3590)), Ok(()));
    assert_eq!(parts.verifier.verify(&token, later(3610)).unwrap_err(), Rejection::Unavailable);
    assert_eq!(parts.verifier.recheck(&claims, later(3610)), Err(Rejection::Unavailable));
    assert!(!parts.issuers.status(later(3610))[0].available);
    server.serve(&jwks(&[&jwk]));
    verdict(&parts, &token, 3610).await.unwrap_err();
    assert_eq!(parts.issuers.status(later(0))[0].keys, 1);
}

#[tokio::test]
async fn a_token_that_meets_no_keys_yet_waits_for_the_first_fetch() {
    let (key, jwk) = key("k");
    let server = Server::start(&jwks(&[&jwk])).await;
    let parts = server.parts();
    verdict(&parts, &token(&key, "k"), 0).await.unwrap();
    assert_eq!(server.count(), 1);
}

#[tokio::test]
async fn a_document_too_large_is_refused() {
    let (key, jwk) = key("k");
    let server = Server::start(&jwks(&[&jwk])).await;
    let parts = server.parts();
    parts.issuers.refresh_once().await;
    let (_, other) = self::key("other");
    let padding = " ".repeat(1024 * 1024);
    server.serve(&format!("{}{padding}", jwks(&[&other])));
    parts.issuers.refresh_once().await;
    server.answer("HTTP/1.1 200 OK\r\n", &format!("{}{padding}", jwks(&[&other])));
    parts.issuers.refresh_once().await;
    parts.verifier.verify(&token(&key, "k"), later(0)).unwrap();
}

/// A hanging issuer holds a request up for two seconds, not longer, and its own fetch for five.
#[tokio::test]
async fn an_issuer_that_hangs_holds_nobody_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let parts = parts(Algorithm::Es256, &[issuer(JwksSource::Url(url), &[Algorithm::EdDsa])]);
    let token = token(&key("k").0, "k");
    let started = std::time::Instant::now();
    assert_eq!(verdict(&parts, &token, 0).await.unwrap_err(), Rejection::Unavailable);
    assert!(started.elapsed() < Duration::from_millis(2900), "{:?}", started.elapsed());
    drop(listener);
}

#[tokio::test]
async fn removal_of_a_key_ends_what_it_vouched_for_and_nothing_else() {
    let ((a, a_jwk), (b, b_jwk)) = (key("a"), key("b"));
    let server = Server::start(&jwks(&[&a_jwk, &b_jwk])).await;
    let parts = server.parts();
    let epoch = || parts.issuers.list[0].keys(later(0)).unwrap().epoch();
    parts.issuers.refresh_once().await;
    let by_a = parts.verifier.verify(&token(&a, "a"), later(0)).unwrap();
    let by_b = parts.verifier.verify(&token(&b, "b"), later(0)).unwrap();
    server.serve(&jwks(&[&b_jwk, &a_jwk]));
    parts.issuers.refresh_once().await;
    let (_, c_jwk) = key("c");
    server.serve(&jwks(&[&a_jwk, &b_jwk, &c_jwk]));
    parts.issuers.refresh_once().await;
    assert_eq!(epoch(), 0, "another order or a new key removes nothing");
    server.serve(&jwks(&[&b_jwk]));
    parts.issuers.refresh_once().await;
    assert_eq!(epoch(), 1);
    assert_eq!(parts.verifier.recheck(&by_a, later(0)), Err(Rejection::KeyRemoved));
    assert_eq!(parts.verifier.recheck(&by_b, later(0)), Ok(()));
    // The same name for another key is another key.
    let (_, impostor) = key("b");
    server.serve(&jwks(&[&impostor]));
    parts.issuers.refresh_once().await;
    assert_eq!(parts.verifier.recheck(&by_b, later(0)), Err(Rejection::KeyRemoved));
}

#[tokio::test]
async fn a_file_is_read_again_when_it_changes() {
    let ((a, a_jwk), (b, b_jwk)) = (key("a"), key("b"));
    let file = tempfile::NamedTempFile::new().unwrap();
    let parts = parts(Algorithm::Es256, &[issuer(JwksSource::File(file.path().into()), &[Algorithm::EdDsa])]);
    let running = tokio::spawn(parts.issuers.clone().run());
    std::fs::write(file.path(), jwks(&[&a_jwk])).unwrap();
    let believed = async |token: &str| {
        for _ in 0..100 {
            if parts.verifier.verify(token, later(0)).is_ok() {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        false
    };
    assert!(believed(&token(&a, "a")).await);
    std::fs::write(file.path(), jwks(&[&b_jwk])).unwrap();
    assert!(believed(&token(&b, "b")).await);
    assert_eq!(parts.verifier.verify(&token(&a, "a"), later(0)).unwrap_err(), Rejection::UnknownKey);
    // A file that goes away is an outage, not a removal.
    drop(file);
    tokio::time::sleep(Duration::from_millis(1200)).await;
    parts.verifier.verify(&token(&b, "b"), later(0)).unwrap();
    running.abort();
}

#[test]
fn max_age_only_shortens_and_a_minute_is_the_least() {
    let minutes = |n: u64| Duration::from_secs(60 * n);
    assert_eq!(interval(minutes(10), None), minutes(10));
    assert_eq!(interval(minutes(10), Some(minutes(5))), minutes(5));
    assert_eq!(interval(minutes(10), Some(minutes(60))), minutes(10));
    assert_eq!(interval(minutes(10), Some(Duration::ZERO)), minutes(1));
    for _ in 0..100 {
        let wait = jittered(minutes(10));
        assert!(wait >= minutes(9) && wait <= minutes(11), "{wait:?}");
    }
}
