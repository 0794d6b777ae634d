//! What believing a token costs: cold (signature and claims) for each algorithm, and from the cache
//! (SHA-256, look-up, recheck), as on every further request with the same token.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use portcullis::clock::Timestamp;
use portcullis::config::{Algorithm, Tokens};
use portcullis::store::RevocationSink;
use portcullis::tokens::{
    AccessSubject, Issuers, Mint, Revocations, SigningKeys, TokenCache, TokenDigest, Verifier,
};
use uuid::Uuid;

fn tokens(algorithm: Algorithm) -> Tokens {
    Tokens {
        issuer: "https://gateway.example.com".into(),
        audience: "portcullis".into(),
        algorithm,
        access_ttl: Duration::from_secs(3600),
        refresh_ttl: Duration::from_secs(86_400),
        refresh_idle_ttl: Duration::from_secs(86_400),
        refresh_grace: Duration::from_secs(10),
        leeway: Duration::from_secs(30),
        cache_bytes: 16 << 20,
    }
}

fn verify(criterion: &mut Criterion) {
    let now = Timestamp::now();
    for algorithm in Algorithm::OWN {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let config = tokens(algorithm);
        let keys = SigningKeys::open(folder.path(), &config, now).expect("keys");
        let mint = Arc::new(Mint::new(keys, &config));
        let revocations = Arc::new(Revocations::new());
        let issuers = Arc::new(Issuers::new(&[]).expect("no issuers"));
        let verifier = Verifier::new(&config, mint.clone(), issuers, revocations.clone());
        let (roles, scopes) = (["admin".to_owned(), "editor".to_owned()], ["orders:read".to_owned()]);
        let session = Uuid::now_v7();
        let subject = AccessSubject {
            user: "01890a5d-ac96-774b-bcce-b302099a8057",
            email: "ada@example.com",
            roles: &roles,
            scopes: &scopes,
            session,
        };
        let token = mint.access_token(&subject, now).expect("a token").token;

        criterion.bench_function(&format!("mint/{}", algorithm.name()), |bencher| {
            bencher.iter(|| mint.access_token(black_box(&subject), now));
        });
        criterion.bench_function(&format!("verify_cold/{}", algorithm.name()), |bencher| {
            bencher.iter(|| verifier.verify(black_box(&token), now));
        });

        if algorithm != Algorithm::Es256 {
            continue;
        }
        let cache = TokenCache::new(config.cache_bytes);
        let claims = Arc::new(verifier.verify(&token, now).expect("a good token"));
        cache.insert(TokenDigest::of(&token), claims.clone(), claims.weight());
        let cached = || {
            let claims = cache.get(&TokenDigest::of(black_box(&token)));
            claims.is_some_and(|claims| verifier.recheck(&claims, now).is_ok())
        };
        assert!(cached());
        criterion.bench_function("verify_cached", |bencher| bencher.iter(cached));
        for _ in 0..1_000_000 {
            revocations.session("u1", Uuid::new_v4(), now.plus(Duration::from_secs(3600)));
        }
        criterion.bench_function("verify_cached/1000000_sessions_revoked", |bencher| bencher.iter(cached));
        criterion.bench_function("recheck", |bencher| bencher.iter(|| verifier.recheck(&claims, now)));
    }
}

criterion_group!(benches, verify);
criterion_main!(benches);
