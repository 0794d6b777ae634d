//! The ways to a Redis: TLS, passwords, users, databases, sentinels. The suite itself runs on one server and on a cluster.

use std::path::PathBuf;
use std::sync::Arc;

use portcullis::store::redis::{Clock, Redis};
use portcullis::store::settings::{RedisSettings, Secret, Topology};
use portcullis::store::{Rotation, Sessions};
use tempfile::TempDir;

use crate::redis::{prefix, settings};
use crate::servers::{Server, cli, free_port, redis_on, redis_with, sentinel_of};
use crate::support::{Heard, MS, SECOND, family, policy, start, within};

/// A login, a refresh, a logout, and another gateway that hears of it.
async fn works(settings: &RedisSettings) {
    let settings = &RedisSettings { prefix: format!("{}:{}", settings.prefix, prefix()), ..settings.clone() };
    let (heard, other) = (Arc::new(Heard::default()), Arc::new(Heard::default()));
    let store = Redis::open(settings, heard.clone(), Clock::Server).unwrap();
    let _second = Redis::open(settings, other.clone(), Clock::Server).unwrap();
    tokio::time::timeout(5 * SECOND, store.caught_up()).await.expect("caught up");
    let family = family("u1", start());
    store.open(family.clone()).await.unwrap();
    let rotation = store.rotate("u1", family.id, 1, "192.0.2.1", policy(), start()).await.unwrap();
    assert_eq!(rotation, Rotation::Rotated { generation: 2 });
    assert!(store.end("u1", family.id, policy(), start()).await.unwrap());
    assert_eq!(heard.sessions().len(), 1);
    within(SECOND, "the logout on the other gateway", || other.sessions().len() == 1).await;
}

/// Why there is no connection, which must not tell the password.
async fn refused(settings: &RedisSettings) -> String {
    let store = Redis::open(settings, Arc::new(Heard::default()), Clock::Server).unwrap();
    let error = store.list("u1", start()).await.unwrap_err();
    let text = format!("{error} {error:?}");
    assert!(!text.contains("s3cret"), "{text}");
    tokio::time::timeout(200 * MS, store.caught_up()).await.expect_err("nothing can have been heard");
    error.cause
}

/// A certificate authority, and a certificate of it for this machine.
struct Authority(TempDir);

impl Authority {
    fn new() -> Self {
        use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
        // Two are compiled in; the command line chooses the same one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let mut authority = CertificateParams::new(vec![]).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let server = CertificateParams::new(vec!["127.0.0.1".to_owned()])
            .unwrap()
            .signed_by(&key, &authority)
            .unwrap();
        let write = |name: &str, text: String| std::fs::write(folder.path().join(name), text).unwrap();
        write("ca.pem", authority.pem());
        write("cert.pem", server.pem());
        write("key.pem", key.serialize_pem());
        Self(folder)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A server that speaks nothing but TLS.
    fn redis(&self, more: &[&str]) -> Server {
        let port = free_port();
        let port_text = port.to_string();
        let [cert, key, ca] =
            ["cert.pem", "key.pem", "ca.pem"].map(|name| self.file(name).display().to_string());
        let tls = ["--tls-port", &port_text, "--tls-cert-file", &cert, "--tls-key-file", &key];
        let more = [&tls[..], &["--tls-ca-cert-file", &ca, "--tls-auth-clients", "no"], more].concat();
        redis_with(port, &["--port", "0"], &more)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_with_an_authority_of_our_own() {
    let authority = Authority::new();
    let server = authority.redis(&[]);
    let tls =
        RedisSettings { tls: true, ca: Some(authority.file("ca.pem")), ..settings(server.port, &prefix()) };
    works(&tls).await;

    let stranger = Authority::new();
    let wrong = RedisSettings { ca: Some(stranger.file("ca.pem")), ..tls.clone() };
    let cause = refused(&wrong).await;
    assert!(cause.contains("certificate"), "{cause}");
    refused(&RedisSettings { ca: None, ..tls.clone() }).await;
    // A name the certificate does not have.
    let elsewhere = RedisSettings { servers: vec![("localhost".into(), server.port)], ..tls.clone() };
    let cause = refused(&elsewhere).await;
    assert!(cause.contains("certificate"), "{cause}");
    refused(&RedisSettings { tls: false, ..tls }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_a_user_and_a_database() {
    let server = redis_on(free_port(), &["--requirepass", "s3cret"]);
    let plain = settings(server.port, &prefix());
    let password = |text: &str| Some(Secret::new(text));
    works(&RedisSettings { password: password("s3cret"), ..plain.clone() }).await;
    works(&RedisSettings { password: password("s3cret"), database: 7, ..plain.clone() }).await;
    let asked =
        |command: &[&str]| cli(server.port, &[&["-a", "s3cret", "--no-auth-warning"], command].concat());
    assert!(asked(&["info", "keyspace"]).contains("db7:keys=2"), "{}", asked(&["info", "keyspace"]));

    // What an operator has to allow: nothing beyond the keys and these commands.
    let commands = "+eval +evalsha +hget +hset +hdel +hexists +hkeys +hgetall +hlen +del +get +set +pttl +pexpire +time \
                    +xadd +xdel +xrange +xrevrange +xtrim +select";
    let rule =
        [&["acl", "setuser", "gate", "on", ">s3cret2", "resetkeys", "~gate:*", "resetchannels", "-@all"][..]]
            .concat();
    let rule: Vec<&str> = rule.into_iter().chain(commands.split_whitespace()).collect();
    assert_eq!(asked(&rule), "OK");
    let user = RedisSettings {
        username: Some("gate".into()),
        password: password("s3cret2"),
        prefix: "gate".into(),
        ..plain.clone()
    };
    works(&user).await;
    let other_keys = RedisSettings { prefix: "other".into(), ..user.clone() };
    assert!(refused(&other_keys).await.contains("NOPERM"));

    assert!(refused(&plain).await.contains("NOAUTH"));
    refused(&RedisSettings { password: password("s3cret3"), ..plain.clone() }).await;
    refused(&RedisSettings { username: Some("nobody".into()), ..user }).await;
    refused(&RedisSettings { password: password("s3cret"), database: 99, ..plain }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_master_that_the_sentinels_name() {
    let master = redis_on(free_port(), &["--requirepass", "s3cret"]);
    let sentinel = sentinel_of(master.port, &["sentinel auth-pass sessions s3cret", "requirepass s3cret2"]);
    let gone = free_port();
    let by_sentinel = RedisSettings {
        topology: Topology::Sentinel { master: "sessions".into() },
        // One of them may be down.
        servers: vec![("127.0.0.1".into(), gone), ("127.0.0.1".into(), sentinel.port)],
        password: Some(Secret::new("s3cret")),
        sentinel_password: Some(Secret::new("s3cret2")),
        database: 3,
        ..settings(0, &prefix())
    };
    works(&by_sentinel).await;
    let another = Topology::Sentinel { master: "orders".into() };
    let cause = refused(&RedisSettings { topology: another, ..by_sentinel }).await;
    assert!(cause.to_lowercase().contains("master"), "{cause}");
}
